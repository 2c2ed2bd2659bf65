"""CONDITION CACHE: sentences about a class -> its condition, computed once on a machine.

An entry is named by all that its numbers follow from, so that it never goes stale; known words need no CLIP, and no
import of open_clip, which takes longer than all the rest of a prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tina_cli.clip import Clip, text_condition
from tina_cli.errors import OutputError
from tina_cli.files import canonical_json, write_atomic

DIGEST_SIZE = hashlib.sha256().digest_size
REMEMBERED = 8192  # conditions in memory: 16 MB


@dataclass(frozen=True)
class Conditions:
    """Text conditions of one CLIP, kept in memory and, where there is a folder, in files that processes share."""

    clip: Callable[[], Clip]  # loads it when it is first needed
    source: str | None  # what the CLIP is, to the byte; None where it is not known
    folder: Path | None
    _memo: dict[tuple[str, ...], Tensor] = field(default_factory=dict)

    def of(self, texts: Sequence[str]) -> Tensor:
        """Return the condition that some sentences about one class make, [d]; raises `GeneratorError`."""
        key = tuple(texts)
        if key not in self._memo:
            path = self._path(key)
            found = None if path is None else read_entry(path)
            if found is None:
                found = text_condition(self.clip(), key)
                if path is not None:
                    write_entry(path, found)
            if len(self._memo) >= REMEMBERED:
                del self._memo[next(iter(self._memo))]
            self._memo[key] = found
        return self._memo[key]

    def _path(self, texts: tuple[str, ...]) -> Path | None:
        if self.folder is None or self.source is None:
            return None
        versions = [torch.__version__, version("open_clip_torch")]
        name = hashlib.sha256(canonical_json([self.source, versions, texts]).encode()).hexdigest()
        return self.folder / name[:2] / name


def read_entry(path: Path) -> Tensor | None:
    """Return a vector that was kept; None where there is none, or where it is damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, numbers = data[:DIGEST_SIZE], data[DIGEST_SIZE:]
    if hashlib.sha256(numbers).digest() != digest:
        return None
    return torch.from_numpy(np.frombuffer(numbers, dtype="<f4").astype(np.float32))


def write_entry(path: Path, vector: Tensor) -> None:
    """Keep a vector; where the folder cannot be written to, work goes on without."""
    numbers = vector.numpy().astype("<f4").tobytes()
    with suppress(OSError, OutputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, hashlib.sha256(numbers).digest() + numbers)
