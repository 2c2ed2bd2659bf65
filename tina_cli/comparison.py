"""COMPARISON: heads that a generator makes of folder names, beside everything else that would have done the job.

tina       what the generator makes of the names, or of some pictures
ridge      the anchor rows alone: regression from text to rows (with pictures: their mean, and words beside them)
nearest    for each class the generic row of the known concept whose name is most alike
zero-shot  the CLIP's own text vectors against its image vectors
generic    the generic model's rows, where it knows every class
oracle     logistic regression on real pictures: those of train/, or else in five-fold cross-validation
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from tina_cli.calibration import task_signs
from tina_cli.errors import DataError, UsageError
from tina_cli.evaluation import expected_calibration_error, mean_interval, rejection_auroc, wilson
from tina_cli.generation import Request, gather, understand
from tina_cli.generator import Generator
from tina_cli.images import read_classes
from tina_cli.prior import Evidence, guide, picture_condition, picture_evidence
from tina_cli.rng import numpy_rng
from tina_cli.sampling import Draw, sample_rows
from tina_cli.zoo.concepts import Concept
from tina_cli.zoo.store import extract

METHODS = ("tina", "ridge", "nearest", "zero-shot", "generic", "oracle")
FOLDS = 5

Classes = Mapping[str, Sequence[Path]]


@dataclass(frozen=True)
class Protocol:
    """How tasks are drawn: `classes` each (None: one task of all), by name or by `shots` pictures, names shuffled or not."""

    tasks: int = 100
    classes: int | None = 5
    shots: int = 0
    shuffled: bool = False
    named: bool = False  # by name and pictures
    seed: int = 0
    split: str = "new data set"  # what is new of the pictures
    oracle: bool = True  # it takes longer than all the rest
    describe: Mapping[str, str] = field(default_factory=dict)  # class -> what it is described by, instead of its name
    vectors: Mapping[str, Tensor] = field(default_factory=dict)  # class -> its condition, instead of the CLIP's own


@dataclass(frozen=True)
class Pool:
    """One data set ready for tasks: class names, unit features by class for test and (maybe) training."""

    names: list[str]
    test: list[Tensor]
    train: list[Tensor]
    generic: Tensor


@dataclass(frozen=True)
class Outcome:
    """One task: each method's accuracy, and of the generated head the expected accuracy, the probabilities of the test pictures
    [n, K], their labels [n], and how well its best scores tell them from pictures of the other classes (nan without).
    """

    accuracy: dict[str, float]
    expected: float
    probabilities: Tensor
    labels: Tensor
    rejection: float


def read_splits(folder: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Read test and training pictures: those of test/ (or val/) and train/ where both are there, else all are for testing.

    Raises `DataError`.
    """
    for name in ("test", "val"):
        if (folder / name).is_dir() and (folder / "train").is_dir():
            return read_classes(folder / name), read_classes(folder / "train")
    return read_classes(folder), {}


def compare(
    generator: Generator, test: Classes, train: Classes, protocol: Protocol, cache: Path, step: Callable[[str, int, int], None]
) -> dict[str, Any]:
    """Compare generated heads with baselines on tasks of folders; features are kept in `cache`.

    Raises `UsageError` and `DataError` for tasks that the data have no room for.
    """
    size = len(test) if protocol.classes is None else protocol.classes
    if not 2 <= size <= len(test):
        raise UsageError(f"tasks of {size} classes cannot be drawn from {len(test)} folders")
    if protocol.shots and min(map(len, test.values())) <= protocol.shots:
        raise DataError(f"a class has no more than {protocol.shots} pictures", hint="ask for fewer --shots")
    return compare_pool(generator, make_pool(generator, test, train, cache, step), protocol, step)


def compare_pool(generator: Generator, pool: Pool, protocol: Protocol, step: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Compare generated heads with baselines on tasks drawn from a data set that is ready and large enough."""
    size = len(pool.names) if protocol.classes is None else protocol.classes
    count = 1 if protocol.classes is None else protocol.tasks
    outcomes = []
    for number in range(count):
        order = numpy_rng(protocol.seed, "evaluation", size, number).permutation(len(pool.names))
        task = sorted(order.tolist()) if protocol.classes is None else order[:size].tolist()
        outcomes.append(run_task(generator, pool, task, protocol, number))
        step("tasks", number + 1, count)
    rows = []
    for method in METHODS:
        values = [outcome.accuracy[method] for outcome in outcomes if method in outcome.accuracy]
        if not values:
            continue
        pictures = len(outcomes[0].labels)
        single = wilson(round(values[0] * pictures), pictures)
        gains = [outcome.accuracy["tina"] - outcome.accuracy[method] for outcome in outcomes if method in outcome.accuracy]
        rows.append({
            "method": method, "classes": size, "split": protocol.split, "accuracy": sum(values) / len(values),
            "ci95": single if len(values) == 1 else mean_interval(values), "n_tasks": len(values),
            "tina_minus": {"mean": sum(gains) / len(gains), "ci95": mean_interval(gains)},
        })  # fmt: skip
    gaps = [abs(outcome.expected - outcome.accuracy["tina"]) for outcome in outcomes]
    return {
        "schema": "tina/evaluate-generator/1",
        "generator": generator.identity,
        "seed": protocol.seed,
        "prompt": prompt_of(protocol),
        "chance": 1 / size,
        "n": sum(len(outcome.labels) for outcome in outcomes),
        "expected_accuracy_error": sum(gaps) / len(gaps),
        "ece": expected_calibration_error(
            torch.cat([outcome.probabilities for outcome in outcomes]), torch.cat([outcome.labels for outcome in outcomes])
        ),
        "rejection_auroc": sum(outcome.rejection for outcome in outcomes) / len(outcomes),
        "rows": rows,
    }


def prompt_of(protocol: Protocol) -> str:
    """Return what classes are asked for by."""
    if protocol.shots:
        return f"names and {protocol.shots} pictures" if protocol.named else f"{protocol.shots} pictures"
    return "shuffled names" if protocol.shuffled else "descriptions" if protocol.describe else "names"


def make_pool(generator: Generator, test: Classes, train: Classes, cache: Path, step: Callable[[str, int, int], None]) -> Pool:
    """Return the data set's features; a class without training pictures has none in `train`."""
    total, done = sum(len(paths) for part in (test, train) for paths in part.values()), 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        step("pictures", done, total)

    parts = extract({"test": test} | ({"train": train} if train else {}), generator.backbone, cache, 1024, 16, tick)
    split: dict[str, list[Tensor]] = {}
    for name, classes in (("test", test), ("train", train)):
        if name in parts:
            features, labels = parts[name]
            by_class = {folder: features[labels == i].float() for i, folder in enumerate(classes)}
            split[name] = [by_class.get(folder, torch.zeros(0, generator.spec.dim)) for folder in test]
    return Pool([name.replace("_", " ") for name in test], split["test"], split.get("train", []), generator.generic_rows())


def run_task(generator: Generator, pool: Pool, task: list[int], protocol: Protocol, number: int) -> Outcome:
    """Run every method on one task."""
    names = [pool.names[i] for i in task]
    rng = numpy_rng(protocol.seed, "shots", number)
    given, tested = [], []
    for i in task:
        order = torch.from_numpy(rng.permutation(len(pool.test[i])))
        given.append(pool.test[i][order[: protocol.shots]])
        tested.append(pool.test[i][order[protocol.shots :]])
    x, y = torch.cat(tested), torch.cat([torch.full((len(part),), k) for k, part in enumerate(tested)])
    centred = x - generator.feature_mean

    asked = [names[i] for i in rng.permutation(len(names))] if protocol.shuffled else names
    describe = {name: [protocol.describe[name]] for name in asked if name in protocol.describe}
    meanings = understand(generator, Request(asked, describe=describe))
    told = [
        Evidence(vector, words=vector) if (vector := protocol.vectors.get(m.name)) is not None else gather(generator, m)
        for m in meanings
    ]
    words = torch.stack([item.condition for item in told])
    if protocol.shots:
        visual = [normalize(g - generator.feature_mean, dim=-1).mean(0) for g in given]
        seen = [picture_condition(g, generator.projection) for g in given]
        evidence = [
            picture_evidence(c, v, protocol.shots, w if protocol.named else None)
            for c, v, w in zip(seen, visual, words, strict=True)
        ]
    else:
        evidence = told
    guidance = guide(generator.text_anchors, evidence)
    draw = Draw(guidance, asked, protocol.seed)
    [rows] = sample_rows(generator.denoiser, [draw], generator.sampling, generator.device)

    def accuracy(scores: Tensor) -> float:
        return float((scores.argmax(-1) == y).float().mean())

    out = {"tina": accuracy(centred @ rows.T), "ridge": accuracy(centred @ guidance.anchor[0].T)}
    if not protocol.shots:
        likeness = normalize(words - generator.prior.mean, dim=-1) @ generator.prior.keys.T
        out["nearest"] = accuracy(centred @ pool.generic[likeness.argmax(-1)].T)
        projected = x if generator.projection is None else x @ generator.projection.T
        out["zero-shot"] = accuracy(projected @ words.T)
    found = [generator.places.get(Concept(m.name, m.sense.id if m.sense else None).key) for m in meanings]
    if None not in found:
        out["generic"] = accuracy(centred @ pool.generic[torch.tensor(found)].T)
    if protocol.oracle:
        real = [pool.train[i] - generator.feature_mean for i in task] if pool.train else []
        out["oracle"] = oracle(centred, y, real, protocol.seed)
    signs, scores = task_signs(rows, guidance), centred @ rows.T
    others = [part for i, part in enumerate(pool.test) if i not in task]
    strange = (torch.cat(others) - generator.feature_mean) @ rows.T if others else scores[:0]
    return Outcome(
        out,
        generator.calibration.accuracy_of(signs),
        (scores / generator.calibration.temperature_of(signs)).softmax(-1),
        y,
        rejection_auroc(scores.amax(-1), strange.amax(-1)),
    )


def oracle(test: Tensor, labels: Tensor, train: Sequence[Tensor], seed: int) -> float:
    """Return the accuracy of a linear classifier fitted on training features by class, or by five-fold cross-validation."""
    if train and all(map(len, train)):
        targets = torch.cat([torch.full((len(part),), k) for k, part in enumerate(train)])
        weight = fit_linear(torch.cat(list(train)), targets, len(train))
        return float((test @ weight.T).argmax(-1).eq(labels).float().mean())
    fold = torch.empty(len(labels), dtype=torch.long)
    fold[torch.from_numpy(numpy_rng(seed, "folds").permutation(len(labels)))] = torch.arange(len(labels)) % FOLDS
    right = 0
    for k in range(FOLDS):
        weight = fit_linear(test[fold != k], labels[fold != k], int(labels.max()) + 1)
        right += int((test[fold == k] @ weight.T).argmax(-1).eq(labels[fold == k]).sum())
    return right / len(labels)


def fit_linear(features: Tensor, labels: Tensor, classes: int, penalty: float = 1e-3) -> Tensor:
    """Return the weight [K, D] of logistic regression on features brought to unit length (L-BFGS)."""
    x = normalize(features, dim=-1)
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weight], lr=1, max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = cross_entropy(x @ weight.T, labels) + penalty * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return weight.detach()
