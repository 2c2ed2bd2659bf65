"""KNOWN WORDS: the conditions of names that need no text tower: a table, by sense or by name.

A small text tower reads any wording, each a little wrongly; the vectors that it was taught of the commonest nouns are kept
beside it, rounded. They are found without loading a CLIP.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.files import write_atomic

FILE = "words.safetensors"
REMEMBERED = 8192  # vectors: 16 MB


class Words:
    """A table of unit conditions [d] by concept key, in steps of a 127th of each vector's largest distance from the mean."""

    def __init__(self, path: Path | None) -> None:
        self.path = path  # where there is none, the table is empty
        self._remembered = lru_cache(maxsize=REMEMBERED)(self._compute)

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        if self.path is None or not self.path.is_file():
            return {"keys": torch.zeros(0, dtype=torch.uint8)}
        with safe_open(self.path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118

    @cached_property
    def _places(self) -> dict[str, int]:
        text = bytes(self._tensors["keys"].numpy()).decode()
        return {key: i for i, key in enumerate(filter(None, text.split("\n")))}

    def __len__(self) -> int:
        return len(self._places)

    @cached_property
    def keys(self) -> frozenset[str]:
        """Return the keys that the table has."""
        return frozenset(self._places)

    def get(self, key: str) -> Tensor | None:
        """Return the condition [d] of a concept's key; None where the table has none."""
        place = self._places.get(key)
        return None if place is None else self._remembered(place)

    def _compute(self, place: int) -> Tensor:
        t = self._tensors
        return normalize(t["mean"] + t["steps"][place].float() * t["scales"][place], dim=-1)

    def get_or(self, key: str, read: Callable[[], Tensor]) -> Tensor:
        """Return the condition [d] of a concept's key, or else what `read` makes of it."""
        known = self.get(key)
        return read() if known is None else known


def write_words(path: Path, vectors: Mapping[str, Tensor], mean: Tensor) -> None:
    """Write a table of unit vectors [d] by key, rounded around their mean [d]."""
    off = torch.stack(list(vectors.values())) - mean
    scales = off.abs().amax(-1, keepdim=True) / 127
    tensors = {
        "keys": torch.frombuffer(bytearray("\n".join(vectors).encode()), dtype=torch.uint8),
        "mean": mean.float(),
        "scales": scales.float(),
        "steps": (off / scales).round().to(torch.int8),
    }
    write_atomic(path, save({name: value.contiguous() for name, value in tensors.items()}))
