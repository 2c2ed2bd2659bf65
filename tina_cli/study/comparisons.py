"""COMPARISONS: ours beside everything else: seen and unseen tasks, numbers of classes, prompts, unseen classes.

Each experiment is a function of the study that returns its section.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.functional import normalize

from tina_cli.rng import numpy_rng, torch_rng
from tina_cli.study import baselines
from tina_cli.study.lab import Lab, Task
from tina_cli.study.learner import learn
from tina_cli.study.measures import compare, interval
from tina_cli.study.plan import Plot, Row, Section, Study, best, held_out, mean, mixed, score, seen_lab, shown, unaugmented
from tina_cli.study.pmodels import Networks, predict, start_from


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
    recipe, out = lab.recipe, {}
    out["generic, all classes"] = all_classes(lab, tasks)
    out["selection"] = score(lab, tasks, start_from(lab.generic(), tasks))
    if lab.goes_on:
        out["selection, all classes at once"] = score(lab, tasks, start_from(lab.scratch(), tasks))
    out["selection, trained on tasks"] = score(lab, tasks, start_from(baselines.further(lab, best(lab)), tasks))
    if lab.target.channels:
        for name, other in study.larger.items():
            out[f"selection, {name}"] = score(other, tasks, start_from(other.generic(), tasks))
    out["mixer (TAPER-style)"] = score(lab, tasks, baselines.mixer(lab, tasks))
    out["row look-up"] = score(lab, tasks, baselines.lookup(lab, tasks))
    out["nearest p-Model"] = score(lab, tasks, baselines.nearest(lab, tasks))
    out["ridge"] = score(lab, tasks, baselines.ridge(lab, tasks))
    if lab.target.body_dim:
        out["anchors alone"] = score(lab, tasks, baselines.anchors(lab, tasks))
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

    def one(size: int) -> list[Row]:
        tasks = lab.tasks("test", recipe.few_tasks, size)[: 1 if size == len(lab.bank.names) else recipe.few_tasks]
        found = {
            "selection": score(lab, tasks, start_from(lab.generic(), tasks)),
            "row look-up": score(lab, tasks, baselines.lookup(lab, tasks)),
            "ours": score(lab, tasks, learner.make(tasks)),
            "oracle": score(lab, tasks, lab.fitted(f"oracle-{size}", tasks, recipe.oracle)),
        }
        if size <= recipe.classes:
            found["paper's network, padded"] = score(lab, tasks, baselines.paper(lab).make(tasks))
        return [{"classes": size} | row for row in compare(found)]

    sizes = [size for size in recipe.sizes if size <= len(lab.bank.names)]
    rows = [row for some in lab.side_by_side(one, sizes) for row in some]
    names = dict.fromkeys(row["method"] for row in rows)
    lines = {name: [(row["classes"], row["accuracy"]) for row in rows if row["method"] == name] for name in names}
    return Section("Number of classes", {"Test tasks": rows}, [Plot("Number of classes", "classes", "accuracy", lines)])


def prompts(study: Study) -> Section:
    """What a class is told by, and prompts that are wrong; trained on names with and without noise, and on pictures too."""
    lab, recipe = study.main, study.recipe
    tasks = lab.tasks("test", recipe.test_tasks, recipe.classes)
    own = torch.tensor(tasks)
    learners = {
        "names, with noise": learn(lab, recipe.small),
        "names": learn(lab, unaugmented(recipe)),
        "names and pictures": learn(lab, shown(recipe)),
    }
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
        anchors = learner.space.anchor(learner.space.shares(conditions)).rows
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
