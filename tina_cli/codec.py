"""PARAMETER SPACE: classifier heads <-> normalised row tokens, one a class.

A row scores centred unit features. What matters of it is its direction, and how its scores spread over pictures of all
kinds: a class whose scores spread more than the others' takes pictures from them. So rows of every origin (a network's own
classifier, rows fitted on pictures, rows predicted from words) are brought to one spread. On classes and tasks kept out of
the fit that is worth 3 points at 20 classes against rows of unit length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Spread:
    """How scores spread over pictures: a row r has the variance |basis r|^2 + floor |r|^2. `basis [k, D]`."""

    basis: Tensor
    floor: float

    def standardise(self, rows: Tensor) -> Tensor:
        """Return rows [..., D] scaled to unit spread."""
        unit = normalize(rows, dim=-1)
        return unit / ((unit @ self.basis.T).square().sum(-1, keepdim=True) + self.floor).sqrt()


def fit_spread(features: Tensor, weights: Tensor, rows: Tensor, rank: int = 64) -> Spread:
    """Fit the spread to centred features [N, D] with weights [N], so that `rows` [C, D] keep unit length on average.

    The covariance keeps its `rank` largest directions and is shrunk half-way to a multiple of the identity.
    """
    share = (weights / weights.sum()).double()
    x = features.double()
    values, vectors = torch.linalg.eigh((x * share[:, None]).T @ x)
    rank = min(rank, len(values) - 1)
    rest = values[:-rank].mean()
    basis = (vectors[:, -rank:] * (values[-rank:] - rest).clamp_min(0).sqrt()).T
    floor = rest + values.mean()
    raw = Spread(basis.float(), float(floor))
    unit = float(raw.standardise(rows).norm(dim=-1).mean())
    return Spread(raw.basis * unit, raw.floor * unit**2)


def encode_rows(rows: Tensor) -> Tensor:
    """Return the tokens of rows [..., D]: about unit variance per coordinate, what the diffusion's noise is measured by."""
    return rows * rows.shape[-1] ** 0.5


def decode_rows(tokens: Tensor) -> Tensor:
    """Return the rows of tokens [..., D]."""
    return tokens * tokens.shape[-1] ** -0.5


def head_parameters(rows: Tensor, feature_mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight [K, D] and bias [K] that score a unit feature f by <row, f - feature_mean>."""
    bias = -(rows.double() * feature_mean.double()).sum(-1)  # row by row: the same in whatever company
    return rows.contiguous(), bias.float()
