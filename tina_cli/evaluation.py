"""EVALUATION: the accuracy of a model, with intervals and calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tina_cli.lexicon import Lexicon, normalise
from tina_cli.prediction import Classifier
from tina_cli.senses import choose_senses


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


def rejection_auroc(own: Tensor, strange: Tensor) -> float:
    """Return how often a picture of a model's classes scores above one of none of them, a half for ties; nan without any."""
    from scipy import stats

    if not len(own) or not len(strange):
        return float("nan")
    return float(stats.mannwhitneyu(own.numpy(), strange.numpy()).statistic / (len(own) * len(strange)))


def match_folders(folders: Sequence[str], told: Sequence[Mapping[str, Any]], lexicon: Lexicon) -> dict[str, str]:
    """Map folder names to class names by spelling, singular or sense: `cats` is `cat`, `lorry` and `camion` are `truck`.

    `told` is what the model file says of its classes: their names and, where these tell, what they were taken for and their
    senses. A folder whose sense is a kind of just one class's sense is that class.
    """
    classes = [str(entry["name"]) for entry in told]

    def plain(name: str) -> str:
        return normalise(lexicon.singular(normalise(name)))

    by_name = {plain(entry["taken_for"]): entry["name"] for entry in told if "taken_for" in entry}
    by_name |= {plain(name): name for name in classes}
    senses = choose_senses(lexicon, classes)
    by_sense = {sense.id: name for name, sense in zip(classes, senses, strict=True) if sense and sense.id}
    by_sense |= {entry["sense"]: entry["name"] for entry in told if entry.get("sense")}
    out: dict[str, str] = {}
    for folder in folders:
        *_, sense = choose_senses(lexicon, [*classes, normalise(folder)])  # not beside other folders
        found = by_name.get(plain(folder)) or (by_sense.get(sense.id) if sense else None)
        if not found and sense:
            above = {by_sense[kind] for kind in lexicon.above(sense) if kind in by_sense}
            found = above.pop() if len(above) == 1 else None
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
