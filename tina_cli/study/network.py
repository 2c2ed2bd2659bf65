"""NETWORKS that make networks: a set-equivariant denoiser of bodies and rows, and a hypernetwork of one pass.

Both are told each class's condition and anchor, standardised, and return what a p-Model differs by from its anchors, in
units of how far the zoo's p-Models do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad, silu

from tina_cli.denoiser import Block, time_features
from tina_cli.diffusion import alpha_bar

SWIFT = 10.0  # times the rate of the other weights is that of trained anchors
CHUNK = 576  # numbers of the body in a token, as in the paper's own network


@dataclass(frozen=True)
class State:
    """Bodies' codes [B, C] and rows [B, K, R]: anchors, or deviations from them, clean or noisy."""

    body: Tensor
    rows: Tensor

    def to(self, device: torch.device) -> State:
        """Return the state on a device."""
        return State(self.body.to(device), self.rows.to(device))

    def flat(self) -> Tensor:
        """Return both as one tensor [B, C + K R], which samplers work on."""
        return torch.cat([self.body, self.rows.flatten(1)], dim=1)

    @classmethod
    def of(cls, flat: Tensor, body: int, row: int) -> State:
        """Return the state of a flat tensor."""
        return cls(flat[:, :body], flat[:, body:].unflatten(1, (-1, row)))


class NetDenoiser(nn.Module):
    """Noisy state, conditions, anchors and time -> clean state. Rows are a set; the body's tokens have positions."""

    def __init__(self, body: int, row: int, condition: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.body, self.chunks = body, -(-body // CHUNK)
        self.from_row = nn.Linear(row, width)
        self.from_anchor = nn.Linear(row, width)
        self.from_condition = nn.Linear(condition, width)
        self.from_chunk = nn.Parameter(torch.randn(self.chunks, CHUNK, width) * CHUNK**-0.5)
        self.position = nn.Parameter(torch.randn(self.chunks, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        # At the start every gate is open, at any time: gates drawn at random grew in training until all tokens were alike.
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        self.register_buffer("gates", torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0, 1.0])[:, None], persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.to_row = nn.Linear(width, row)
        self.to_chunk = nn.Parameter(torch.zeros(self.chunks, width, CHUNK))
        nn.init.zeros_(self.to_row.weight)  # at the start the prediction is the anchor
        nn.init.zeros_(self.to_row.bias)

    def forward(self, x: State, t: Tensor, condition: Tensor, anchor: Tensor) -> State:
        """Return the clean state for times t [B] in [0, 1], condition [B, K, d] and anchor [B, K, R], standardised."""
        classes = x.rows.shape[1]
        signal = alpha_bar(t).sqrt()[:, None]  # times x is the best linear guess of the clean state: of noise alone, nothing
        told = self.from_condition(condition)
        tokens = self.from_row(x.rows * signal[..., None]) + self.from_anchor(anchor) + told  # (B, K, W)
        chunks = pad(x.body * signal, (0, self.chunks * CHUNK - self.body)).unflatten(1, (self.chunks, CHUNK))
        shared = torch.einsum("bcs,csw->bcw", chunks, self.from_chunk) + self.position  # (B, C, W)
        tokens = torch.cat([tokens, shared], dim=1)  # (B, K + C, W)
        time = self.modulation(silu(self.time(time_features(t)))).unflatten(-1, (6, -1)) + self.gates
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        for block in self.blocks:
            tokens = block(tokens, time, mask)
        tokens = self.norm(tokens)
        body = torch.einsum("bcw,cws->bcs", tokens[:, classes:], self.to_chunk).flatten(1)[:, : self.body]
        return State(body, self.to_row(tokens[:, :classes]))


class Hypernetwork(nn.Module):
    """Conditions and anchors -> clean state in one pass, equivariant: each class sees itself and the mean of all.

    Source: Amosy et al. 2022, Text2Model, equivariant layers after Zaheer et al. 2017, Deep Sets, equation 4.
    """

    def __init__(self, body: int, row: int, condition: int, width: int, layers: int) -> None:
        super().__init__()
        self.embed = nn.Linear(condition + row, width)
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.all = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.to_row = nn.Linear(width, row)
        self.to_body = nn.Parameter(torch.zeros(width, body))
        nn.init.zeros_(self.to_row.weight)
        nn.init.zeros_(self.to_row.bias)

    def forward(self, x: State, t: Tensor, condition: Tensor, anchor: Tensor) -> State:
        """Return the clean state; neither x nor t matters."""
        h = gelu(self.embed(torch.cat([condition, anchor], dim=-1)))  # (B, K, W)
        for own, everyone, norm in zip(self.own, self.all, self.norms, strict=True):
            h = h + gelu(own(norm(h)) + everyone(norm(h).mean(1, keepdim=True)))
        return State(h.mean(1) @ self.to_body, self.to_row(h))


class Anchored(nn.Module):
    """A network of deviations and, trained along with it or nothing, by how much the anchors themselves are to be others.

    What does all tasks good (a body that is better for every class, rows that are) and what each class adds to the body are
    learned here as fast as any network of all classes learns; the deviations have only to tell tasks apart.
    """

    body: Tensor  # [P]
    rows: Tensor  # [N, R]
    effects: Tensor  # [N, C]

    def __init__(self, deviations: nn.Module, body: int, code: int, classes: int, row: int, size: int, trained: bool) -> None:
        super().__init__()
        self.deviations = deviations
        self.size = size  # the zoo's tasks' number of classes: what a class adds to a body is its share of it
        for name, shape in (("body", (body,)), ("rows", (classes, row)), ("effects", (classes, code))):
            if trained:
                self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
            else:
                self.register_buffer(name, torch.zeros(shape), persistent=False)

    def forward(self, x: State, t: Tensor, condition: Tensor, anchor: Tensor) -> State:
        """Return the clean state."""
        out: State = self.deviations(x, t, condition, anchor)
        return out

    @property
    def common(self) -> Tensor:
        """Return by how much every body [P] is to be another."""
        return SWIFT * self.body

    def shift(self, shares: Tensor) -> State:
        """Return by how much anchors are to be others, by classes' shares [B, K, N]."""
        own = self.effects - self.effects.mean(0)  # what classes have in common is the common body's
        return State(SWIFT * self.size * shares.mean(1) @ own, SWIFT * shares @ self.rows)


@torch.no_grad()
def initialise(network: nn.Module, rng: torch.Generator, std: float | None = None) -> None:
    """Draw a network's weights anew, with 1 / fan-in as their variance unless `std` is given; what is zero stays zero.

    From a generator of its own: trainings side by side share torch's.
    """
    for parameter in network.parameters():
        if parameter.ndim > 1 and parameter.any():
            parameter.normal_(0, std or parameter.shape[1] ** -0.5, generator=rng)
        elif parameter.ndim == 1 and not (parameter == 1).all():
            parameter.zero_()
