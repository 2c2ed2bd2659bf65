"""DENOISER: a diffusion transformer over the set of a task's classes.

A token is a class. There are no positions: permuting the classes permutes the rows, and any number of classes will do.
Each class brings its condition (a CLIP vector), what kind of evidence that is, and its anchor: the row that ridge
regression or the mean of its pictures would give. The network predicts the clean row as the anchor and a correction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, scaled_dot_product_attention, silu

EVIDENCE = 2  # how far the words are from all that is known; how many pictures there are
PART = 256  # columns: no longer sum is left to the BLAS


@dataclass(frozen=True)
class Guidance:
    """What the denoiser is told of each class: `condition [B, K, d]`, `evidence [B, K, 2]`, `anchor [B, K, D]` tokens."""

    condition: Tensor
    evidence: Tensor
    anchor: Tensor


def steady_product(x: Tensor, y: Tensor) -> Tensor:
    """Return x [..., n, k] times y [..., k, m], long sums added in parts, in a fixed order.

    A BLAS may split a long sum among threads where there are few rows, and not where there are many: a class's row would then
    hang on its company, in the last bits.
    """
    first, *rest = (one @ other for one, other in zip(x.split(PART, -1), y.split(PART, -2), strict=True))
    return sum(rest, first)


class SteadyLinear(nn.Linear):
    """A linear layer by `steady_product`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x [..., n] times the weight, plus the bias, [..., m]."""
        return steady_product(x, self.weight.T) + self.bias


class Block(nn.Module):
    """A transformer block whose normalisations are modulated by the time (adaLN-single, Chen et al. 2023, PixArt)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), SteadyLinear(4 * width, width))
        self.modulation = nn.Parameter(torch.zeros(6, width))

    def forward(self, x: Tensor, time: Tensor, mask: Tensor) -> Tensor:
        """Return tokens [B, K, W] for tokens x [B, K, W], modulation time [B, 6, W] and mask [B, K]."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = (time + self.modulation).unsqueeze(2).unbind(1)
        h = self.norm_1(x) * (1 + scale_1) + shift_1  # (B, K, W)
        q, k, v = self.qkv(h).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, H, K, W/H) each
        h = scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = x + gate_1 * self.out(h.transpose(1, 2).flatten(2))
        return x + gate_2 * self.mlp(self.norm_2(x) * (1 + scale_2) + shift_2)


class Denoiser(nn.Module):
    """Noisy row tokens, guidance and time -> clean row tokens (x_0).

    The prediction is the anchor, scaled, plus an attention over the anchors of the task's other classes: what sets a class
    apart from its neighbours can be said with their rows, whatever the classes are. A free correction, learned per
    coordinate, remembers the training's classes and harms those it has not seen (5 points at five classes).
    """

    def __init__(self, row_dim: int, condition_dim: int, width: int = 256, layers: int = 3, heads: int = 4) -> None:
        super().__init__()
        self.from_row = SteadyLinear(row_dim, width)
        self.from_anchor = SteadyLinear(row_dim, width)
        self.from_condition = SteadyLinear(condition_dim + EVIDENCE, width)
        self.time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.query_key = nn.Linear(width, 2 * width)
        self.likeness = nn.Parameter(torch.full((heads,), 4.0))
        self.gates = nn.Linear(width, heads + 1)
        self.heads = heads
        nn.init.zeros_(self.gates.weight)  # at the start the prediction is the anchor
        nn.init.zeros_(self.gates.bias)

    def forward(self, x_t: Tensor, t: Tensor, guidance: Guidance, mask: Tensor) -> Tensor:
        """Return x_0 [B, K, D] for x_t [B, K, D], t [B] or [1] in [0, 1] and a mask [B, K], True where there is a class."""
        return self.rows(self.tokens(x_t, t, guidance, mask), guidance, mask)

    def tokens(self, x_t: Tensor, t: Tensor, guidance: Guidance, mask: Tensor) -> Tensor:
        """Return what the transformer makes of each class, [B, K, W]."""
        told = torch.cat([guidance.condition * guidance.condition.shape[-1] ** 0.5, guidance.evidence], dim=-1)
        x = self.from_row(x_t) + self.from_anchor(guidance.anchor) + self.from_condition(told)  # (B, K, W)
        time = self.modulation(silu(self.time(time_features(t)))).unflatten(-1, (6, -1))  # (B, 6, W)
        for block in self.blocks:
            x = block(x, time, mask)
        return self.norm(x)

    def rows(self, x: Tensor, guidance: Guidance, mask: Tensor) -> Tensor:
        """Return the row tokens x_0 [B, K, D] for the transformer's own [B, K, W]."""
        anchor = guidance.anchor
        # Contiguous: where a task lies in a batch must not choose the path through the BLAS, which changes the last bits.
        q, k = self.query_key(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).contiguous()  # (B, H, K, W/H) each
        unit = normalize(anchor, dim=-1)
        logits = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5  # (B, H, K, K)
        logits = logits + self.likeness[:, None, None] * steady_product(unit, unit.transpose(1, 2))[:, None]
        itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
        weights = logits.masked_fill(itself | ~mask[:, None, None, :], -1e4).softmax(-1)  # the other classes only
        scale, *gates = torch.tanh(self.gates(x)).unbind(-1)  # (B, K) each
        mixing = (torch.stack(gates, 1)[..., None] * weights).sum(1)  # (B, K, K)
        return anchor * (1 + scale[..., None]) + steady_product(mixing, anchor)


def time_features(t: Tensor, width: int = 64) -> Tensor:
    """Return sines and cosines of a time in [0, 1], [B] -> [B, width]."""
    frequencies = torch.exp(torch.linspace(0.0, math.log(1000.0), width // 2, device=t.device))
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
