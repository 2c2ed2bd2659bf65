"""LAB: what every experiment works with: the bank, the conditions, the generic model, the zoo of p-Models, and a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

from tina_cli.files import digest
from tina_cli.loop import Report
from tina_cli.rng import numpy_rng
from tina_cli.study.pictures import Bank
from tina_cli.study.pmodels import Networks, finetune, start_from, together
from tina_cli.study.recipe import StudyRecipe, Tuning
from tina_cli.study.targets import Target, initial
from tina_cli.zoo.store import sharded

Task = list[int]
Tensors = dict[str, Tensor]
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Lab:
    """One target network on one data set. What is made is kept in `folder`, by name and by what it is made from."""

    target: Target
    bank: Bank
    conditions: Tensor  # [N, d], of the classes' names
    recipe: StudyRecipe
    folder: Path
    report: Report
    data: str  # a hash of the pictures
    workers: int = 1

    def keep(self, name: str, key: object, make: Callable[[], Tensors]) -> Tensors:
        """Return tensors from the store, made first where they are not there."""

        def timed() -> Tensors:
            start = time.perf_counter()
            out = make()
            self.report(event="made", name=name, seconds=round(time.perf_counter() - start, 2))
            return out | {"seconds": torch.tensor(time.perf_counter() - start)}

        return sharded(self.folder / self.target.name, name, self._key(key), timed)

    def stage(self, name: str) -> Report:
        """Return the report of one of its trainings."""
        return partial(self.report, stage=f"{self.target.name} {name}")

    def seconds(self, name: str) -> float:
        """Return how long what is called so took to make, all its shards together."""
        files = (self.folder / self.target.name).glob(f"{name}-*.safetensors")
        return sum(float(load_file(path).get("seconds", torch.zeros(()))) for path in files)

    def checkpoint(self, name: str, key: object) -> Path:
        """Return where a training that is not done keeps its steps."""
        return self.folder / self.target.name / f"{name}-{digest(self._key(key))}.steps.safetensors"

    def _key(self, key: object) -> list[object]:
        return [self.target.name, self.data, self.recipe.seed, self.bank.names, key]

    @property
    def every(self) -> Task:
        """Return the task of all classes."""
        return list(range(len(self.bank.names)))

    def tasks(self, purpose: str, count: int, classes: int) -> list[Task]:
        """Return `count` random tasks, no two alike; those of different purposes are different."""
        taken = set() if purpose == "zoo" else {tuple(t) for t in self.tasks("zoo", self.recipe.zoo, self.recipe.classes)}
        out: dict[tuple[int, ...], None] = {}
        number = 0
        while len(out) < count and number < 100 * count:
            order = numpy_rng(self.recipe.seed, "study", purpose, classes, number).permutation(len(self.bank.names))
            task = tuple(sorted(order[:classes].tolist()))
            number += 1
            if task not in taken or classes == len(self.bank.names):
                out[task] = None
        return [list(task) for task in out]

    def generic(self) -> Networks:
        """Return the generic model: all classes, trained from scratch."""

        def make() -> Tensors:
            body, rows = initial(self.target, len(self.bank.names), self.recipe.seed)
            start = Networks(body[None], rows[None])
            out = finetune(self.target, self.bank, [self.every], start, self.recipe.generic, "generic")
            return {"bodies": out.bodies, "rows": out.rows}

        return networks(self.keep("generic", asdict(self.recipe.generic), make))

    def fitted(self, purpose: str, tasks: Sequence[Task], how: Tuning, most: int | None = None) -> Networks:
        """Return the p-Models of tasks of one size, fine-tuned from the generic model on the first `most` pictures a class."""
        generic = self.generic()
        parts = [tasks[start : start + self.recipe.shard] for start in range(0, len(tasks), self.recipe.shard)]

        def shard(number: int) -> Networks:
            part = parts[number]

            def make() -> Tensors:
                begin = start_from(generic, part)
                made = finetune(self.target, self.bank, part, begin, how, purpose, number, most=most)
                return {"bodies": made.bodies, "rows": made.rows}

            key = [purpose, number, part, asdict(how), most, asdict(self.recipe.generic)]
            return networks(self.keep(f"{purpose}-{number:03}", key, make))

        return together(self.side_by_side(shard, range(len(parts))))

    def side_by_side(self, make: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return what is made of each item, on all cores: small networks keep one core busy each, and no more."""
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(make, items))

    def zoo(self) -> tuple[list[Task], Networks]:
        """Return the training tasks and their p-Models."""
        tasks = self.tasks("zoo", self.recipe.zoo, self.recipe.classes)
        return tasks, self.fitted("zoo", tasks, self.recipe.pmodel)

    def only(self, classes: Sequence[int]) -> Lab:
        """Return the lab of some classes alone, as if there were no others."""
        return replace(self, bank=self.bank.only(classes), conditions=self.conditions[list(classes)])


def networks(tensors: Tensors) -> Networks:
    """Return p-Models from the store."""
    return Networks(tensors["bodies"], tensors["rows"])


def data_digest(bank: Bank) -> str:
    """Return a hash of a bank's pictures."""
    return digest([[[len(own), int(own.double().abs().sum() * 256)] for own in part] for part in bank.parts])
