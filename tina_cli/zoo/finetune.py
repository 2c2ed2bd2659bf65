"""Fitting heads: the generic rows of all concepts, and many tasks' p-Models at once as one batched tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from tina_cli.config import ZooStage
from tina_cli.loop import Report
from tina_cli.ridge import fit_linear_ridge
from tina_cli.rng import torch_rng
from tina_cli.zoo.store import FIT, TUNE, FeatureBank


def finetune_heads(start: Tensor, features: Tensor, steps: int, lr: float, scale: float, pull: float) -> Tensor:
    """Fine-tune T heads at once from their generic rows: rows [T, K, D].

    start [T, K, D] are the rows, features [T, K, n, D] centred unit features of n pictures per class. Minimised by Adam is
    the mean cross-entropy of the scores times `scale`, plus `pull` times the squared distance to the start.
    """
    tasks, classes, pictures, _ = features.shape
    flat = features.flatten(1, 2)  # (T, K n, D)
    labels = torch.arange(classes).repeat_interleave(pictures).expand(tasks, -1)
    rows = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([rows], lr=lr * start.shape[-1] ** -0.5)
    for _ in range(steps):
        scores = scale * flat @ rows.transpose(1, 2)  # (T, K n, K)
        loss = cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="sum") / (classes * pictures)
        loss = loss + pull * (rows - start).square().sum() / classes
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return rows.detach()


def fit_generic(
    bank: FeatureBank,
    mean: Tensor,
    known: Tensor,
    fixed: Tensor,
    heldout: Tensor,
    fit_on: Sequence[int],
    steps: int,
    scale: float,
    report: Report,
) -> Tensor:
    """Return the generic rows of all concepts: unit rows [N, D].

    known [N, D] holds given rows where `fixed` [N]; the others start at the mean of their pictures and minimise the
    cross-entropy over each set's own classes, so that sets whose classes overlap do not fight. `fit_on` are the parts of the
    bank to fit on; `heldout` [N] concepts take no part.
    """
    usable = torch.isin(bank.part, torch.tensor(fit_on)) & ~heldout[bank.concept]
    parts = []
    sums = torch.zeros_like(known)
    counts = torch.zeros(len(known))
    for origin in bank.origin.unique().tolist():
        places = (usable & (bank.origin == origin)).nonzero()[:, 0]
        if not len(places):
            continue
        classes, labels = bank.concept[places].unique(return_inverse=True)
        features = centred_features(bank, mean, places)
        parts.append((classes, labels, features))
        sums.index_add_(0, bank.concept[places], features)
        counts.index_add_(0, bank.concept[places], torch.ones(len(places)))
    seen = counts > 0
    rows = torch.where(fixed[:, None], known, sums / counts.clamp_min(1)[:, None])
    free = (seen & ~fixed).nonzero()[:, 0]
    if not len(free):
        return normalize(rows, dim=-1)
    learned = normalize(rows[free], dim=-1).requires_grad_()
    optimiser = torch.optim.Adam([learned], lr=0.02 * rows.shape[1] ** -0.5)
    for step in range(steps):
        total = torch.zeros(())
        whole = normalize(rows, dim=-1).index_copy(0, free, normalize(learned, dim=-1))
        for number, (classes, labels, features) in enumerate(parts):
            chosen = sample_rows(len(labels), 512, step, number)
            scores = scale * features[chosen] @ whole[classes].T
            total = total + cross_entropy(scores, labels[chosen])
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        if (step + 1) % 50 == 0 or step + 1 == steps:
            report(event="step", step=step + 1, of=steps, loss=total.item() / len(parts))
    return normalize(rows.index_copy(0, free, learned.detach()), dim=-1)


def fit_projection(bank: FeatureBank, conditions: Mapping[int, Tensor], noise: float) -> Tensor:
    """Fit the matrix [d, D] that carries features towards the conditions [d] of their concepts: ridge regression.

    Pictures for testing take no part; every concept with others weighs the same.
    """
    means, texts = [], []
    for number, condition in conditions.items():
        own = torch.cat([bank.rows_of(number, FIT), bank.rows_of(number, TUNE)])
        if len(own):
            means.append(normalize(bank.features[own].float().mean(0), dim=-1))
            texts.append(condition)
    return fit_linear_ridge(torch.stack(means), torch.stack(texts), noise)


def sample_rows(count: int, size: int, *purpose: object) -> Tensor:
    """Return `size` of `count` places, all of them where there are no more."""
    if count <= size:
        return torch.arange(count)
    return torch.randint(count, (size,), generator=torch_rng(0, "sample", *purpose))


def task_features(
    bank: FeatureBank,
    mean: Tensor,
    tasks: Sequence[Sequence[int]],
    pictures: int,
    part: int,
    *purpose: object,
    unit: bool = True,
) -> Tensor:
    """Return centred features [T, K, pictures, D] drawn with replacement for tasks of one size K, of unit length or not.

    A class with no picture of the part gives those that rows were fitted on.
    """
    features = centred_features(bank, mean, drawn_pictures(bank, tasks, pictures, part, *purpose), unit)
    return features.unflatten(0, (len(tasks), len(tasks[0]), pictures))


def drawn_pictures(bank: FeatureBank, tasks: Sequence[Sequence[int]], pictures: int, part: int, *purpose: object) -> Tensor:
    """Return the places [T K pictures] in a bank of pictures drawn with replacement for tasks' classes, in their order."""
    rng = torch_rng(0, "pictures", *purpose)
    places = []
    for task in tasks:
        for concept in task:
            start, have = bank.span(concept, part)
            if not have:
                start, have = bank.span(concept, FIT)
            places.append(start + torch.randint(have, (pictures,), generator=rng))
    return bank.listed[torch.cat(places)]


def centred_features(bank: FeatureBank, mean: Tensor, places: Tensor, unit: bool = True) -> Tensor:
    """Return the centred features [n, D] at some places of a bank, of unit length or not."""
    features = bank.features[places].float() - mean
    return normalize(features, dim=-1) if unit else features


def finetune_part(
    shared: tuple[ZooStage, FeatureBank, Tensor, Tensor], part: Sequence[tuple[int, ...]], start: int
) -> dict[str, Tensor]:
    """Fine-tune a shard's heads, those of one size K together; shared are options, bank, feature mean and generic rows."""
    options, bank, mean, rows = shared
    out: dict[str, Tensor] = {}
    for size in sorted({len(task) for task in part}):
        numbers = [i for i, task in enumerate(part) if len(task) == size]
        for begin in range(0, len(numbers), 64):
            some = numbers[begin : begin + 64]
            tasks = [part[i] for i in some]
            features = task_features(bank, mean, tasks, options.pictures, FIT, "fine-tune", start, size, begin)
            first = torch.stack([rows[list(task)] for task in tasks])
            heads = finetune_heads(first, features, options.steps, options.lr, options.scale, options.pull)
            out |= {f"{i:06d}": head.half().clone() for i, head in zip(some, heads, strict=True)}
    return out
