"""LAB: what every experiment works with: the bank, the conditions, the generic model, the zoo of p-Models, and a store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from math import comb
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from tina_cli.files import digest
from tina_cli.loop import Report
from tina_cli.rng import numpy_rng
from tina_cli.study.pictures import Bank
from tina_cli.study.pmodels import Networks, finetune, start_from, together, train_on_tasks
from tina_cli.study.recipe import Episodes, StudyRecipe, Tuning
from tina_cli.study.targets import Target, initial
from tina_cli.zoo.store import sharded

Task = list[int]
Tensors = dict[str, Tensor]
T = TypeVar("T")
R = TypeVar("R")
MAKING: dict[str, Lock] = {}  # by what is made: experiments side by side ask for the same, and it is made once


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
    shown: Sequence[Tensor] = ()  # conditions [n, d] that FIT pictures of each class make, where a CLIP has seen them
    took: dict[Path, float] = field(default_factory=dict)  # seconds that what was asked for took to make, whenever that was

    def keep(self, name: str, key: object, make: Callable[[], Tensors]) -> Tensors:
        """Return tensors from the store, made first where they are not there; who asks meanwhile waits for them."""

        def timed() -> Tensors:
            start = time.perf_counter()
            out = make()
            self.report(event="made", name=name, seconds=round(time.perf_counter() - start, 2))
            return out | {"seconds": torch.tensor(time.perf_counter() - start)}

        folder, whole = self.folder / self.target.name, self._key(key)
        with MAKING.setdefault(f"{folder / name}-{digest(whole)}", Lock()):
            found = sharded(folder, name, whole, timed)
        self.took[folder / name] = float(found["seconds"])
        return found

    def stage(self, name: str) -> Report:
        """Return the report of one of its trainings."""
        return partial(self.report, stage=f"{self.target.name} {name}")

    def seconds(self, name: str) -> float:
        """Return how long what is called so took to make, all its shards together."""
        own = self.folder / self.target.name
        return sum(value for path, value in self.took.items() if path.parent == own and path.name.startswith(name))

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
        return [list(task) for task in self._fixed(purpose, count, classes)]

    def _fixed(self, purpose: str, count: int, classes: int) -> tuple[tuple[int, ...], ...]:
        recipe, every = self.recipe, len(self.bank.names)
        taken = () if purpose == "zoo" else fixed_tasks(recipe.seed, "zoo", recipe.zoo, recipe.classes, every)
        return fixed_tasks(recipe.seed, purpose, count, classes, every, taken)

    def random_tasks(self, rng: np.random.Generator, count: int, classes: int) -> list[Task]:
        """Return random tasks to train on, none of them one to test on unless there are hardly any others."""
        every = len(self.bank.names)
        test = set(self._fixed("test", self.recipe.test_tasks, classes))
        if comb(every, classes) < 2 * len(test):
            test = set()
        out: list[Task] = []
        while len(out) < count:
            task = sorted(rng.permutation(every)[:classes].tolist())
            if tuple(task) not in test:
                out.append(task)
        return out

    def scratch(self) -> Networks:
        """Return a network of all classes, trained from scratch to tell them all apart."""

        def make() -> Tensors:
            body, rows = initial(self.target, len(self.bank.names), self.recipe.seed)
            start = Networks(body[None], rows[None])
            out = finetune(self.target, self.bank, [self.every], start, self.recipe.generic, "generic")
            return {"bodies": out.bodies, "rows": out.rows}

        return networks(self.keep("scratch", asdict(self.recipe.generic), make))

    def generic(self) -> Networks:
        """Return the generic model: what is trained from scratch, a whole network further on random tasks."""
        return self.on_tasks("generic", self.scratch(), self.recipe.further) if self.goes_on else self.scratch()

    @property
    def goes_on(self) -> bool:
        """Say whether the generic model is trained further on random tasks."""
        return bool(self.target.channels and self.recipe.further.steps)

    def on_tasks(self, name: str, start: Networks, how: Episodes) -> Networks:
        """Return one network of all classes, trained further on random tasks."""

        def make() -> Tensors:
            def tasks_at(step: int) -> list[Task]:
                return self.random_tasks(numpy_rng(self.recipe.seed, name, step), how.batch, self.recipe.classes)

            out = train_on_tasks(self.target, self.bank, tasks_at, start, how, name)
            return {"bodies": out.bodies, "rows": out.rows}

        return networks(self.keep(name, [asdict(how), self.origin, self.recipe.classes], make))

    @property
    def origin(self) -> object:
        """Return what the generic model is made from, which is part of the key of all that starts from it."""
        return [asdict(self.recipe.generic), asdict(self.recipe.further)]

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

            key = [purpose, number, part, asdict(how), most, self.origin]
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
        shown = [self.shown[c] for c in classes] if self.shown else ()
        return replace(self, bank=self.bank.only(classes), conditions=self.conditions[list(classes)], shown=shown)


@lru_cache(maxsize=256)  # asked for in every step of a training
def fixed_tasks(
    seed: int, purpose: str, count: int, classes: int, every: int, taken: tuple[tuple[int, ...], ...] = ()
) -> tuple[tuple[int, ...], ...]:
    """Return `count` random tasks of so many of `every` classes, no two alike, none of them taken."""
    out: dict[tuple[int, ...], None] = {}
    number = 0
    while len(out) < count and number < 100 * count:
        task = tuple(sorted(numpy_rng(seed, "study", purpose, classes, number).permutation(every)[:classes].tolist()))
        number += 1
        if task not in taken or classes == every:
            out[task] = None
    return tuple(out)


def networks(tensors: Tensors) -> Networks:
    """Return p-Models from the store."""
    return Networks(tensors["bodies"], tensors["rows"])


def data_digest(bank: Bank) -> str:
    """Return a hash of a bank's pictures."""
    return digest([[[len(own), int(own.double().abs().sum() * 256)] for own in part] for part in bank.parts])
