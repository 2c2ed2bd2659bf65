"""MEASURES of the study: means over tasks with bootstrap intervals, paired differences, recovery."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Accuracies = Mapping[str, Sequence[float]]
RESAMPLES = 2000
LEAST_GAIN = 0.005  # of fine-tuning over selection: shares of less are noise


def interval(values: Sequence[float]) -> list[float]:
    """Return the 95 % bootstrap interval of a mean over tasks (percentiles)."""
    from scipy.stats import bootstrap

    if len(values) < 2 or min(values) == max(values):
        return [float(np.mean(values))] * 2
    found = bootstrap(
        (np.asarray(values),), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return [float(found.low), float(found.high)]


def compare(
    methods: Accuracies,
    ours: str = "ours",
    selection: str = "selection",
    tuned: str = "fine-tuned, all",
    oracle: str = "oracle",
) -> list[dict[str, Any]]:
    """Return a row for each method: its mean, the paired difference of ours to it, recovery, and its share of the oracle.

    Recovery is (method - selection) / (fine-tuning - selection), told where there is something to recover.
    """
    mean = {name: float(np.mean(values)) for name, values in methods.items()}
    out = []
    for name, values in methods.items():
        row: dict[str, Any] = {"method": name, "accuracy": mean[name], "ci95": interval(values), "n_tasks": len(values)}
        if ours in methods and name != ours:
            gaps = np.subtract(methods[ours], values).tolist()
            row["ours_minus"] = {"mean": float(np.mean(gaps)), "ci95": interval(gaps)}
        if {selection, tuned} <= mean.keys() and mean[tuned] - mean[selection] >= LEAST_GAIN:
            row["recovery"] = (mean[name] - mean[selection]) / (mean[tuned] - mean[selection])
        if oracle in mean:
            row["of_oracle"] = mean[name] / mean[oracle]
        out.append(row)
    return out
