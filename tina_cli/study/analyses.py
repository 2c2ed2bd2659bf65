"""ANALYSES of ours: what more of everything is worth, whether it is generation, what each part is worth, what it costs."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch

from tina_cli.rng import torch_rng
from tina_cli.sampler import SAMPLERS
from tina_cli.study import baselines
from tina_cli.study.lab import Lab, Task
from tina_cli.study.learner import Learner, learn
from tina_cli.study.measures import compare, interval
from tina_cli.study.plan import Plot, Row, Section, Study, ablations, few_models, mean, score, sizes
from tina_cli.study.pmodels import Networks, finetune, predict, start_from
from tina_cli.zoo.store import TUNE


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
    again = lab.fitted("again", seen, recipe.pmodel)
    rng = torch_rng(recipe.seed, "copies")
    scale = (zoo.bodies - zoo.bodies.mean(0)).square().mean(0).sqrt().clamp_min(1e-6)
    kept = zoo[list(range(len(seen)))]
    noisy = Networks(
        kept.bodies + 0.1 * scale * torch.randn(kept.bodies.shape, generator=rng),
        kept.rows + 0.1 * learner.space.row_scale * torch.randn(kept.rows.shape, generator=rng),
    )
    audit = []
    for name, tasks, made in (
        ("p-Model, another seed", seen, again),
        ("ours, training tasks", seen, learner.make(seen)),
        ("noise-added copy", seen, noisy),
        ("row look-up (averages)", seen, baselines.lookup(lab, seen)),
    ):
        gap = (made.bodies - kept.bodies) / scale
        own = gap.square().mean(1).sqrt()
        others = torch.cdist(made.bodies / scale, zoo.bodies / scale) / gap.shape[1] ** 0.5
        overlap = [error_overlap(lab, task, made, kept, i) for i, task in enumerate(tasks)]
        audit.append({
            "networks": name, "distance to own p-Model": mean(own.tolist()), "to the nearest": mean(others.amin(1).tolist()),
            "own is the nearest": mean((others.argmin(1) == torch.arange(len(tasks))).float().tolist()),
            "errors shared": mean(overlap), "accuracy": mean(score(lab, tasks, made)), "n_tasks": len(tasks),
        })  # fmt: skip
    drawn = [learner.make(test, seed=seed) for seed in range(recipe.samples)]
    chosen = np.array([score(lab, test, made, TUNE) for made in drawn]).argmax(0)
    tested = np.array([score(lab, test, made) for made in drawn])
    bodies = torch.stack([made.bodies for made in drawn]) / scale
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
    how = recipe.few
    for name, begin in starts.items():
        points: list[tuple[float, float]] = []

        def look(step: int, now: Networks, points: list[tuple[float, float]] = points) -> None:
            if step in (0, how.steps) or (step & (step - 1)) == 0:
                points.append((max(step, 0.5), mean(score(lab, test, now))))

        finetune(lab.target, lab.bank, test, begin, how, "start", most=20, at=look)
        curve[name] = points
    tables = {
        "Whose body": whose_body(learner),
        "Memorisation": audit,
        "Samples of one prompt": spread,
        "As a start, 20 pictures a class": [
            {"start": name, "steps": int(step), "accuracy": value} for name, points in curve.items() for step, value in points
        ],
    }
    return Section("Is it generation?", tables, [Plot("Fine-tuning, 20 pictures a class", "steps", "accuracy", curve)])


def whose_body(learner: Learner) -> list[Row]:
    """Return how good networks of unseen tasks are with their own bodies and with others: personal ones are better."""
    lab = learner.lab
    tasks = lab.tasks("test", lab.recipe.test_tasks, lab.recipe.classes)
    made = learner.make(tasks)
    bodies = {
        "ours": made.bodies,
        "with the mean body of all tasks": made.bodies.mean(0).expand_as(made.bodies),
        "with another task's body": made.bodies.roll(1, 0),
    }
    return compare({name: score(lab, tasks, Networks(body, made.rows)) for name, body in bodies.items()})


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
    generic, zoo = lab.seconds("scratch") + lab.seconds("generic"), lab.seconds("zoo")
    rows = [
        {"what": "generic model (both need it)", "seconds": generic},
        {"what": f"zoo of {recipe.zoo} p-Models", "seconds": zoo},
        {"what": "denoiser", "seconds": learner.seconds},
        {"what": "a generated network", "seconds": ours},
        {"what": "a fine-tuned network", "seconds": tuned},
    ]
    pays = (zoo + learner.seconds) / max(1e-9, tuned - ours)
    return Section("Cost", {"One core": rows}, facts={"networks after which training once pays off": pays})
