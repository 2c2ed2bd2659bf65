"""PARAMETER SPACE: classifier heads <-> normalised row tokens, one a class.

A head's row is a direction: rows are kept as unit vectors over centred features, so that rows of every origin (a
network's own classifier, rows fitted on pictures, generated rows) share one scale. A token is the row with unit variance
per coordinate, which is what the diffusion's noise is measured against.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize


def encode_rows(rows: Tensor) -> Tensor:
    """Return the tokens of rows [..., D]: unit length times sqrt(D)."""
    return normalize(rows, dim=-1) * rows.shape[-1] ** 0.5


def decode_rows(tokens: Tensor) -> Tensor:
    """Return the unit rows of tokens [..., D]."""
    return normalize(tokens, dim=-1)


def head_parameters(rows: Tensor, feature_mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight [K, D] and bias [K] that score a unit feature f by <row, f - feature_mean>."""
    return rows.contiguous(), -(rows @ feature_mean)
