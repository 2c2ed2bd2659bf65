"""SUITE: pictures -> labs -> experiments -> results. What is done is kept, and a second run goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import comb
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from tina_cli.backbone import Backbone
from tina_cli.config import TrunkStage
from tina_cli.errors import DataError, UsageError
from tina_cli.files import digest, make_folder, pretty_json, read_json, write_atomic
from tina_cli.generation import Request, gather, understand
from tina_cli.generator import Generator
from tina_cli.loop import Report
from tina_cli.onnx_trunk import fastest
from tina_cli.prior import joint_condition, picture_condition, picture_vectors
from tina_cli.resnet import ResNet20
from tina_cli.study import analyses, comparisons
from tina_cli.study.drawn import drawn_classes
from tina_cli.study.lab import Lab, Task, Tensors, data_digest
from tina_cli.study.pictures import SIDE, Bank, read_pictures, scaled, split_bank
from tina_cli.study.plan import Section, Study, trainings
from tina_cli.study.recipe import StudyRecipe
from tina_cli.study.space import Standard
from tina_cli.study.targets import TARGETS
from tina_cli.trunk import train_trunk
from tina_cli.zoo.store import FIT, TEST, TUNE

Classes = Mapping[str, Sequence[Path]]
Features = list[list[Tensor]]  # [part][class]
EXPERIMENTS: dict[str, Callable[[Study], Section]] = {
    "tasks": comparisons.headline,
    "classes": comparisons.class_counts,
    "prompts": comparisons.prompts,
    "unseen": comparisons.unseen_classes,
    "scaling": analyses.scaling,
    "generation": analyses.generation,
    "ablation": analyses.ablation,
    "cost": analyses.cost,
}
BATCH = 64  # pictures that a frozen trunk sees at once


@dataclass(frozen=True)
class Job:
    """One run of the study: pictures by class (none: drawn ones), the generator whose CLIP is used, where results go."""

    train: Classes
    test: Classes
    generator: Generator
    recipe: StudyRecipe
    folder: Path
    report: Report
    only: Sequence[str] = ()


def run_suite(job: Job, resume: bool) -> dict[str, Any]:
    """Run the experiments and return their results; raises `UsageError` where the folder holds another run."""
    if strange := set(job.only) - EXPERIMENTS.keys():
        raise UsageError(f"unknown experiment {min(strange)!r}", hint=f"one of {', '.join(EXPERIMENTS)}")
    if unknown := [name for name in (*job.recipe.targets, *job.recipe.larger) if name not in TARGETS]:
        raise UsageError(f"unknown target network {unknown[0]!r}", hint=f"one of {', '.join(TARGETS)}")
    begin(job, resume)
    study = prepare(job)
    with one_thread():
        if not job.only:
            study.main.side_by_side(lambda make: make(), trainings(study))
        for name in job.only or EXPERIMENTS:
            path = job.folder / f"{name}.json"
            if not path.exists():
                section = EXPERIMENTS[name](study)
                write_atomic(path, pretty_json(asdict(section)).encode())
            job.report(event="experiment", name=name)
    found = {name: read_json(job.folder / f"{name}.json") for name in EXPERIMENTS if (job.folder / f"{name}.json").exists()}
    counts = {part: sum(map(len, study.main.bank.parts[number])) for number, part in enumerate(("fit", "tune", "test"))}
    return {
        "schema": "tina/study/1", "recipe": asdict(job.recipe), "generator": job.generator.identity,
        "classes": len(study.main.bank.names), "pictures": counts, "sections": found,
    }  # fmt: skip


def begin(job: Job, resume: bool) -> None:
    """Make the results' folder, or check that it is this run's."""
    names = {part: {c: len(p) for c, p in of.items()} for part, of in (("train", job.train), ("test", job.test))}
    config = json.loads(pretty_json({"recipe": asdict(job.recipe), "generator": job.generator.identity, "data": digest(names)}))
    path = job.folder / "study.json"
    if path.exists():
        if read_json(path) != config:
            raise UsageError(f"{job.folder} holds another study", hint="choose another --output, or remove it")
        if not resume:
            raise UsageError(f"{job.folder} holds this study, begun before", hint="add --resume to go on with it")
    make_folder(job.folder)
    write_atomic(path, pretty_json(config).encode())


@contextmanager
def one_thread() -> Iterator[None]:
    """Give each small network one core: two trainings side by side are faster than one on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def prepare(job: Job) -> Study:
    """Read the pictures, and make the labs of all targets and the prompts."""
    recipe, store = job.recipe, job.folder / "store"

    def tick(count: int) -> None:
        job.report(event="read", count=count)

    def pictures(classes: Classes, part: str) -> dict[str, Tensor]:
        if not classes:
            return drawn_classes(recipe.pictures if part == "train" else 20, part)
        found = read_pictures(classes, store / "pictures", part, recipe.pictures, tick)
        return {name.replace("_", " "): own for name, own in found.items()}

    train, test = pictures(job.train, "train"), pictures(job.test, "test")
    if set(train) != set(test):
        raise DataError(f"train and test differ in {min(set(train) ^ set(test))!r}", hint="both need the same folders")
    bank = split_bank(train, test, recipe.tune_share, recipe.seed, job.generator.device)
    if len(bank.names) < recipe.classes:
        raise DataError(f"the data have {len(bank.names)} classes, fewer than the recipe's tasks ({recipe.classes})")
    if (tasks := comb(len(bank.names), recipe.classes)) < recipe.zoo + recipe.test_tasks:
        raise DataError(f"the data's {len(bank.names)} classes make {tasks} tasks, fewer than the recipe's zoo and tests need")
    requested = Request(bank.names)
    conditions = torch.stack([gather(job.generator, m).condition for m in understand(job.generator, requested)])
    base = Lab(
        TARGETS[recipe.targets[0]], bank, conditions, recipe, store, job.report, data_digest(bank), os.cpu_count() or 1
    )  # fmt: skip
    seen = clip_features(job, base)
    base = replace(base, shown=[picture_vectors(own, job.generator.projection) for own in seen[FIT]])
    labs = {recipe.targets[0]: base} | {name: head_lab(base, name, seen) for name in recipe.targets[1:]}
    larger = {name: replace(base, target=TARGETS[name], recipe=recipe.reduced()) for name in recipe.larger}
    return Study(recipe, labs, larger, prompts(job, base, seen), partial(zero_shot, job, base, seen))


def head_lab(base: Lab, name: str, seen: Features) -> Lab:
    """Return the lab of heads on a frozen trunk: its features of the same pictures in the same parts, to unit variance."""
    raw = seen if name == "clip-head" else resnet_features(base)
    standard = Standard.of(torch.cat(raw[FIT]))
    bank = Bank(base.bank.names, [[standard(own) for own in part] for part in raw], base.bank.device)
    recipe = base.recipe
    own = replace(recipe, generic=recipe.head_generic, pmodel=recipe.head_pmodel, oracle=recipe.head_oracle)
    return replace(base, target=replace(TARGETS[name], dim=len(standard.mean)), bank=bank, recipe=own)


def clip_features(job: Job, base: Lab) -> Features:
    """Return the CLIP's unit features of the pictures, by part and class, at most the recipe's number of each class."""
    most, done = base.recipe.clip_pictures, 0
    count = sum(len(own[:most]) for part in base.bank.parts for own in part)
    how = job.generator.backbone.spec.preprocess
    middle, spread = torch.tensor(how.mean)[:, None, None], torch.tensor(how.std)[:, None, None]

    def see(backbone: Backbone, some: Tensor) -> Tensor:
        nonlocal done
        large = interpolate(scaled(some, torch.float32) / 2 + 0.5, size=how.size, mode="bicubic", antialias=True)
        done += len(some)
        base.report(event="step", stage="features", step=done, of=count)
        return backbone.features((large.clamp(0, 1) - middle) / spread)

    def make() -> Tensors:
        backbone = fastest(job.generator.backbone.at("bfloat16"), count)
        parts = [[own[:most] for own in part] for part in base.bank.parts]
        every = [some for part in parts for own in part for some in own.split(BATCH)]
        found = torch.cat([see(backbone, some) for some in every])
        return {"features": found.half(), "counts": torch.tensor([[len(own) for own in part] for part in parts])}

    key = [most, job.generator.identity]
    return by_part(base.keep("clip-features", key, make))


def resnet_features(base: Lab) -> Features:
    """Return the features of a ResNet-20 trained on the FIT pictures of all classes, by part and class."""
    trunk = base.recipe.trunk

    def make() -> Tensors:
        pictures = scaled(torch.cat(base.bank.parts[FIT]), torch.float16)
        labels = torch.arange(len(base.bank.names)).repeat_interleave(torch.tensor(list(map(len, base.bank.parts[FIT]))))
        options = TrunkStage(SIDE, trunk.steps, trunk.batch, trunk.lr)
        state = train_trunk(options, base.recipe.seed, base.bank.device, base.folder, base.stage("trunk"), pictures, labels)
        module = ResNet20()
        module.load_state_dict(state, strict=False)
        module.eval()
        every = [own for part in base.bank.parts for own in part]
        with torch.inference_mode():
            found = torch.cat([module(scaled(own, torch.float32)) for own in every])
        return {"features": found.half(), "counts": torch.tensor([[len(own) for own in part] for part in base.bank.parts])}

    return by_part(base.keep("resnet20-features", asdict(trunk), make))


def by_part(found: Tensors) -> Features:
    """Return features by part and class."""
    counts = found["counts"]
    own = iter(found["features"].float().split(counts.flatten().tolist()))
    return [[next(own) for _ in range(counts.shape[1])] for _ in range(counts.shape[0])]


def prompts(job: Job, base: Lab, seen: Features) -> dict[str, Tensor]:
    """Return the conditions [N, d] of all classes by what they are told by."""
    generator, names = job.generator, base.bank.names
    meanings = understand(generator, Request(names))
    glosses = [m.sense.gloss if m.sense and m.sense.gloss else f"something that looks like a {m.name}" for m in meanings]

    def pictures(count: int) -> Tensor:
        return torch.stack([picture_condition(own[:count], generator.projection) for own in seen[TUNE]])

    return {
        "names": base.conditions,
        "a photo of a ...": torch.stack([generator.conditions.of([f"a photo of a {name}"]) for name in names]),
        "descriptions (glosses)": torch.stack([generator.conditions.of([gloss]) for gloss in glosses]),
        "one picture": pictures(1),
        "five pictures": pictures(5),
        "names and five pictures": joint_condition(base.conditions, pictures(5)),
    }


def zero_shot(job: Job, base: Lab, seen: Features, tasks: Sequence[Task]) -> list[float]:
    """Return the accuracy of the CLIP's text vectors against its image vectors on the tasks' test pictures."""
    projection = job.generator.projection
    out = []
    for task in tasks:
        features = torch.cat([seen[TEST][c] for c in task])
        labels = torch.arange(len(task)).repeat_interleave(torch.tensor([len(seen[TEST][c]) for c in task]))
        images = features if projection is None else features @ projection.T
        out.append(float(((images @ base.conditions[task].T).argmax(-1) == labels).float().mean()))
    return out
