"""The `diffusion` stage: training the denoiser on the zoo, and calibrating what it generates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from tina_cli.calibration import Calibration, fit_calibration, task_signs
from tina_cli.codec import decode_rows, encode_rows
from tina_cli.config import DenoiserStage
from tina_cli.denoiser import Denoiser, Guidance
from tina_cli.diffusion import q_sample
from tina_cli.files import digest
from tina_cli.loop import Ahead, LoopOptions, train_loop
from tina_cli.prior import blend, joint_condition, picture_share, picture_vectors
from tina_cli.ridge import KernelRidge, left_out
from tina_cli.rng import derive, numpy_rng, torch_rng
from tina_cli.run import Run, Zoo
from tina_cli.sampling import Draw, Sampling, sample_rows
from tina_cli.zoo.finetune import centred_features, drawn_pictures, task_features
from tina_cli.zoo.store import FIT, TUNE

MOST_PICTURES = 5
PORTION = 4096  # pictures whose vectors are made at once
WORDS, PICTURES = 0, 1  # the third kind is both
KINDS = (0.5, 0.25, 0.25)
DEPTHS = (0.3, 0.4, 0.3)
MIXED = 0.25  # share of the tasks whose classes come with different kinds of evidence


@dataclass(frozen=True)
class Anchors:
    """Text anchors of all concepts [N, D] with their novelty [N], as if more and more of what is known were unknown.

    `rows` and `novelty` hold, in order: everything known; the class itself left out; its whole neighbourhood left out.
    Trained on these, the denoiser meets words as new as a user's.
    """

    rows: Tensor  # [3, N, D]
    novelty: Tensor  # [3, N]


def cross_fitted(zoo: Zoo, prior: KernelRidge, groups: int, seed: int) -> Anchors:
    """Compute the anchors of the living concepts, in closed form; the others' stay zero."""
    alive = zoo.alive.nonzero()[:, 0]
    rows, keys = zoo.rows[alive], prior.keys
    singles = torch.arange(len(alive))
    clusters = cluster(keys, min(groups, len(alive) // 2), seed)
    likeness = keys @ keys.T
    out = torch.zeros(3, len(zoo.concepts), zoo.rows.shape[1])
    novelty = torch.zeros(3, len(zoo.concepts))
    out[0, alive] = prior.predict(zoo.conditions[alive])
    for place, group in ((1, singles), (2, clusters)):
        out[place, alive] = left_out(prior, rows, group)
        others = likeness.masked_fill(group[:, None] == group[None, :], -1.0)
        novelty[place, alive] = 1 - others.amax(-1)
    return Anchors(zoo.spread.standardise(out), novelty)


def cluster(points: Tensor, count: int, seed: int, rounds: int = 20) -> Tensor:
    """Return the cluster [N] of each unit vector [N, d], by spherical k-means."""
    centres = points[torch.randperm(len(points), generator=torch_rng(seed, "cluster"))[:count]]
    for _ in range(rounds):
        nearest = (points @ centres.T).argmax(-1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, points)
        centres = torch.where(sums.norm(dim=-1, keepdim=True) > 0, normalize(sums, dim=-1), centres)
    return (points @ centres.T).argmax(-1)


@dataclass(frozen=True)
class Batch:
    """A step's tasks, padded to one size K: guidance, p-Models `x_0 [B, K, D]`, `mask [B, K]`, `features [B, K, n, D]`.

    In a team they are this process's, and `weight` is how many rows they have beside the team's mean.
    """

    guidance: Guidance
    x_0: Tensor
    mask: Tensor
    features: Tensor
    weight: float

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        told = Guidance(*(getattr(self.guidance, part).to(device) for part in ("condition", "evidence", "anchor")))
        return Batch(told, self.x_0.to(device), self.mask.to(device), self.features.to(device), self.weight)


@dataclass(frozen=True)
class Drawn:
    """What a task's K classes are told by: depths of novelty, numbers of pictures, whether by words, which pictures (their
    places in the bank's list), and noise [K, d].
    """

    depths: np.ndarray[Any, Any]
    counts: np.ndarray[Any, Any]
    words: np.ndarray[Any, Any]
    chosen: list[np.ndarray[Any, Any]]
    noise: Tensor | None


class Batches:
    """Training batches: tasks of like size, padded; their guidance; pictures for the functional loss."""

    def __init__(self, run: Run, zoo: Zoo, prior: KernelRidge, projection: Tensor | None) -> None:
        self.options, self.seed = run.recipe.denoiser, run.recipe.seed
        self.zoo, self.prior, self.team = zoo, prior, run.team
        parts = zoo.bank.features.split(PORTION)
        self.vectors = torch.cat([picture_vectors(part.float(), projection).half() for part in parts])
        self.anchors = cross_fitted(zoo, prior, self.options.groups, self.seed)
        self.order = sorted(range(len(zoo.tasks)), key=lambda i: (len(zoo.tasks[i]), i))
        self.size = min(self.options.batch, len(self.order))  # tasks of a batch, the team's

    def pick(self, step: int) -> list[int]:
        """Return the tasks of a batch: neighbours in size, so that little is padded."""
        start = int(numpy_rng(self.seed, "batch", step).integers(0, len(self.order) - self.size + 1))
        return self.order[start : start + self.size]

    def make(self, step: int) -> Batch:
        """Return a step's batch, or this process's part of it."""
        picked = self.pick(step)
        whole, numbers = [len(self.zoo.tasks[i]) for i in picked], picked[self.team.own]
        tasks = [self.zoo.tasks[i] for i in numbers]
        size = max(whole)
        mask = torch.arange(size)[None] < torch.tensor([len(task) for task in tasks])[:, None]
        told = self.tell(tasks, [self.draw(task, step, i) for i, task in zip(numbers, tasks, strict=True)])
        guidance = Guidance(*(spread_out(getattr(told, part)[0], mask) for part in ("condition", "evidence", "anchor")))
        x_0 = encode_rows(torch.cat([self.zoo.models[i] for i in numbers]))
        bank, pictures = self.zoo.bank, self.options.pictures
        places = [drawn_pictures(bank, [task], pictures, TUNE, "loss", step, i) for i, task in zip(numbers, tasks, strict=True)]
        features = centred_features(bank, self.zoo.feature_mean, torch.cat(places)).unflatten(0, (-1, pictures))
        weight = sum(map(len, tasks)) * self.team.size / sum(whole)
        return Batch(guidance, spread_out(x_0, mask), mask, spread_out(features, mask), weight)

    def guidance(self, task: Sequence[int], *purpose: object, depth: int | None = None) -> Guidance:
        """Return one task's guidance [1, K, ...]: words at some depth of novelty, pictures, or both."""
        return self.tell([task], [self.draw(task, *purpose, depth=depth)])

    def draw(self, task: Sequence[int], *purpose: object, depth: int | None = None) -> Drawn:
        """Draw what a task's classes are told by.

        Most tasks are of one kind throughout, as most users' are; in the others every class has its own.
        """
        rng = numpy_rng(self.seed, "guidance", *purpose)
        depths = np.full(len(task), depth if depth is not None else rng.choice(3, p=DEPTHS))
        if depth is None and rng.random() < 0.5:
            depths = rng.choice(3, len(task), p=DEPTHS)
        kinds, counts = np.full(len(task), rng.choice(3, p=KINDS)), np.full(len(task), rng.integers(1, MOST_PICTURES + 1))
        if rng.random() < MIXED:
            kinds, counts = rng.choice(3, len(task), p=KINDS), rng.integers(1, MOST_PICTURES + 1, len(task))
        spans = [self.zoo.bank.span(concept, FIT) for concept in task]
        shown = (kinds != WORDS) & np.array([have >= 2 * MOST_PICTURES for _, have in spans])
        counts[~shown] = 0
        chosen = [start + rng.integers(0, have, n) for (start, have), n in zip(spans, counts, strict=True) if n]
        noise = None
        if depth is None:
            noise = torch.from_numpy(rng.standard_normal((len(task), self.zoo.conditions.shape[1]))).float()
        return Drawn(depths, counts, ~shown | (kinds != PICTURES), chosen, noise)

    def tell(self, tasks: Sequence[Sequence[int]], drawn: Sequence[Drawn]) -> Guidance:
        """Return the guidance [1, K, ...] of the classes of some tasks, all in a row, by what was drawn for each task."""
        index = torch.tensor([concept for task in tasks for concept in task])
        depths, counts, said = (
            torch.from_numpy(np.concatenate([getattr(own, name) for own in drawn])) for name in ("depths", "counts", "words")
        )
        chosen = np.concatenate([np.empty(0, dtype=np.int64), *(places for own in drawn for places in own.chosen)])
        given = self.zoo.bank.listed[torch.from_numpy(chosen)]
        features = centred_features(self.zoo.bank, self.zoo.feature_mean, given)
        visual, seen = (sums(values, counts) for values in (features, self.vectors[given].float()))
        words = torch.where(said[:, None], self.zoo.conditions[index], 0)
        conditions = joint_condition(words, normalize(seen, dim=-1))
        anchors = blend(self.anchors.rows[depths, index], visual, counts, said)
        evidence = torch.stack([self.anchors.novelty[depths, index] * said, picture_share(counts)], dim=-1)
        centred = normalize(conditions - self.prior.mean, dim=-1)
        noise = [own.noise for own in drawn if own.noise is not None]
        if noise:
            centred = normalize(centred + self.options.condition_noise * centred.shape[1] ** -0.5 * torch.cat(noise), dim=-1)
        return Guidance(centred[None], evidence[None], encode_rows(anchors)[None])


def sums(values: Tensor, counts: Tensor) -> Tensor:
    """Return the sums [K, D] of values [n, D], the first `counts[0]` of which are the first's, and so on."""
    owner = torch.arange(len(counts)).repeat_interleave(counts)
    return values.new_zeros(len(counts), values.shape[1]).index_add_(0, owner, values)


def spread_out(values: Tensor, mask: Tensor) -> Tensor:
    """Return values [n, ...] at the n places of a mask [B, K], zeros elsewhere, [B, K, ...]."""
    out = values.new_zeros(*mask.shape, *values.shape[1:])
    out[mask] = values
    return out


def train_denoiser(
    run: Run, zoo: Zoo, batches: Batches, design: Callable[..., Denoiser] = Denoiser
) -> tuple[Denoiser, dict[str, Tensor]]:
    """Train on the zoo's p-Models: squared distance of rows, and cross-entropy of the predicted head on pictures.

    Returns the network, one of a design, with its averaged (EMA) parameters, and these.
    """
    options, device = run.recipe.denoiser, run.device
    torch.manual_seed(derive(run.recipe.seed, "denoiser"))
    network = design(zoo.rows.shape[1], zoo.conditions.shape[1], options.width, options.layers, options.heads).to(device)
    scale = run.recipe.zoo.scale

    batch_at = Ahead(batches.make, options.steps)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        batch = batch_at(step).to(device)
        rng = torch_rng(run.recipe.seed, "noise", step)
        t = torch.rand(batches.size, generator=rng)
        eps = torch.randn(batches.size, *batch.x_0.shape[1:], generator=rng)
        t, eps = (drawn[run.team.own].to(device) for drawn in (t, eps))
        out = network(q_sample(batch.x_0, t, eps), t, batch.guidance, batch.mask)
        distance = (out - batch.x_0).square().mean(-1)[batch.mask].mean()

        scores = scale * batch.features.flatten(1, 2) @ decode_rows(out).transpose(1, 2)  # (B, K n, K)
        scores = scores.masked_fill(~batch.mask[:, None, :], -torch.inf)
        labels = torch.arange(out.shape[1], device=device).repeat_interleave(options.pictures).expand(len(out), -1)
        real = batch.mask.repeat_interleave(options.pictures, dim=1)
        functional = cross_entropy(scores[real], labels[real])
        loss = batch.weight * (options.distance * distance + functional)
        return loss, {"rows": distance.item(), "functional": functional.item()}

    key = digest([asdict(run.recipe), len(zoo.tasks), float(zoo.rows.sum()), float(zoo.conditions.sum())])
    loop = LoopOptions(
        steps=options.steps, lr=options.lr, warmup=100, weight_decay=0.05, ema=0.998, checkpoint_every=200,
        seed=run.recipe.seed,
    )  # fmt: skip
    checkpoint = run.work / f"denoiser-{key}.safetensors"
    ema = train_loop(network, loss_at, loop, checkpoint, lambda **f: run.report(stage="diffusion", **f), run.team)
    halves = {name: value.half() for name, value in ema.items()}  # calibrate what will be stored
    network.load_state_dict({name: value.float() for name, value in halves.items()})
    return network.eval(), halves


def recipe_sampling(options: DenoiserStage) -> Sampling:
    """Return how models are sampled from a denoiser trained by a recipe."""
    return Sampling("dpm-solver++", options.sample_steps, options.timesteps, options.strength)


def calibrate(run: Run, zoo: Zoo, batches: Batches, network: Denoiser) -> Calibration:
    """Fit the calibration on tasks outside the training, every kind of evidence at every depth of novelty, on TUNE pictures."""
    options = run.recipe.denoiser
    signs, scores, labels = [], [], []
    kinds = zoo.bank.members.keys()  # among themselves they are harder to tell apart than what is usually asked for
    tasks = [task for task in zoo.heldout_tasks or zoo.tasks if not kinds >= set(task)]
    for number in range(options.calibration_tasks):
        task = tasks[number % len(tasks)]
        guidance = batches.guidance(task, "calibration", number, depth=number % 3)
        names = [zoo.concepts[i].name for i in task]
        [rows] = sample_rows(network, [Draw(guidance, names, run.recipe.seed)], recipe_sampling(options), run.device)
        features = task_features(zoo.bank, zoo.feature_mean, [task], 8, TUNE, "calibration", number, unit=False)[0]
        signs.append(task_signs(rows, guidance))
        scores.append(features.flatten(0, 1) @ rows.T)
        labels.append(torch.arange(len(task)).repeat_interleave(8))
    return fit_calibration(torch.stack(signs), scores, labels)
