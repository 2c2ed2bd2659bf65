"""Designs of the generator, trained alike on the embedded generator's zoo, judged on sets left out of it: a table.

    python benchmarks/designs.py PICTURES... --work WORK

WORK is the working folder of a training by the recipe `tina-mini` whose zoo is there, PICTURES its sets in the same order.
Every third set, with all its classes, is left out of regression, projection, p-Models and tasks, and so are all kinds. Classes
of one set are asked for together; nothing but the training's own pictures is looked at, those of part TEST.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tina_cli.codec import encode_rows
from tina_cli.config import load_recipe
from tina_cli.console import Steps
from tina_cli.denoiser import Denoiser, Guidance
from tina_cli.denoising import Anchors, Batches, recipe_sampling, train_denoiser
from tina_cli.prior import novelty
from tina_cli.rng import numpy_rng
from tina_cli.run import Run, Zoo, features_stage, read_data
from tina_cli.sampling import Draw, sample_rows
from tina_cli.study.measures import interval
from tina_cli.training import finetuned, fit_prior, open_backbone, open_lexicon, zoo_stage
from tina_cli.zoo.finetune import fit_projection, task_features
from tina_cli.zoo.store import TEST

SPLITS, TRIED = 3, 2  # ways to leave sets out, and how many of them are tried
TASKS = ((5, 40), (20, 15))  # classes of a task, and how many such tasks a set
PICTURES = 8  # a class
HIDDEN = (0, 1, 8)  # known rows nearest to a class that a mixture may not use, so that it learns to do without


class Free(Denoiser):
    """Anchors as they are, plus a free correction of every coordinate."""

    def __init__(self, row_dim: int, condition_dim: int, width: int, layers: int, heads: int) -> None:
        super().__init__(row_dim, condition_dim, width, layers, heads)
        self.to_row = nn.Linear(width, row_dim)
        nn.init.zeros_(self.to_row.weight)
        nn.init.zeros_(self.to_row.bias)

    def rows(self, x: Tensor, guidance: Guidance, mask: Tensor) -> Tensor:
        """Return the row tokens [B, K, D]."""
        return guidance.anchor + self.to_row(x)


class Mixture(Free):
    """A mixture of all known rows, weighed by what the transformer makes of a class, plus a free correction."""

    known: Tensor
    keys: Tensor

    def __init__(self, known: Tensor, keys: Tensor, row_dim: int, condition_dim: int, *shape: int) -> None:
        super().__init__(row_dim, condition_dim, *shape)
        self.register_buffer("known", known, persistent=False)
        self.register_buffer("keys", keys, persistent=False)
        self.query = nn.Linear(shape[0], condition_dim)
        self.sharpness = nn.Parameter(torch.tensor(10.0))

    def rows(self, x: Tensor, guidance: Guidance, mask: Tensor) -> Tensor:
        """Return the row tokens [B, K, D]."""
        likeness = guidance.condition @ self.keys.T  # (B, K, N)
        logits = self.sharpness * likeness + self.query(x) @ self.keys.T
        if self.training:
            nearest = likeness.argsort(-1, descending=True).argsort(-1)
            hidden = torch.tensor(HIDDEN)[torch.randint(len(HIDDEN), likeness.shape[:2])]
            logits = logits.masked_fill(nearest < hidden[..., None], -torch.inf)
        return logits.softmax(-1) @ self.known + self.to_row(x)


@dataclass(frozen=True)
class Split:
    """A zoo without some sets: `zoo`, its text anchors for all concepts by two rules [N, D], and tasks to judge by.

    `centred` [N, d] are the concepts' centred conditions.
    """

    run: Run  # in a folder of the split's own
    zoo: Zoo
    centred: Tensor
    batches: Batches
    ridge: Tensor
    zero_shot: Tensor
    tasks: dict[tuple[str, int], list[tuple[int, ...]]]


def split_of(run: Run, zoo: Zoo, number: int) -> Split:
    """Leave some sets out of a zoo, and make its p-Models anew."""
    shown = [len(zoo.bank.rows_of(c, TEST)) > 0 and living for c, living in enumerate(zoo.alive.tolist())]
    sets = [sorted({c for c in classes if shown[c]}) for classes in zoo.places.values()]
    out = {c for classes in sets[number::SPLITS] for c in classes}
    alive = zoo.alive.clone()
    alive[[*out, *zoo.bank.members]] = False
    tasks = [tuple(c for c in task if alive[c]) for task in zoo.tasks]
    tasks = list(dict.fromkeys(task for task in tasks if len(task) > 1))
    run = replace(run, work=run.work / f"designs-{number}-of-{SPLITS}")
    models = finetuned(run, tasks, [tasks], (run.recipe.zoo, zoo.bank, zoo.feature_mean, zoo.rows))
    less = replace(zoo, alive=alive, tasks=tasks, models=models)
    prior = fit_prior(run, less, zoo.rows)
    pictured = sorted({c for classes in sets for c in classes} - out)
    projection = fit_projection(zoo.bank, {c: zoo.conditions[c] for c in pictured}, run.recipe.clip.projection_noise)
    centred = normalize(zoo.conditions - prior.mean, dim=-1)
    groups = {"left out": sets[number::SPLITS], "known": [[c for c in classes if c not in out] for classes in sets]}
    return Split(
        run,
        less,
        centred,
        Batches(run, less, prior, projection),
        zoo.spread.standardise(prior.predict(zoo.conditions)),
        zoo.spread.standardise(centred @ projection),
        {
            (kind, size): [task for classes in those for task in drawn(classes, size, count, number)]
            for kind, those in groups.items()
            for size, count in TASKS
        },
    )


def drawn(classes: Sequence[int], size: int, count: int, number: int) -> list[tuple[int, ...]]:
    """Return so many tasks of one size, of a set's classes; none where there are too few."""
    rng = numpy_rng(0, "designs", number, size, *classes)
    return [tuple(rng.permutation(classes)[:size].tolist()) for _ in range(count if len(classes) >= size else 0)]


def accuracy(zoo: Zoo, task: Sequence[int], rows: Tensor) -> float:
    """Return the share of a task's pictures of part TEST that rows [K, D] tell rightly."""
    features = task_features(zoo.bank, zoo.feature_mean, [task], PICTURES, TEST, "designs", *task, unit=False)[0]
    right = (features @ rows.T).argmax(-1) == torch.arange(len(task))[:, None]  # (K, n)
    return float(right.float().mean())


def judge(split: Split, tasks: Sequence[Sequence[int]], network: Denoiser, anchors: Tensor, strength: float) -> list[float]:
    """Return a network's accuracy in tasks of one size, each told by words alone."""
    zoo, run = split.zoo, split.run
    new = novelty(split.batches.prior, zoo.conditions)
    draws = []
    for task in map(list, tasks):
        evidence = torch.stack([new[task], torch.zeros(len(task))], dim=-1)
        guidance = Guidance(split.centred[task][None], evidence[None], encode_rows(anchors[task])[None])
        draws.append(Draw(guidance, [zoo.concepts[c].name for c in task], run.recipe.seed))
    how = replace(recipe_sampling(run.recipe.denoiser), strength=strength)
    made = sample_rows(network, draws, how, run.device)
    return [accuracy(zoo, task, rows) for task, rows in zip(tasks, made, strict=True)]


def designs_of(split: Split) -> dict[str, tuple[Callable[..., Denoiser], Tensor, Anchors]]:
    """Return each design's network, its anchors for all concepts, and those that it is trained with."""
    zoo, prior, usual = split.zoo, split.batches.prior, split.batches.anchors
    fixed = Anchors(split.zero_shot.expand(3, -1, -1), usual.novelty)
    nothing = Anchors(torch.zeros_like(usual.rows), usual.novelty)
    known = encode_rows(zoo.rows[zoo.alive])

    def mixture(*shape: int) -> Denoiser:
        return Mixture(known, prior.keys, *shape)

    return {
        "regression, mixed within the task (ours)": (Denoiser, split.ridge, usual),
        "regression + free correction": (Free, split.ridge, usual),
        "zero-shot row + free correction": (Free, split.zero_shot, fixed),
        "mixture of known rows + free correction": (mixture, torch.zeros_like(split.ridge), nothing),
        "free rows": (Free, torch.zeros_like(split.ridge), nothing),
    }


def main() -> None:
    """Train every design on every split, and print how they do."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    args = parser.parse_args()
    recipe = load_recipe("tina-mini")
    recipe = replace(recipe, denoiser=replace(recipe.denoiser, steps=args.steps))
    progress = Steps()

    def report(**fields: object) -> None:
        if fields.get("event") == "step":
            progress.step(str(fields["stage"]), fields["step"], fields["of"])  # type: ignore[arg-type]

    data = read_data(args.pictures, recipe.features.max_per_class)
    run = Run(data, args.work / "designs", args.work, recipe, None, torch.device("cpu"), report)
    clip_folder, lexicon = run.work / "clip", open_lexicon(run)
    backbone = open_backbone(run, clip_folder, lexicon)
    zoo = zoo_stage(run, backbone, lexicon, clip_folder, features_stage(run, backbone))
    found: dict[tuple[str, float], dict[tuple[str, int], list[float]]] = {}
    for number in range(TRIED):
        split = split_of(run, zoo, number)
        for group, tasks in split.tasks.items():
            for name, rows in (("regression alone", split.ridge), ("zero-shot row alone", split.zero_shot)):
                own = found.setdefault((name, 0.0), {}).setdefault(group, [])
                own += [accuracy(zoo, task, rows[list(task)]) for task in tasks]
        for name, (design, anchors, taught) in designs_of(split).items():
            batches = copy(split.batches)
            batches.anchors = taught
            folder = split.run.work / name.replace(" ", "-")
            folder.mkdir(parents=True, exist_ok=True)
            network, _ = train_denoiser(replace(split.run, work=folder), split.zoo, batches, design)
            for strength in (1.0, recipe.denoiser.strength) if anchors is split.ridge else (1.0,):
                for group, tasks in split.tasks.items():
                    own = found.setdefault((name, strength), {}).setdefault(group, [])
                    own += judge(split, tasks, network, anchors, strength)
        print_table(found)


def print_table(found: dict[tuple[str, float], dict[tuple[str, int], list[float]]]) -> None:
    """Print accuracies, and their differences from the regression's with intervals, in points."""
    groups = list(next(iter(found.values())))
    print(f"\n| design | strength | {' | '.join(f'{kind}, {size}' for kind, size in groups)} |")
    print(f"|---|---|{'---|' * len(groups)}")
    for (name, strength), own in found.items():
        cells = []
        for group in groups:
            ridge = found["regression alone", 0.0][group]
            mean = 100 * sum(own[group]) / len(own[group])
            low, high = (100 * end for end in interval([a - b for a, b in zip(own[group], ridge, strict=True)]))
            cells.append(f"{mean:.1f} [{low:+.1f}, {high:+.1f}]")
        print(f"| {name} | {strength} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
