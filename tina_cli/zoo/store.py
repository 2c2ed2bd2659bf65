"""The stores of the zoo: features of pictures and fine-tuned heads, in shards that survive an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from tina_cli.backbone import Backbone
from tina_cli.files import canonical_json, digest, write_atomic
from tina_cli.rng import torch_rng

Tick = Callable[[int], None]
Shard = dict[str, Tensor]
Workers = Callable[[Callable[..., Shard], object, Sequence[tuple[Any, ...]]], Iterator[Shard]]
FIT, TUNE, TEST = PARTS = 0, 1, 2
OF_MEMBER = 32  # places that a kind takes of each of its members


def sharded(folder: Path, name: str, key: object, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors of a shard, made and stored if it is not there; its file's name hashes what it is made from."""
    [found] = sharded_many(folder, [(name, key, ())], lambda _: make(), None)
    return found


def in_turn(function: Callable[..., Shard], shared: object, items: Sequence[tuple[Any, ...]]) -> Iterator[Shard]:
    """Yield `function(shared, *item)` for each item, in this process: the simplest workers."""
    return (function(shared, *item) for item in items)


def sharded_many(
    folder: Path,
    jobs: Sequence[tuple[str, object, tuple[Any, ...]]],
    function: Callable[..., Shard],
    shared: object,
    workers: Workers = in_turn,
    tick: Tick = lambda _: None,
) -> list[Shard]:
    """Return the shards of jobs (name, key, item), those that are not there made by `function(shared, *item)` and stored.

    `workers` say where it is done; `tick` is called with a job's number when its shard is there.
    """
    paths = [folder / f"{name}-{digest(key)}.safetensors" for name, key, _ in jobs]
    missing = [number for number, path in enumerate(paths) if not path.exists()]
    for number in set(range(len(paths))) - set(missing):
        tick(number)
    made = workers(function, shared, [jobs[number][2] for number in missing])
    for number, tensors in zip(missing, made, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(paths[number], save(tensors))
        tick(number)
    return [load_file(path) for path in paths]


def listing(classes: Mapping[str, Sequence[Path]]) -> tuple[list[Path], list[int]]:
    """Return a set's pictures in order, and the number of the class of each."""
    listed = [(path, label) for label, paths in enumerate(classes.values()) for path in paths]
    return [path for path, _ in listed], [label for _, label in listed]


def named(paths: Sequence[Path]) -> list[list[object]]:
    """Return what a shard made of pictures is named by: their folders, names and sizes."""
    return [[path.parent.name, path.name, path.stat().st_size] for path in paths]


def extract(
    sets: Mapping[str, Mapping[str, Sequence[Path]]],
    backbone: Backbone,
    folder: Path,
    shard: int,
    batch: int,
    tick: Tick,
    workers: Workers = in_turn,
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return for each set the unit features [n, D] and class numbers [n] of its pictures, shard by shard.

    `tick` is called with the number of pictures done. Raises `ImageError` for a picture that cannot be read.
    """
    listings = {name: listing(classes) for name, classes in sets.items()}
    jobs = [
        (name, [backbone.spec.sha256, asdict(backbone.spec.preprocess), str(backbone.dtype), named(part)], (part, batch))
        for name, (paths, _) in listings.items()
        for part in (paths[start : start + shard] for start in range(0, len(paths), shard))
    ]
    found = sharded_many(folder, jobs, read_features, backbone, workers, lambda number: tick(len(jobs[number][2][0])))
    out = {}
    for name, (_, labels) in listings.items():
        own = [made["features"] for (of, *_), made in zip(jobs, found, strict=True) if of == name]
        out[name] = (torch.cat(own), torch.tensor(labels))
    return out


def read_features(backbone: Backbone, paths: Sequence[Path], batch: int) -> Shard:
    """Return a shard of features, in half precision."""
    return {"features": backbone.read(paths, batch).half()}


@dataclass(frozen=True)
class FeatureBank:
    """All features of all sets: `features [N, D]` half precision, `concept [N]`, `part [N]`, `origin [N]` (the set).

    Rows are fitted on the pictures of part FIT; what is learned about rows sees them work on those of TUNE, which no row
    was fitted on; nothing is fitted on those of TEST. Kinds have the pictures of their `members`.
    """

    features: Tensor
    concept: Tensor
    part: Tensor
    origin: Tensor
    members: Mapping[int, tuple[int, ...]] = field(default_factory=dict)

    def rows_of(self, concept: int, part: int) -> Tensor:
        """Return the places of a concept's pictures of one part; of a kind's, equally many of each member, some repeatedly."""
        start, count = self.span(concept, part)
        return self.listed[start : start + count]

    def span(self, concept: int, part: int) -> tuple[int, int]:
        """Return where in `listed` a concept's places of one part begin, and how many they are."""
        return self._spans.get((concept, part), (0, 0))

    @cached_property
    def listed(self) -> Tensor:
        """Return the places of all pictures, those of a concept and part side by side."""
        return torch.cat(list(self._places.values()))

    @cached_property
    def _spans(self) -> dict[tuple[int, int], tuple[int, int]]:
        counts = [len(own) for own in self._places.values()]
        return dict(zip(self._places, zip(accumulate([0, *counts]), counts, strict=False), strict=True))

    @cached_property
    def _places(self) -> dict[tuple[int, int], Tensor]:
        out: dict[tuple[int, int], Tensor] = {}
        for part in PARTS:
            places = (self.part == part).nonzero()[:, 0]
            order = places[torch.argsort(self.concept[places], stable=True)]
            values, counts = torch.unique_consecutive(self.concept[order], return_counts=True)
            own = dict(zip(values.tolist(), order.split(counts.tolist()), strict=True))
            for kind, members in self.members.items():
                shown = [own[number] for number in members if number in own]
                if shown:
                    own[kind] = torch.cat([places[torch.arange(OF_MEMBER) % len(places)] for places in shown])
            out |= {(concept, part): places for concept, places in own.items()}
        return out


def feature_bank(
    parts: Mapping[str, tuple[Tensor, Tensor]],
    places: Mapping[str, Sequence[int]],
    test_share: float,
    tune_share: float,
    seed: int,
) -> FeatureBank:
    """Gather sets into one bank; which pictures are for what is fixed by the seed, the set and the class.

    Classes of fewer than five pictures have none for testing or tuning.
    """
    features, concept, part, origin = [], [], [], []
    for number, (name, (values, labels)) in enumerate(parts.items()):
        features.append(values)
        concept.append(torch.tensor(list(places[name]))[labels])
        origin.append(torch.full((len(labels),), number))
        chosen = torch.full((len(labels),), FIT)
        for label in labels.unique().tolist():
            members = (labels == label).nonzero()[:, 0]
            if len(members) < 5:
                continue
            order = members[torch.randperm(len(members), generator=torch_rng(seed, name, label))]
            test = int(len(members) * test_share)
            tune = int((len(members) - test) * tune_share)
            chosen[order[:test]] = TEST
            chosen[order[test : test + tune]] = TUNE
        part.append(chosen)
    return FeatureBank(torch.cat(features), torch.cat(concept), torch.cat(part), torch.cat(origin))


def write_manifest(folder: Path, values: object) -> None:
    """Write a store's manifest: what its shards are, and the splits fixed with it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "manifest.json", (canonical_json(values) + "\n").encode())
