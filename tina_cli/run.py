"""RUN: one training's data, folders and options, and the features of its pictures, which every stage shares."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from tina_cli.backbone import Backbone
from tina_cli.codec import Spread
from tina_cli.config import Recipe
from tina_cli.errors import DataError, OutputError, UsageError
from tina_cli.files import digest, pretty_json, read_json, sha256, write_atomic
from tina_cli.images import read_classes
from tina_cli.lexicon import Lexicon
from tina_cli.loop import Report
from tina_cli.team import ALONE, Team
from tina_cli.weights import INFO
from tina_cli.zoo.concepts import Concept, collect
from tina_cli.zoo.store import FeatureBank, Workers, extract, in_turn

Data = dict[str, dict[str, list[Path]]]  # set -> class -> pictures


@dataclass(frozen=True)
class Run:
    """One training: where from, where to, how."""

    data: Data
    out: Path
    work: Path
    recipe: Recipe
    clip: str | None  # an open_clip name; None is the embedded one, or the one the recipe makes
    device: torch.device
    report: Report
    backbone: str = "clip"  # or "resnet20", trained on the run's own pictures
    vectors: Path | None = None
    wordnet: Path = Path("/usr/share/wordnet")
    descriptions: Path | None = None
    encoder: str | None = None  # a sentence encoder, by folder or name on the Hub
    workers: Workers = in_turn  # where shards of features and p-Models are made
    team: Team = ALONE  # the processes that train the denoiser together


@dataclass(frozen=True)
class Zoo:
    """What the zoo stage hands on. Rows have unit spread; `alive` are the concepts that have one and are not held out."""

    concepts: list[Concept]
    places: dict[str, list[int]]
    bank: FeatureBank
    feature_mean: Tensor
    conditions: Tensor
    rows: Tensor  # fitted on part FIT of the pictures
    final_rows: Tensor  # fitted on TUNE too: what the generator keeps
    spread: Spread
    noise: Tensor  # how far rows may be off, beside a spread of one
    alive: Tensor
    tasks: list[tuple[int, ...]]
    heldout_tasks: list[tuple[int, ...]]
    models: list[Tensor]


def read_data(folders: Sequence[Path], most: int) -> Data:
    """Read picture sets, one folder of classes each, at most `most` pictures a class; raises `DataError`."""
    sets: Data = {}
    for folder in folders:
        if folder.name in sets:
            raise DataError(f"two data folders are called {folder.name}", hint="rename one")
        sets[folder.name] = {name.replace("_", " "): paths[:most] for name, paths in read_classes(folder).items()}
    if sum(len(classes) for classes in sets.values()) < 2:
        raise DataError("the data have fewer than two classes")
    return sets


def prepare(run: Run, resume: bool, dry: bool = False) -> bool:
    """Make the working folder (unless `dry`), or check that it is this run's; say whether there is anything left to do.

    Raises `UsageError` where the folder holds other work, or this one's and `resume` was not asked for, and `OutputError`
    where there is something else in the generator's place.
    """
    listing = {name: {c: [p.name for p in ps] for c, ps in classes.items()} for name, classes in run.data.items()}
    config = {
        "recipe": asdict(run.recipe),
        "clip": run.clip,
        "backbone": run.backbone,
        "encoder": run.encoder,
        "sources": [sha256(path) for path in (run.vectors, run.descriptions) if path],
        "data": digest(listing),
    }
    if run.out.exists() and not run.out.is_dir():
        raise OutputError(f"{run.out} is no folder", hint="choose another --out")
    path = run.work / "run.json"
    if path.exists():
        if read_json(path) != json.loads(pretty_json(config)):
            raise UsageError(f"{run.work} holds another training", hint="choose another --work, or remove it")
        if not resume:
            raise UsageError(f"{run.work} holds this training, begun before", hint="add --resume to go on with it")
    elif (run.out / INFO).exists():
        raise UsageError(f"{run.out} holds a generator", hint="choose another --out, or remove it")
    if dry:
        return True
    run.work.mkdir(parents=True, exist_ok=True)
    write_atomic(path, pretty_json(config).encode())
    return not (run.work / "done.json").exists()


def features_stage(run: Run, backbone: Backbone) -> dict[str, tuple[Tensor, Tensor]]:
    """Compute every picture's features once."""
    total = sum(len(paths) for classes in run.data.values() for paths in classes.values())
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        run.report(stage="features", event="step", step=done, of=total)

    options = run.recipe.features
    backbone, folder = backbone.at(options.precision), run.work / "features"
    return extract(run.data, backbone, folder, options.shard, options.batch, tick, run.workers)


def data_concepts(
    data: Data, recipe: Recipe, lexicon: Lexicon, before: Sequence[Concept] = ()
) -> tuple[list[Concept], dict[str, list[int]]]:
    """Return the concepts known before and those of picture sets, and where each set's classes are among them."""
    sets = {name: {c: len(paths) for c, paths in classes.items()} for name, classes in data.items()}
    options = recipe.zoo
    return collect(sets, lexicon, before, options.heldout_share, options.heldout_kinds, recipe.seed)
