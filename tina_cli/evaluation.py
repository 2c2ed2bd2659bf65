"""EVALUATION: accuracy with intervals, calibration, and what else would have done the job."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from tina_cli.clip import sentences, text_condition
from tina_cli.errors import DataError, UsageError
from tina_cli.generator import Generator
from tina_cli.lexicon import Lexicon, Sense, normalise
from tina_cli.prediction import Classifier, accuracy
from tina_cli.prior import Evidence, guide, picture_condition
from tina_cli.rng import numpy_rng
from tina_cli.sampling import sample_rows_for
from tina_cli.zoo.store import extract

METHODS = ("tina", "ridge", "nearest", "zero-shot", "generic", "oracle")
FOLDS = 5


def wilson(right: float, n: int, z: float = 1.959964) -> list[float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    if n == 0:
        return [float("nan"), float("nan")]
    p, centre = right / n, right / n + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return [(centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)]


def mean_interval(values: Sequence[float]) -> list[float]:
    """Return the 95 % interval of a mean over tasks (Student's t)."""
    from scipy import stats

    n = len(values)
    if n < 2:
        return [float("nan"), float("nan")]
    mean, spread = sum(values) / n, torch.tensor(values, dtype=torch.float64).std().item()
    half = float(stats.t.ppf(0.975, n - 1)) * spread / math.sqrt(n)
    return [mean - half, mean + half]


def expected_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy over equal bins (Guo et al. 2017, equation 3)."""
    confidence, guess = probabilities.max(-1)
    place = (confidence * bins).long().clamp_max(bins - 1)
    right = (guess == labels).float()
    gaps = [(confidence[place == b] - right[place == b]).sum().abs() for b in range(bins)]
    return float(torch.stack(gaps).sum() / max(1, len(labels)))


def match_folders(folders: Sequence[str], classes: Sequence[str], lexicon: Lexicon) -> dict[str, str]:
    """Map folder names to class names by spelling, singular or sense: `cats` is `cat`, `automobile` may be `car`."""

    def plain(name: str) -> str:
        return normalise(lexicon.singular(normalise(name)))

    by_name = {plain(name): name for name in classes}
    senses = lexicon.choose(list(classes))
    by_sense = {sense.id: name for name, sense in zip(classes, senses, strict=True) if sense}
    out: dict[str, str] = {}
    for folder, sense in zip(folders, lexicon.choose([normalise(f) for f in folders]), strict=True):
        found = by_name.get(plain(folder)) or (by_sense.get(sense.id) if sense else None)
        if found:
            out[folder] = found
    return out


def evaluate_model(
    classifier: Classifier, data: Mapping[str, Sequence[Path]], tick: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Measure a model on pictures by class name; every class name must be one of the model's."""
    labels_of = {name: i for i, name in enumerate(classifier.model.classes)}
    listed = [(path, labels_of[name]) for name, paths in data.items() for path in paths]
    labels = torch.tensor([label for _, label in listed])
    features = classifier.backbone.read([path for path, _ in listed], tick=tick)
    scores = classifier.scores(features)
    guess = scores.argmax(-1)
    count = len(classifier.model.classes)
    confusion = torch.zeros(count, count, dtype=torch.long)
    confusion.index_put_((labels, guess), torch.ones_like(labels), accumulate=True)
    right = int((guess == labels).sum())
    per_class = {
        name: {"accuracy": int(confusion[i, i]) / int(confusion[i].sum()), "n": int(confusion[i].sum())}
        for name, i in labels_of.items()
        if int(confusion[i].sum())
    }
    return {
        "schema": "tina/evaluate-model/1",
        "accuracy": right / len(labels),
        "ci95": wilson(right, len(labels)),
        "n": len(labels),
        "chance": 1 / count,
        "expected_accuracy": classifier.model.info.get("expected_accuracy"),
        "per_class": per_class,
        "classes": classifier.model.classes,
        "confusion": confusion.tolist(),
        "ece": expected_calibration_error((scores / classifier.model.info["temperature"]).softmax(-1), labels),
    }


@dataclass(frozen=True)
class Pool:
    """One data set ready for tasks: class names, unit features by class, and the conditions already made."""

    names: list[str]
    features: list[Tensor]
    conditions: dict[tuple[str, str], Tensor]


def evaluate_generator(
    generator: Generator,
    data: Mapping[str, Sequence[Path]],
    tasks: int,
    classes: int | None,
    shots: int,
    seed: int,
    cache: Path,
    tick: Callable[[int], None] = lambda _: None,
    shuffled: bool = False,
) -> dict[str, Any]:
    """Compare generated heads with baselines on random tasks of `classes` folders (None: one task of all folders).

    `shots` pictures per class are given as prompts instead of the names, and are not tested on; 0 means names.
    `shuffled` gives every class another class's name: a generator that reads its prompt must then fall below chance.
    """
    names = list(data)
    size = len(names) if classes is None else classes
    if not 2 <= size <= len(names):
        raise UsageError(f"tasks of {size} classes cannot be drawn from {len(names)} folders")
    if shots and min(map(len, data.values())) <= shots:
        raise DataError(f"a class has no more than {shots} pictures", hint="ask for fewer --shots")
    features, labels = extract({"evaluation": data}, generator.backbone, cache, 1024, 16, tick)["evaluation"]
    by_class = [features[labels == i].float() for i in range(len(names))]
    pool = Pool([name.replace("_", " ") for name in names], by_class, {})
    drawn = [list(range(len(names)))] if classes is None else []
    rng = numpy_rng(seed, "evaluation", size)
    while len(drawn) < tasks and classes is not None:
        drawn.append(rng.permutation(len(names))[:size].tolist())
    results: dict[str, list[float]] = {method: [] for method in METHODS}
    pictures = 0
    expected: list[float] = []
    for number, task in enumerate(drawn):
        outcome, guess, pictures = evaluate_task(generator, pool, task, shots, seed, number, shuffled)
        expected.append(guess)
        for method, value in outcome.items():
            results[method].append(value)
    rows = [
        {
            "method": method if not shots or method in ("oracle", "generic") else f"{method} ({shots} pictures)",
            "classes": size,
            "split": "given data",
            "accuracy": sum(values) / len(values),
            "ci95": mean_interval(values) if classes is not None else wilson(values[0] * pictures, pictures),
            "n_tasks": len(values),
        }
        for method, values in results.items()
        if values
    ]
    gap = [abs(a - b) for a, b in zip(expected, results["tina"], strict=True)]
    return {
        "schema": "tina/evaluate-generator/1",
        "generator": generator.identity,
        "seed": seed,
        "shots": shots,
        "chance": 1 / size,
        "expected_accuracy_error": sum(gap) / len(gap),
        "rows": rows,
    }


def evaluate_task(
    generator: Generator, pool: Pool, task: list[int], shots: int, seed: int, number: int, shuffled: bool
) -> tuple[dict[str, float], float, int]:
    """Return each method's accuracy on one task, the expected accuracy, and the number of pictures tested."""
    from tina_cli.calibration import expected_accuracy, task_signs

    names = [pool.names[i] for i in task]
    rng = numpy_rng(seed, "shots", number)
    given, tested = [], []
    for i in task:
        order = torch.from_numpy(rng.permutation(len(pool.features[i])))
        given.append(pool.features[i][order[:shots]])
        tested.append(pool.features[i][order[shots:]])
    x = torch.cat(tested)
    y = torch.cat([torch.full((len(part),), k) for k, part in enumerate(tested)])
    centred = x - generator.feature_mean

    asked = names[1:] + names[:1] if shuffled else names
    known = frozenset(c.sense for c in generator.concepts if c.sense)
    senses = generator.lexicon.choose(asked, known)
    words = torch.stack([condition_of(generator, pool, n, s) for n, s in zip(asked, senses, strict=True)])
    if shots:
        visual = [normalize(g - generator.feature_mean, dim=-1).mean(0) for g in given]
        seen = torch.stack([picture_condition(g, generator.projection) for g in given])
        evidence = [Evidence(c, v, shots, None) for c, v in zip(seen, visual, strict=True)]
    else:
        evidence = [Evidence(c, words=c) for c in words]
    guidance = guide(generator.prior, evidence)
    defaults = generator.info["sampler"]
    rows = sample_rows_for(
        generator.denoiser, guidance, asked, seed, defaults["name"], defaults["steps"], defaults["timesteps"], generator.device
    )
    out = {"tina": accuracy(centred @ rows.T, y)}
    out["ridge" if not shots else "nearest"] = accuracy(centred @ normalize(guidance.anchor[0], dim=-1).T, y)
    if not shots:
        keys = normalize(words - generator.prior.mean, dim=-1) @ generator.prior.keys.T
        generic = generic_rows(generator)
        out["nearest"] = accuracy(centred @ generic[keys.argmax(-1)].T, y)
        projected = x if generator.projection is None else x @ generator.projection.T
        out["zero-shot"] = accuracy(projected @ words.T, y)
        places = {c.key: i for i, c in enumerate(generator.concepts)}
        found = [places.get(s.id if s else normalise(n)) for n, s in zip(asked, senses, strict=True)]
        if all(place is not None for place in found):
            out["generic"] = accuracy(centred @ generic[torch.tensor(found)].T, y)
    out["oracle"] = probe(normalize(centred, dim=-1), y, len(task), seed)
    return out, expected_accuracy(task_signs(rows, guidance), generator.calibration.accuracy), len(y)


_generic: dict[str, Tensor] = {}


def generic_rows(generator: Generator) -> Tensor:
    """Return the generator's generic rows, computed once."""
    key = str(generator.folder)
    if key not in _generic:
        _generic[key] = generator.generic_rows()
    return _generic[key]


def condition_of(generator: Generator, pool: Pool, name: str, sense: Sense | None) -> Tensor:
    """Return the text condition of a name in a sense, made once."""
    key = (name, sense.id if sense else "")
    if key not in pool.conditions:
        pool.conditions[key] = text_condition(generator.clip, sentences(name, sense, generator.lexicon))
    return pool.conditions[key]


def probe(features: Tensor, labels: Tensor, classes: int, seed: int, penalty: float = 1e-3) -> float:
    """Return the accuracy of logistic regression in five-fold cross-validation: the oracle."""
    order = torch.from_numpy(numpy_rng(seed, "folds").permutation(len(labels)))
    fold = torch.empty(len(labels), dtype=torch.long)
    fold[order] = torch.arange(len(labels)) % FOLDS
    right = 0.0
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        weight = torch.zeros(classes, features.shape[1], requires_grad=True)
        optimiser = torch.optim.LBFGS([weight], lr=1, max_iter=60, line_search_fn="strong_wolfe")

        def closure(weight: Tensor = weight, train: Tensor = train, optimiser: Any = optimiser) -> Tensor:
            optimiser.zero_grad()
            loss = cross_entropy(features[train] @ weight.T, labels[train]) + penalty * weight.square().sum()
            loss.backward()
            return loss

        optimiser.step(closure)
        right += float(((features[test] @ weight.T).argmax(-1) == labels[test]).sum())
    return right / len(labels)
