"""CALIBRATION: temperature, rejection threshold and expected accuracy of generated heads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from tina_cli.denoiser import Guidance

KNOWN = 0.02  # a name no newer than this is one that there were pictures of
KEPT = 0.95  # share of the pictures of a model's own classes that the threshold lets through


@dataclass(frozen=True)
class Calibration:
    """Coefficients of `task_signs`: `temperature` in the logarithm of what divides the scores, `accuracy` in the log-odds of
    the expected accuracy; pictures whose best score is below `threshold` are of none of the classes.
    """

    temperature: tuple[float, ...]
    threshold: float
    accuracy: tuple[float, ...]

    def temperature_of(self, signs: Tensor) -> float:
        """Return what divides the scores of a head with these signs."""
        return float(torch.exp(combined(signs, self.temperature)))

    def accuracy_of(self, signs: Tensor) -> float:
        """Return the accuracy to expect of a head with these signs: from chance, one in as many as there are classes, to 1."""
        return float(torch.maximum(torch.sigmoid(combined(signs, self.accuracy)), torch.exp(-signs[1].double())))


def combined(signs: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Return the sum of signs times coefficients; generators made before have coefficients of the first signs alone."""
    return signs[: len(coefficients)].double() @ torch.tensor(coefficients, dtype=torch.float64)


def task_signs(rows: Tensor, guidance: Guidance) -> Tensor:
    """Return what tells an easy task from a hard one before any picture is seen, [8].

    One; the logarithm of the number of classes; how like each other the nearest rows are; how new the names are; how much
    pictures said; for how many classes there are any; that times the likeness, as rows made from pictures are longer; and
    how many are told by known names alone, whose rows are worth more than their likeness says.
    """
    unit = normalize(rows, dim=-1)
    likeness = unit @ unit.T - 2 * torch.eye(len(rows))
    (novelty, pictures), has_pictures = guidance.evidence[0].mean(0), guidance.evidence[0, :, 1] > 0
    known = (~has_pictures & (guidance.evidence[0, :, 0] < KNOWN)).float().mean()
    shown, like = has_pictures.float().mean(), likeness.amax(-1).mean()
    return torch.stack([torch.ones(()), torch.tensor(len(rows)).log(), like, novelty, pictures, shown, shown * like, known])


def fit_calibration(signs: Tensor, scores: list[Tensor], labels: list[Tensor]) -> Calibration:
    """Fit all three on tasks that took part in no training: signs [T, F], scores [n, K] and labels [n] of each task."""
    best_scores = torch.cat([s.amax(-1)[s.argmax(-1) == y] for s, y in zip(scores, labels, strict=True)])
    right = torch.tensor([float((s.argmax(-1) == y).float().mean()) for s, y in zip(scores, labels, strict=True)])
    return Calibration(
        temperature=_rounded(_fit_temperature(signs, scores, labels)),
        threshold=round(float(best_scores.quantile(1 - KEPT)), 6),
        accuracy=_rounded(_fit_log_odds(signs.double(), right.double())),
    )


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in values.tolist())


def _fit_temperature(signs: Tensor, scores: list[Tensor], labels: list[Tensor], ridge: float = 1e-2) -> Tensor:
    """Fit temperatures to the cross-entropy: one for all first, then what a task's signs add to its logarithm."""
    grid = torch.logspace(-2.5, 0.5, 121)
    losses = [sum(float(cross_entropy(s / t, y)) for s, y in zip(scores, labels, strict=True)) for t in grid.tolist()]
    start = torch.zeros(signs.shape[1], dtype=torch.float64)
    start[0] = grid[int(torch.tensor(losses).argmin())].double().log()
    coefficients = start.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([coefficients], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        cold = torch.exp(-signs.double() @ coefficients)
        each = [cross_entropy(s.double() * c, y) for s, c, y in zip(scores, cold, labels, strict=True)]
        loss = torch.stack(each).mean() + ridge * (coefficients - start).square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return coefficients.detach()


def _fit_log_odds(signs: Tensor, right: Tensor, ridge: float = 1e-2, rounds: int = 25) -> Tensor:
    """Fit a binomial regression of accuracies by Newton's method (iteratively reweighted least squares)."""
    coefficients = torch.zeros(signs.shape[1], dtype=torch.float64)
    penalty = ridge * torch.eye(signs.shape[1], dtype=torch.float64)
    for _ in range(rounds):
        guess = torch.sigmoid(signs @ coefficients)
        weight = (guess * (1 - guess)).clamp_min(1e-4)
        hessian = signs.T @ (weight[:, None] * signs) + penalty
        gradient = signs.T @ (right - guess) - penalty @ coefficients
        coefficients = coefficients + torch.linalg.solve(hessian, gradient)
    return coefficients
