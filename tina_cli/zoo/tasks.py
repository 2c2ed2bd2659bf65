"""Tasks: which classes are asked for together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from tina_cli.lexicon import Lexicon
from tina_cli.rng import numpy_rng
from tina_cli.zoo.concepts import Concept


@dataclass(frozen=True)
class TaskSource:
    """What tasks are drawn from: concepts, the sets' classes, likeness of conditions, and pairs that exclude each other."""

    usable: tuple[int, ...]
    sets: tuple[tuple[int, ...], ...]
    likeness: Tensor  # [N, N] cosine of centred conditions
    excluded: Tensor  # [N, N] bool: a picture may be of both
    kinds: tuple[int, ...]  # those that are kinds of others


def task_source(
    usable: Sequence[int], sets: Iterable[Sequence[int]], likeness: Tensor, excluded: Tensor, kinds: tuple[int, ...]
) -> TaskSource:
    """Return what tasks are drawn from: of each set the usable classes, where there are two or more."""
    allowed = set(usable)
    kept = (tuple(sorted(allowed & set(classes))) for classes in sets)
    return TaskSource(tuple(usable), tuple(own for own in kept if len(own) >= 2), likeness, excluded, kinds)


def exclusions(concepts: Sequence[Concept], lexicon: Lexicon, members: Mapping[int, tuple[int, ...]]) -> Tensor:
    """Return which pairs of concepts may not meet in a task: one is a hypernym of the other, or kinds share members; [N, N]."""
    place = {concept.sense: i for i, concept in enumerate(concepts) if concept.sense}
    out = torch.zeros(len(concepts), len(concepts), dtype=torch.bool)
    for i, concept in enumerate(concepts):
        for above in lexicon.ancestors(concept.sense) if concept.sense else ():
            if above in place:
                out[i, place[above]] = out[place[above], i] = True
    sets = {kind: set(own) for kind, own in members.items()}
    for one, other in combinations(sets, 2):
        if sets[one] & sets[other]:
            out[one, other] = out[other, one] = True
    return out


def draw_task(source: TaskSource, classes: int, *purpose: object) -> tuple[int, ...]:
    """Draw one task of at most `classes` classes: from one set, from all, from the neighbours of one class, or from kinds.

    The ways are equally likely, where there are such. The result is sorted, and may be smaller where exclusions leave too few.
    """
    rng = numpy_rng(0, "task", *purpose)
    way = int(rng.integers(4 if source.kinds else 3))
    if way == 3:
        pool = rng.permutation(source.kinds)
    elif way == 0 and source.sets:
        chosen = source.sets[int(rng.integers(len(source.sets)))]
        pool = rng.permutation(chosen)
    elif way < 2:
        pool = rng.permutation(source.usable)
    else:
        usable = torch.tensor(source.usable)
        centre = int(rng.choice(source.usable))
        near = usable[source.likeness[centre, usable].argsort(descending=True)[: 4 * classes]]
        pool = rng.permutation(near.numpy())
    task: list[int] = []
    for candidate in pool.tolist():
        if len(task) == classes:
            break
        if not any(bool(source.excluded[candidate, other]) for other in task):
            task.append(candidate)
    return tuple(sorted(task))


def draw_tasks(source: TaskSource, count: int, least: int, most: int, *purpose: object) -> list[tuple[int, ...]]:
    """Draw tasks with sizes spread evenly in the logarithm from `least` to `most`, no two alike."""
    tasks: dict[tuple[int, ...], None] = {}
    number = 0
    while len(tasks) < count and number < 20 * count:
        rng = numpy_rng(0, "size", *purpose, number)
        size = round(least * (most / least) ** float(rng.random()))
        task = draw_task(source, size, *purpose, number)
        if len(task) >= least:
            tasks[task] = None
        number += 1
    return list(tasks)
