"""EXPERIMENTS of the paper's study, each a function of the study that returns its section: tables, plots, facts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.rng import numpy_rng, torch_rng
from tina_cli.sampler import SAMPLERS
from tina_cli.study import baselines
from tina_cli.study.lab import Lab, Task
from tina_cli.study.learner import learn
from tina_cli.study.measures import compare, interval
from tina_cli.study.pmodels import Networks, accuracies, finetune, predict, start_from
from tina_cli.study.recipe import Learning, StudyRecipe, Tuning
from tina_cli.zoo.store import TEST, TUNE

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
    for lab in (*study.larger.values(), seen_lab(study)):
        add(lab, small)
    for options in (*ablations(recipe).values(), *sizes(recipe).values(), mixed(recipe), unaugmented(recipe)):
        add(study.main, options)
    for count in recipe.zoo_sizes:
        add(study.main, few_models(recipe), zoo=count)
    return list(out.values())


def best(lab: Lab) -> Learning:
    """Return how ours is trained for a target."""
    return lab.recipe.ours if lab.target.channels else lab.recipe.heads


def zoos(study: Study) -> list[Callable[[], object]]:
    """Return the making of every zoo, first of all."""
    return [lab.zoo for lab in (*study.larger.values(), *study.labs.values(), seen_lab(study))]


def ablations(recipe: StudyRecipe) -> dict[str, Learning]:
    """Return what is left out, at equal compute."""
    small = recipe.small
    return {
        "both losses": small,
        "distance to p-Models only": replace(small, functional=0.0, share=1.0),
        "cross-entropy only": replace(small, distance=0.0),
        "both, no tasks drawn anew": replace(small, share=1.0),
        "both, not normalised": replace(small, normalise=False),
        "both, no anchors": replace(small, anchored=False),
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


def few_models(recipe: StudyRecipe) -> Learning:
    """Return a training that sees the zoo's tasks alone, to tell what more p-Models are worth."""
    return replace(recipe.small, share=1.0)


def all_classes(lab: Lab, tasks: Sequence[Task]) -> list[float]:
    """Return the generic model's accuracies on tasks' pictures, not told which classes are asked for."""
    generic = lab.generic()
    out = []
    for task in tasks:
        guess, labels = predict(lab.target, lab.bank, task, generic.bodies[0], generic.rows[0])
        out.append(float((guess == torch.tensor(task)[labels]).float().mean()))
    return out


def methods(study: Study, lab: Lab, tasks: Sequence[Task], purpose: str) -> dict[str, list[float]]:
    """Return every method's accuracies."""
    recipe, out = study.recipe, {}
    out["generic, all classes"] = all_classes(lab, tasks)
    out["selection"] = score(lab, tasks, start_from(lab.generic(), tasks))
    if lab.target.channels:
        for name, other in study.larger.items():
            out[f"selection, {name}"] = score(other, tasks, start_from(other.generic(), tasks))
    out["mixer (TAPER-style)"] = score(lab, tasks, baselines.mixer(lab, tasks))
    out["row look-up"] = score(lab, tasks, baselines.lookup(lab, tasks))
    out["nearest p-Model"] = score(lab, tasks, baselines.nearest(lab, tasks))
    out["ridge"] = score(lab, tasks, baselines.ridge(lab, tasks))
    out["zero-shot CLIP"] = study.zero_shot(tasks)
    out["paper's network"] = score(lab, tasks, baselines.paper(lab).make(tasks))
    for kind in ("hypernetwork", "regressor"):
        out[kind] = score(lab, tasks, learn(lab, best(lab), kind).make(tasks))
    seeds = [score(lab, tasks, learn(lab, best(lab), seed=seed).make(tasks, seed=seed)) for seed in range(recipe.seeds)]
    out["ours"] = np.mean(seeds, axis=0).tolist()
    for shots in recipe.shots:
        out[f"fine-tuned, {shots} a class"] = score(lab, tasks, lab.fitted(f"{purpose}-{shots}", tasks, recipe.few, most=shots))
    out["fine-tuned, all"] = score(lab, tasks, lab.fitted(purpose, tasks, recipe.pmodel))
    out["oracle"] = score(lab, tasks, lab.fitted(f"{purpose}-oracle", tasks, recipe.oracle))
    return out | {f"ours, seed {seed}": values for seed, values in enumerate(seeds)}


def headline(study: Study) -> Section:
    """Training tasks and unseen tasks, all methods, every target."""

    def one(which: tuple[str, str]) -> tuple[str, list[Row]]:
        name, split = which
        lab = study.labs[name]
        seen = lab.tasks("zoo", study.recipe.zoo, study.recipe.classes)[: study.recipe.seen_tasks]
        unseen = lab.tasks("test", study.recipe.test_tasks, study.recipe.classes)
        found = methods(study, lab, seen if split == "training tasks" else unseen, split)
        return f"{name}, {lab.target.parameters(study.recipe.classes):,} parameters, {split}", compare(found)

    which = [(name, split) for name in study.labs for split in ("training tasks", "unseen tasks")]
    return Section("Seen and unseen tasks", dict(study.main.side_by_side(one, which)))


def class_counts(study: Study) -> Section:
    """A generator trained on tasks of several sizes, on tasks of 2 to all classes; the paper's padding beside it."""
    lab, recipe = study.main, study.recipe
    learner = learn(lab, mixed(recipe))
    rows = []
    for size in [size for size in recipe.sizes if size <= len(lab.bank.names)]:
        tasks = lab.tasks("test", recipe.few_tasks, size)[: 1 if size == len(lab.bank.names) else recipe.few_tasks]
        found = {
            "selection": score(lab, tasks, start_from(lab.generic(), tasks)),
            "row look-up": score(lab, tasks, baselines.lookup(lab, tasks)),
            "ours": score(lab, tasks, learner.make(tasks)),
            "oracle": score(lab, tasks, lab.fitted(f"oracle-{size}", tasks, recipe.oracle)),
        }
        if size <= recipe.classes:
            found["paper's network, padded"] = score(lab, tasks, baselines.paper(lab).make(tasks))
        rows += [{"classes": size} | row for row in compare(found)]
    names = dict.fromkeys(row["method"] for row in rows)
    lines = {name: [(row["classes"], row["accuracy"]) for row in rows if row["method"] == name] for name in names}
    return Section("Number of classes", {"Test tasks": rows}, [Plot("Number of classes", "classes", "accuracy", lines)])


def prompts(study: Study) -> Section:
    """What a class is told by, and prompts that are wrong; trained with and without noise on the conditions."""
    lab, recipe = study.main, study.recipe
    tasks = lab.tasks("test", recipe.test_tasks, recipe.classes)
    own = torch.tensor(tasks)
    learners = {"with noise in training": learn(lab, recipe.small), "without": learn(lab, unaugmented(recipe))}
    told = {kind: conditions[own] for kind, conditions in study.prompts.items()}
    told["half names, half one picture"] = torch.stack(
        [told["names"][:, i] if i % 2 else told["one picture"][:, i] for i in range(recipe.classes)], dim=1
    )
    strangers = [
        numpy_rng(recipe.seed, "wrong", number).permutation([c for c in lab.every if c not in task])[: recipe.classes].tolist()
        for number, task in enumerate(tasks)
    ]
    told["wrong names"] = lab.conditions[torch.tensor([(list(s) * recipe.classes)[: recipe.classes] for s in strangers])]
    told["random vectors"] = normalize(torch.randn(told["names"].shape, generator=torch_rng(recipe.seed, "random")), dim=-1)
    rows = []
    for name, learner in learners.items():
        for kind, condition in told.items():
            values = score(lab, tasks, learner.make(tasks, condition))
            rows.append(
                {"prompt": kind, "training": name, "accuracy": mean(values), "ci95": interval(values), "n_tasks": len(tasks)}
            )
        turned = own.roll(1, 1).tolist()
        swapped = learner.make(turned)
        for label, rolled in (("swapped names, as asked for", 1), ("swapped names, followed", 0)):
            networks = Networks(swapped.bodies, swapped.rows if rolled else swapped.rows.roll(-1, 1))
            values = score(lab, tasks, networks)
            rows.append(
                {"prompt": label, "training": name, "accuracy": mean(values), "ci95": interval(values), "n_tasks": len(tasks)}
            )
    return Section("Prompts and controls", {"Unseen tasks": rows}, facts={"chance": 1 / recipe.classes})


def held_out(study: Study) -> dict[str, list[int]]:
    """Return the near and the far classes that the study of unseen classes keeps out."""
    places = {name: i for i, name in enumerate(study.main.bank.names)}
    recipe = study.recipe
    return {"near": [places[n] for n in recipe.near if n in places], "far": [places[n] for n in recipe.far if n in places]}


def seen_lab(study: Study) -> Lab:
    """Return the lab of the other classes, as if there were no more."""
    whole, recipe = study.main, study.recipe
    held = {c for own in held_out(study).values() for c in own}
    seen = [c for c in whole.every if c not in held]
    return replace(whole.only(seen), recipe=replace(recipe, zoo=recipe.larger_zoo), folder=whole.folder / "seen")


def unseen_classes(study: Study) -> Section:
    """Classes of which no network ever saw a picture: near ones, whose kin is seen, and far ones, whose superclass is not."""
    whole, recipe, groups = study.main, study.recipe, held_out(study)
    held = {c for own in groups.values() for c in own}
    seen = [c for c in whole.every if c not in held]
    lab = seen_lab(study)
    learner = learn(lab, recipe.small)
    tables = {}
    for split, own in groups.items():
        size = min(5, len(own))
        tasks = [sorted(numpy_rng(0, "unseen", split, i).permutation(own)[:size].tolist()) for i in range(recipe.few_tasks)]
        conditions = whole.conditions[torch.tensor(tasks)]
        names = [[whole.bank.names[c] for c in task] for task in tasks]
        anchors = learner.space.anchor(conditions)
        likeness = normalize(whole.conditions - whole.conditions.mean(0), dim=-1)
        kin = torch.tensor(seen)[(likeness[torch.tensor(tasks)] @ likeness[seen].T).argmax(-1)]
        place = {c: i for i, c in enumerate(seen)}
        rows = torch.stack([lab.generic().rows[0][[place[int(c)] for c in some]] for some in kin])
        bodies = lab.generic().bodies.expand(len(tasks), -1)
        found = {
            "row of the nearest seen class": score(whole, tasks, Networks(bodies, rows)),
            "ridge": score(whole, tasks, Networks(bodies, anchors)),
            "zero-shot CLIP": study.zero_shot(tasks),
            "ours": score(whole, tasks, learner.sample(conditions, names, 0, recipe.steps, recipe.sampler)),
            "selection": score(whole, tasks, start_from(whole.generic(), tasks)),
            "oracle": score(whole, tasks, whole.fitted(f"oracle-{split}", tasks, recipe.oracle)),
        }
        tables[f"{split} classes, {size} a task"] = compare(found)
    note = (
        f"{len(held)} classes held out; selection and oracle are the generic model's and fine-tuning on all classes' pictures"
    )
    return Section("Unseen classes", tables, facts={"note": note, "p-Models": lab.recipe.zoo})


def scaling(study: Study) -> Section:
    """More p-Models, larger denoisers, more sampling steps, larger target networks."""
    lab, recipe = study.main, study.recipe
    tasks = lab.tasks("test", recipe.test_tasks, recipe.classes)
    tables: dict[str, list[Row]] = {"p-Models": [], "Denoiser": [], "Sampling": [], "Target networks": []}

    def add(table: str, values: Sequence[float], **what: object) -> None:
        tables[table].append(what | {"accuracy": mean(values), "ci95": interval(values), "n_tasks": len(values)})

    for count in [count for count in recipe.zoo_sizes if count <= recipe.zoo]:
        add("p-Models", score(lab, tasks, learn(lab, few_models(recipe), zoo=count).make(tasks)), p_models=count)
    for width, options in sizes(recipe).items():
        learner = learn(lab, options)
        parameters = sum(p.numel() for p in learner.network.parameters())
        add("Denoiser", score(lab, tasks, learner.make(tasks)), width=width, parameters=parameters)
    learner = learn(lab, recipe.ours)
    some = tasks[: recipe.few_tasks]
    for sampler in SAMPLERS:
        for steps in recipe.sample_steps:
            start = time.perf_counter()
            made = learner.make(some, steps=steps, sampler=sampler)
            seconds = (time.perf_counter() - start) / len(some)
            add("Sampling", score(lab, some, made), sampler=sampler, steps=steps, ms_per_model=1000 * seconds)
    for name, other in ({lab.target.name: lab} | study.larger).items():
        learner = learn(other, recipe.small)
        found = {
            "selection": score(other, tasks, start_from(other.generic(), tasks)),
            "ours": score(other, tasks, learner.make(tasks)),
        }
        for method, values in found.items():
            add("Target networks", values, target=name, parameters=other.target.parameters(recipe.classes), method=method)
    plots = [
        Plot("Sampling steps", "steps", "accuracy", {
            name: [(r["steps"], r["accuracy"]) for r in tables["Sampling"] if r["sampler"] == name] for name in SAMPLERS
        }),
        Plot("p-Models", "p-Models", "accuracy", {"ours": [(r["p_models"], r["accuracy"]) for r in tables["p-Models"]]}),
    ]  # fmt: skip
    return Section("Scaling", tables, plots)


def generation(study: Study) -> Section:
    """Is it generation? Distance to training p-Models, errors shared, spread, best of N, and as a start for fine-tuning."""
    lab, recipe = study.main, study.recipe
    zoo_tasks, zoo = lab.zoo()
    learner = learn(lab, recipe.ours)
    test = lab.tasks("test", recipe.few_tasks, recipe.classes)
    seen = zoo_tasks[: recipe.few_tasks]
    again = lab.fitted("again", seen, replace(recipe.pmodel, steps=recipe.pmodel.steps))
    rng = torch_rng(recipe.seed, "copies")
    kept = zoo[list(range(len(seen)))]
    noisy = Networks(
        kept.bodies + 0.1 * learner.space.scale * torch.randn(kept.bodies.shape, generator=rng),
        kept.rows + 0.1 * learner.space.row_scale * torch.randn(kept.rows.shape, generator=rng),
    )
    audit = []
    for name, tasks, made in (
        ("p-Model, another seed", seen, again),
        ("ours, training tasks", seen, learner.make(seen)),
        ("noise-added copy", seen, noisy),
        ("row look-up (averages)", seen, baselines.lookup(lab, seen)),
    ):
        gap = (made.bodies - kept.bodies) / learner.space.scale
        own = gap.square().mean(1).sqrt()
        others = torch.cdist(made.bodies / learner.space.scale, zoo.bodies / learner.space.scale) / gap.shape[1] ** 0.5
        overlap = [error_overlap(lab, task, made, kept, i) for i, task in enumerate(tasks)]
        audit.append({
            "networks": name, "distance to own p-Model": mean(own.tolist()), "to the nearest": mean(others.amin(1).tolist()),
            "own is the nearest": mean((others.argmin(1) == torch.arange(len(tasks))).float().tolist()),
            "errors shared": mean(overlap), "accuracy": mean(score(lab, tasks, made)), "n_tasks": len(tasks),
        })  # fmt: skip
    drawn = [learner.make(test, seed=seed) for seed in range(recipe.samples)]
    chosen = np.array([score(lab, test, made, TUNE) for made in drawn]).argmax(0)
    tested = np.array([score(lab, test, made) for made in drawn])
    bodies = torch.stack([made.bodies for made in drawn]) / learner.space.scale
    best = tested[chosen, np.arange(len(test))].tolist()
    spread = [
        {"what": "mean of samples", "accuracy": float(tested.mean()), "ci95": interval(tested.mean(0).tolist())},
        {"what": f"best of {recipe.samples} by other pictures", "accuracy": mean(best), "ci95": interval(best)},
        {"what": "standard deviation of a task's samples", "accuracy": float(tested.std(0).mean())},
        {
            "what": "distance between a task's samples (bodies)",
            "accuracy": float(bodies.std(0).square().mean().sqrt()) * 2**0.5,
        },
    ]
    curve: dict[str, list[tuple[float, float]]] = {}
    starts = {"generic start": start_from(lab.generic(), test), "generated start": learner.make(test)}
    how = Tuning(recipe.few.steps, recipe.few.batch, recipe.few.lr)
    for name, begin in starts.items():
        points: list[tuple[float, float]] = []

        def look(step: int, now: Networks, points: list[tuple[float, float]] = points) -> None:
            if step in (0, how.steps) or (step & (step - 1)) == 0:
                points.append((max(step, 0.5), mean(score(lab, test, now))))

        finetune(lab.target, lab.bank, test, begin, how, "start", most=20, at=look)
        curve[name] = points
    tables = {
        "Memorisation": audit,
        "Samples of one prompt": spread,
        "As a start, 20 pictures a class": [
            {"start": name, "steps": int(step), "accuracy": value} for name, points in curve.items() for step, value in points
        ],
    }
    return Section("Is it generation?", tables, [Plot("Fine-tuning, 20 pictures a class", "steps", "accuracy", curve)])


def error_overlap(lab: Lab, task: Task, made: Networks, kept: Networks, place: int) -> float:
    """Return the share of the errors of one network that another makes too, with the same wrong answer."""
    one, labels = predict(lab.target, lab.bank, task, made.bodies[place], made.rows[place])
    other, _ = predict(lab.target, lab.bank, task, kept.bodies[place], kept.rows[place])
    wrong = one != labels
    return float((one == other)[wrong].float().mean()) if wrong.any() else 1.0


def ablation(study: Study) -> Section:
    """What each part of the training is worth, at equal compute."""
    lab, recipe = study.main, study.recipe
    tasks = lab.tasks("test", recipe.test_tasks, recipe.classes)
    found = {name: score(lab, tasks, learn(lab, options).make(tasks)) for name, options in ablations(recipe).items()}
    found["selection"] = score(lab, tasks, start_from(lab.generic(), tasks))
    rows = compare(found, ours="both losses")
    return Section("Ablations", {f"Unseen tasks, {recipe.small.steps} steps": rows})


def cost(study: Study) -> Section:
    """Seconds for the zoo, the training and a model, and after how many models training once pays off."""
    lab, recipe = study.main, study.recipe
    tasks = lab.tasks("test", recipe.test_tasks, recipe.classes)[: recipe.few_tasks]
    learner = learn(lab, recipe.ours)
    start = time.perf_counter()
    learner.make(tasks)
    ours = (time.perf_counter() - start) / len(tasks)
    begin = start_from(lab.generic(), tasks[:4])
    start = time.perf_counter()
    finetune(lab.target, lab.bank, tasks[:4], begin, recipe.pmodel, "cost")
    tuned = (time.perf_counter() - start) / 4
    spent = {name: lab.seconds(name) for name in ("generic", "zoo", "denoiser")}
    once = spent["zoo"] + spent["denoiser"]
    rows = [
        {"what": "generic model (both need it)", "seconds": spent["generic"]},
        {"what": f"zoo of {recipe.zoo} p-Models", "seconds": spent["zoo"]},
        {"what": "denoiser", "seconds": spent["denoiser"]},
        {"what": "a generated network", "seconds": ours},
        {"what": "a fine-tuned network", "seconds": tuned},
    ]
    return Section(
        "Cost", {"One core": rows}, facts={"networks after which training once pays off": once / max(1e-9, tuned - ours)}
    )


EXPERIMENTS: dict[str, Callable[[Study], Section]] = {
    "tasks": headline,
    "classes": class_counts,
    "prompts": prompts,
    "unseen": unseen_classes,
    "scaling": scaling,
    "generation": generation,
    "ablation": ablation,
    "cost": cost,
}
