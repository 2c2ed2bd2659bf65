"""PICTURES of the study in memory, in three parts that never mix: p-Models are fitted on FIT, what is learned about
p-Models is chosen on TUNE, and TEST pictures are only ever looked at for the tables.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from tina_cli.config import Preprocess
from tina_cli.device import knows_bfloat16
from tina_cli.images import batches
from tina_cli.rng import torch_rng
from tina_cli.zoo.store import FIT, TEST, TUNE, Tick, listing, named, sharded

SIDE = 32
WORKERS = 2
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Bank:
    """Inputs by part and class: `parts[part][c]` is [n, 3, s, s] bytes, or [n, D] features in half precision."""

    names: list[str]
    parts: list[list[Tensor]]
    device: torch.device = CPU  # where networks see them

    @cached_property
    def _pools(self) -> list[tuple[Tensor, list[int]]]:
        """Return each part's inputs in one tensor, and where its classes begin; pictures once more, mirrored, at the end."""
        out = []
        for own in self.parts:
            pool = torch.cat(own)
            out.append((torch.cat([pool, pool.flip(-1)]) if pool.ndim == 4 else pool, [0, *accumulate(map(len, own))]))
        return out

    def draw(self, tasks: Sequence[Sequence[int]], count: int, part: int, *purpose: object, most: int | None = None) -> Tensor:
        """Return inputs [T, K count, ...], drawn with replacement from each class's first `most` of a part, classes in order.

        Pictures are mirrored at random, and come in the precision that networks are fitted in.
        """
        pool, begins = self._pools[part]
        classes = torch.tensor(tasks)
        starts = torch.tensor(begins)
        have = (starts[1:] - starts[:-1]).clamp_max(most or 2**40)[classes]  # (T, K)
        rng = torch_rng(0, "draw", *purpose)
        places = torch.rand(*classes.shape, count, generator=rng) * have[..., None]
        places = places.long().minimum(have[..., None] - 1) + starts[classes][..., None]
        if pool.ndim == 4:
            places = places + begins[-1] * (torch.rand(places.shape, generator=rng) < 0.5)
        chosen = pool[places.flatten(1)]
        return scaled(chosen.to(self.device), torch.bfloat16 if knows_bfloat16(self.device) else torch.float32)

    def whole(self, task: Sequence[int], part: int) -> tuple[Tensor, Tensor]:
        """Return all inputs [n, ...] of a task's classes in a part, and their labels [n]."""
        own = [self.parts[part][c] for c in task]
        return scaled(torch.cat(own).to(self.device), torch.float32), torch.arange(len(task)).repeat_interleave(
            torch.tensor(list(map(len, own)))
        )

    def only(self, classes: Sequence[int]) -> Bank:
        """Return the bank of some classes alone, in this order."""
        return Bank([self.names[c] for c in classes], [[part[c] for c in classes] for part in self.parts], self.device)


def scaled(raw: Tensor, precision: torch.dtype) -> Tensor:
    """Return what a network sees: bytes as values from -1 to 1 in some precision, features as they are."""
    return raw.to(precision) / 127.5 - 1 if raw.dtype == torch.uint8 else raw.float()


def split_bank(
    train: Mapping[str, Tensor], test: Mapping[str, Tensor], tune_share: float, seed: int, device: torch.device = CPU
) -> Bank:
    """Return the bank of inputs by class name; the last `tune_share` of a shuffled class is for TUNE."""
    parts: list[list[Tensor]] = [[], [], []]
    for name, own in train.items():
        own = own[torch.randperm(len(own), generator=torch_rng(seed, "split", name))]
        keep = len(own) - max(1, int(len(own) * tune_share))
        parts[FIT].append(own[:keep])
        parts[TUNE].append(own[keep:])
        parts[TEST].append(test[name])
    return Bank(list(train), parts, device)


def read_pictures(classes: Mapping[str, Sequence[Path]], folder: Path, name: str, most: int, tick: Tick) -> dict[str, Tensor]:
    """Return the pictures of each class as bytes [n, 3, 32, 32], read once and kept in `folder`; raises `ImageError`."""
    paths, labels = listing({label: own[:most] for label, own in classes.items()})
    how = Preprocess(size=SIDE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def make() -> dict[str, Tensor]:
        out = []
        for some in batches(paths, how, 256, workers=WORKERS):
            out.append((some * 255).round().to(torch.uint8))
            tick(len(some))
        return {"pictures": torch.cat(out)}

    pictures = sharded(folder, name, [SIDE, named(paths)], make)["pictures"]
    places = torch.tensor(labels)
    return {label: pictures[places == number] for number, label in enumerate(classes)}
