"""The only source of randomness: generators named by what they are for."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive(seed: int, *purpose: object) -> int:
    """Derive a 63-bit seed from a seed and what it is for, the same in every process."""
    digest = hashlib.sha256("\x1f".join([str(seed), *map(str, purpose)]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def torch_rng(seed: int, *purpose: object) -> torch.Generator:
    """Return a CPU generator for one purpose: `torch_rng(0, "noise", "cat")`."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def numpy_rng(seed: int, *purpose: object) -> np.random.Generator:
    """Return a NumPy generator for one purpose."""
    return np.random.default_rng(derive(seed, *purpose))
