"""PLAN of the study: what it works with, what a section of its results is, and every training that its experiments need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from tina_cli.study import baselines
from tina_cli.study.lab import Lab, Task
from tina_cli.study.learner import learn
from tina_cli.study.network import SWIFT
from tina_cli.study.pmodels import Networks, accuracies
from tina_cli.study.recipe import Learning, StudyRecipe
from tina_cli.zoo.store import TEST

Row = dict[str, Any]


@dataclass(frozen=True)
class Plot:
    """Lines of (x, y) points by name."""

    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]
    log: bool = True


@dataclass(frozen=True)
class Section:
    """What an experiment found."""

    title: str
    tables: dict[str, list[Row]]
    plots: list[Plot] = field(default_factory=list)
    facts: dict[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """The labs by target (the first is the main one), and ways to tell of a class by other conditions than its name."""

    recipe: StudyRecipe
    labs: dict[str, Lab]
    larger: dict[str, Lab]
    prompts: dict[str, Tensor]  # kind -> conditions [N, d] of all classes
    zero_shot: Callable[[Sequence[Task]], list[float]]

    @property
    def main(self) -> Lab:
        """Return the lab of the whole CNN."""
        return next(iter(self.labs.values()))


def mean(values: Sequence[float]) -> float:
    """Return a mean."""
    return float(np.mean(values))


def score(lab: Lab, tasks: Sequence[Task], networks: Networks, part: int = TEST) -> list[float]:
    """Return the accuracies of networks on their tasks."""
    return accuracies(lab.target, lab.bank, tasks, networks, part)


def best(lab: Lab) -> Learning:
    """Return how ours is trained for a target."""
    return lab.recipe.ours if lab.target.channels else lab.recipe.heads


def ablations(recipe: StudyRecipe) -> dict[str, Learning]:
    """Return what is left out, at equal compute."""
    small = recipe.small
    fixed = replace(small, train_anchors=False, lr=small.lr * SWIFT) if small.train_anchors else small
    return {
        "both losses": small,
        "distance to p-Models only": replace(small, functional=0.0, share=1.0),
        "cross-entropy only": replace(small, distance=0.0),
        "both, no tasks drawn anew": replace(small, share=1.0),
        "both, not normalised": replace(small, normalise=False),
        "both, anchors not trained along": fixed,
        "both, no anchors": replace(fixed, anchored=False),
    }


def sizes(recipe: StudyRecipe) -> dict[int, Learning]:
    """Return denoisers of several widths."""
    return {width: replace(recipe.small, width=width) for width in recipe.widths}


def mixed(recipe: StudyRecipe) -> Learning:
    """Return a training on tasks of several numbers of classes."""
    return replace(recipe.small, sizes=recipe.sizes)


def unaugmented(recipe: StudyRecipe) -> Learning:
    """Return a training without noise on the conditions."""
    return replace(recipe.small, noise=0.0)


def shown(recipe: StudyRecipe) -> Learning:
    """Return a training in which half of the classes are told by pictures, with or without their names."""
    return replace(recipe.small, shown=0.5)


def few_models(recipe: StudyRecipe) -> Learning:
    """Return a training that sees the zoo's tasks alone, to tell what more p-Models are worth."""
    return replace(recipe.small, share=1.0)


def held_out(study: Study) -> dict[str, list[int]]:
    """Return the near and the far classes that the study of unseen classes keeps out."""
    places = {name: i for i, name in enumerate(study.main.bank.names)}
    recipe = study.recipe
    return {"near": [places[n] for n in recipe.near if n in places], "far": [places[n] for n in recipe.far if n in places]}


def seen_lab(study: Study) -> Lab:
    """Return the lab of the other classes, as if there were no more."""
    whole = study.main
    held = {c for own in held_out(study).values() for c in own}
    seen = [c for c in whole.every if c not in held]
    return replace(whole.only(seen), recipe=study.recipe.reduced(), folder=whole.folder / "seen")


def trainings(study: Study) -> list[Callable[[], object]]:
    """Return every training that the experiments need, none of which needs another's result, those that take longest first."""
    recipe, small = study.recipe, study.recipe.small
    out: dict[object, Callable[[], object]] = {}

    def add(lab: Lab, options: Learning, kind: str = "denoiser", seed: int = 0, zoo: int | None = None) -> None:
        key = (lab.target.name, len(lab.bank.names), options, kind, seed, min(zoo or lab.recipe.zoo, lab.recipe.zoo))
        out[key] = partial(learn, lab, options, kind, seed, zoo)

    for lab in study.labs.values():
        for seed in range(recipe.seeds):
            add(lab, best(lab), seed=seed)
        for kind in ("regressor", "hypernetwork"):
            add(lab, best(lab), kind)
        out["paper", lab.target.name] = partial(baselines.paper, lab)
        out["further", lab.target.name] = partial(baselines.further, lab, best(lab))
    for lab in (*study.larger.values(), seen_lab(study)):
        add(lab, small)
    for options in (*ablations(recipe).values(), *sizes(recipe).values(), mixed(recipe), unaugmented(recipe), shown(recipe)):
        add(study.main, options)
    for count in recipe.zoo_sizes:
        add(study.main, few_models(recipe), zoo=count)
    return list(out.values())
