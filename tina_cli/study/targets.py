"""TARGETS: the networks that are personalised: a body that all classes share, and a row for each class.

A p-Model is `body [P]`, the flat weights of the convolutions, and `rows [K, D + 1]`, each a class's weights and its bias.
A head on a frozen trunk is a target whose body is empty and whose inputs are the trunk's features.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

import torch
from torch import Tensor
from torch.nn.functional import conv2d, relu

from tina_cli.rng import torch_rng

KERNEL = 3


@dataclass(frozen=True)
class Target:
    """A network's shape: the channels of its convolutions (none: a head), the first of stride 2, and its features' width."""

    name: str
    channels: tuple[int, ...]
    dim: int

    @property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        """Return the shapes of the convolutions' weights."""
        return [(wide, narrow, KERNEL, KERNEL) for narrow, wide in pairwise(self.channels)]

    @property
    def sizes(self) -> list[int]:
        """Return how many weights each convolution has."""
        return [prod(shape) for shape in self.shapes]

    @property
    def body_dim(self) -> int:
        """Return how many weights the body has."""
        return sum(self.sizes)

    @property
    def row_dim(self) -> int:
        """Return the width of a row: a weight for each feature, and a bias."""
        return self.dim + 1

    def parameters(self, classes: int) -> int:
        """Return how many parameters a p-Model for so many classes has."""
        return self.body_dim + classes * self.row_dim


TARGETS = {
    target.name: target
    for target in (
        Target("cnn-5k", (3, 16, 32), 32),
        Target("cnn-15k", (3, 16, 32, 32), 32),
        Target("cnn-33k", (3, 16, 32, 32, 64), 64),
        Target("cnn-76k", (3, 64, 64, 64), 64),
        Target("resnet20-head", (), 64),
        Target("clip-head", (), 1280),
    )
}


def initial(target: Target, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return an untrained network: body [P] by He et al. 2015 (Delving Deep into Rectifiers, equation 10), rows of zeros."""
    rng = torch_rng(seed, "initial", target.name)
    parts = [torch.randn(prod(shape), generator=rng) * (2 / prod(shape[1:])) ** 0.5 for shape in target.shapes]
    return torch.cat([torch.zeros(0), *parts]), torch.zeros(classes, target.row_dim)


def features(target: Target, body: Tensor, inputs: Tensor) -> Tensor:
    """Return the features [n, D] of inputs [n, 3, s, s] by one body; a head's inputs [n, D] are features."""
    if not target.channels:
        return inputs
    x = inputs.contiguous(memory_format=torch.channels_last)  # a fourth faster than channels first (forward and backward)
    for number, (weight, shape) in enumerate(zip(body.split(target.sizes), target.shapes, strict=True)):
        kernel = weight.view(shape).to(x.dtype, memory_format=torch.channels_last)
        x = relu(conv2d(x, kernel, stride=1 if number else 2, padding=1))
    places = x.permute(0, 2, 3, 1).flatten(1, 2)  # (n, positions, D)
    # Their mean as a product: a fifth faster than `mean`, whose gradient is a view that relu's goes through slowly.
    return (places.new_full((1, places.shape[1]), 1 / places.shape[1]) @ places).squeeze(1)


def forward(target: Target, body: Tensor, rows: Tensor, inputs: Tensor) -> Tensor:
    """Return the logits [n, K] of one p-Model for inputs [n, 3, s, s] or [n, D]."""
    return torch.addmm(rows[:, -1], features(target, body, inputs).to(rows.dtype), rows[:, :-1].T)


def forward_heads(rows: Tensor, features: Tensor) -> Tensor:
    """Return the logits [T, n, K] of T heads, rows [T, K, D + 1], each for its own features [T, n, D]."""
    return torch.baddbmm(rows[:, :, -1].unsqueeze(1), features.to(rows.dtype), rows[:, :, :-1].transpose(1, 2))


def forward_many(target: Target, bodies: Tensor, rows: Tensor, inputs: Tensor) -> Tensor:
    """Return the logits [T, n, K] of T p-Models, bodies [T, P] and rows [T, K, D + 1], each for its own inputs [T, n, ...].

    One after the other: on a CPU one convolution with groups of tasks takes 1.3 to 3 times as long, and patches with batched
    products 5 times (measured forward and backward, 8 and 32 tasks of 64 pictures).
    """
    if not target.channels:
        return forward_heads(rows, inputs)
    return torch.stack([forward(target, *one) for one in zip(bodies, rows, inputs, strict=True)])
