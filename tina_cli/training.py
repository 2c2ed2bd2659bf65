"""TRAINING: folders of pictures -> a generator directory, stage by stage, each resumable.

    clip       words and the image trunk -> the small CLIP (only by recipes that ask for it; others take the embedded one)
    features   pictures -> features, computed once
    zoo        generic rows of all concepts, held-out classes, tasks and their fine-tuned heads
    diffusion  the denoiser, the calibration, and the generator directory itself

Everything between the stages is kept in a working folder beside the generator, under names that hash what it was made
from: a stage that is done is read, a changed input makes a new file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.backbone import Backbone, BackboneSpec, clip_backbone, clip_projection, clip_weights
from tina_cli.clip import load_clip, named_backbone, sentences, text_condition
from tina_cli.codec import Spread, fit_spread
from tina_cli.files import digest, sha256, write_atomic
from tina_cli.generator import open_generator, write_generator
from tina_cli.lexicon import Lexicon
from tina_cli.ridge import KernelRidge, fit_kernel_ridge
from tina_cli.run import Run, Zoo, features_stage, prepare
from tina_cli.weights import INFO, embedded_weights
from tina_cli.zoo.concepts import Concept, collect, imagenet_concepts, known_senses
from tina_cli.zoo.finetune import finetune_heads, fit_generic, task_features
from tina_cli.zoo.store import FIT, TUNE, FeatureBank, feature_bank, sharded, write_manifest
from tina_cli.zoo.tasks import TaskSource, draw_tasks, exclusions

STAGES = ("clip", "features", "zoo", "diffusion")


def train(run: Run, stage: str, resume: bool) -> bool:
    """Run the stages up to `stage` ("all" for the last); return False where all had been done before."""
    if not prepare(run, resume):
        return False
    last = STAGES[-1] if stage == "all" else stage
    clip_folder = clip_stage(run)
    if last == "clip":
        return True
    backbone, lexicon = open_backbone(run, clip_folder)
    parts = features_stage(run, backbone)
    if last == "features":
        return True
    zoo = zoo_stage(run, backbone, lexicon, clip_folder, parts)
    if last == "zoo":
        return True
    diffusion_stage(run, zoo, backbone.spec, lexicon, clip_folder)
    write_atomic(run.work / "done.json", b"{}\n")
    return True


def clip_stage(run: Run) -> Path | None:
    """Return the folder of the CLIP that conditions come from; None where it is an open_clip model known by name."""
    if run.clip is not None:
        return Path(run.clip.removeprefix("local-dir:")) if run.clip.startswith("local-dir:") else None
    if run.recipe.clip.steps == 0:
        return embedded_weights() / "clip"
    from tina_cli.small_clip import make_small_clip

    return make_small_clip(run)


def open_backbone(run: Run, clip_folder: Path | None) -> tuple[Backbone, Lexicon]:
    """Return the image trunk and the lexicon of a run."""
    path = run.work / "lexicon.gz"
    lexicon = Lexicon.read(path if path.exists() else embedded_weights() / "lexicon.gz")
    return clip_backbone(clip_folder, run.device) if clip_folder else named_backbone(str(run.clip), run.device), lexicon


@dataclass(frozen=True)
class Known:
    """What is known before the run's own pictures: concepts and their rows, and where it is a generator's, its scales too."""

    concepts: Sequence[Concept]
    rows: Tensor
    conditions: Tensor | None = None
    feature_mean: Tensor | None = None
    spread: Spread | None = None


def known_before(run: Run, spec: BackboneSpec) -> Known:
    """Return the trunk's own classifier, where the recipe asks for it, or else what the embedded generator knows."""
    if run.recipe.zoo.imagenet:
        from tina_cli.student import imagenet_weights

        weight = imagenet_weights()["classifier.weight"]
        return Known(imagenet_concepts(), normalize(weight - weight.mean(0), dim=-1))
    if run.clip is None and (embedded_weights() / INFO).exists():
        embedded = open_generator(embedded_weights(), run.device)
        if embedded.spec.sha256 == spec.sha256:
            concepts = [Concept(c.name, c.sense, trunk_row=i) for i, c in enumerate(embedded.concepts)]
            conditions = embedded.prior.inputs()
            return Known(concepts, embedded.generic_rows(), conditions, embedded.feature_mean, embedded.spread)
    return Known([], torch.zeros(0, spec.dim))


def concept_conditions(
    run: Run, concepts: Sequence[Concept], lexicon: Lexicon, clip_folder: Path | None, given: Tensor | None
) -> Tensor:
    """Return the text conditions of concepts, [N, d]; those of concepts known before are `given`."""
    first = 0 if given is None else len(given)
    texts = [sentences(c.name, lexicon.sense_of(c.name, c.sense), lexicon) for c in concepts[first:]]

    def make() -> dict[str, Tensor]:
        clip = load_clip(f"local-dir:{clip_folder}" if clip_folder else str(run.clip), run.device)
        rows = []
        for number, text in enumerate(texts, 1):
            rows.append(text_condition(clip, text))
            if number % 100 == 0 or number == len(texts):
                run.report(stage="conditions", event="step", step=number, of=len(texts))
        return {"conditions": torch.stack(rows)}

    which = sha256(clip_weights(clip_folder)) if clip_folder else run.clip
    made = sharded(run.work, "conditions", [texts, which], make)["conditions"] if texts else torch.zeros(0, 0)
    return made if given is None else torch.cat([given, made]) if texts else given


def zoo_stage(
    run: Run, backbone: Backbone, lexicon: Lexicon, clip_folder: Path | None, parts: dict[str, tuple[Tensor, Tensor]]
) -> Zoo:
    """Fix the splits, fit the generic rows, draw the tasks and fine-tune their heads."""
    options, seed = run.recipe.zoo, run.recipe.seed
    lexicon.index()
    before = known_before(run, backbone.spec)
    sets = {name: {c: len(paths) for c, paths in classes.items()} for name, classes in run.data.items()}
    concepts, places = collect(sets, lexicon, before.concepts, options.heldout_share, options.heldout_kinds, seed)
    bank = feature_bank(parts, places, run.recipe.features.test_share, run.recipe.features.tune_share, seed)
    own_means = [bank.features[(bank.origin == o) & (bank.part == FIT)].float().mean(0) for o in bank.origin.unique()]
    feature_mean = torch.stack(own_means).mean(0) if before.feature_mean is None else before.feature_mean
    fixed = torch.tensor([c.trunk_row >= 0 for c in concepts])
    known = torch.zeros(len(concepts), backbone.spec.dim)
    for i, concept in enumerate(concepts):
        if concept.trunk_row >= 0:
            known[i] = before.rows[concept.trunk_row]
    heldout = torch.tensor([bool(c.heldout) for c in concepts])
    conditions = concept_conditions(run, concepts, lexicon, clip_folder, before.conditions)

    key = [asdict(options), [c.key for c in concepts], backbone.spec.sha256, digest([*map(float, feature_mean[:8])])]

    def generic(fit_on: tuple[int, ...]) -> Tensor:
        def report(**fields: Any) -> None:
            run.report(stage="generic rows", **fields)

        def make() -> dict[str, Tensor]:
            args = (known, fixed, heldout, fit_on, options.generic_steps, options.scale)
            return {"rows": fit_generic(bank, feature_mean, *args, report)}

        return sharded(run.work, "generic", [key, fit_on], make)["rows"]

    rows = generic((FIT,))
    fitted = (bank.part == FIT) & ~heldout[bank.concept]
    counts = torch.bincount(bank.concept[fitted], minlength=len(concepts))
    alive = ((counts > 0) | fixed) & ~heldout
    spread = before.spread
    if spread is None:
        weights = 1 / torch.bincount(bank.origin)[bank.origin[fitted]].float()  # every set weighs the same
        spread = fit_spread(bank.features[fitted].float() - feature_mean, weights, rows[alive])
    rows, final_rows = spread.standardise(rows), spread.standardise(generic((FIT, TUNE)))

    centred = normalize(conditions - conditions[alive].mean(0), dim=-1)
    enough = counts >= min(options.min_pictures, int(counts.max()))
    usable = tuple(enough.nonzero()[:, 0].tolist())
    allowed = set(usable)
    kept = [tuple(sorted({i for i in members if i in allowed})) for members in places.values()]
    source = TaskSource(usable, tuple(k for k in kept if len(k) >= 2), centred @ centred.T, exclusions(concepts, lexicon))
    most = min(options.max_classes, len(usable))
    drawn = draw_tasks(source, options.tasks + options.heldout_tasks, options.min_classes, most, seed)
    heldout_tasks, tasks = drawn[: options.heldout_tasks], drawn[options.heldout_tasks :]
    write_manifest(
        run.work / "zoo",
        {
            "concepts": [[c.name, c.sense, c.heldout] for c in concepts],
            "tasks": tasks,
            "heldout_tasks": heldout_tasks,
            "pictures": torch.bincount(bank.part, minlength=3).tolist(),
        },
    )
    models: list[Tensor] = []
    for start in range(0, len(tasks), options.shard):
        part = tasks[start : start + options.shard]

        def make(part: list[tuple[int, ...]] = part, start: int = start) -> dict[str, Tensor]:
            return finetune_part(run, bank, feature_mean, rows, part, start)

        made = sharded(run.work / "zoo", "models", [key, spread.floor, part], make)
        models += [made[f"{i:06d}"].float() for i in range(len(part))]
        run.report(stage="zoo", event="step", step=start + len(part), of=len(tasks))
    return Zoo(concepts, places, bank, feature_mean, conditions, rows, final_rows, spread, alive, tasks, heldout_tasks, models)


def finetune_part(
    run: Run, bank: FeatureBank, mean: Tensor, rows: Tensor, part: Sequence[tuple[int, ...]], start: int
) -> dict[str, Tensor]:
    """Fine-tune a shard's heads, those of one size K together."""
    options = run.recipe.zoo
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


def fit_prior(run: Run, zoo: Zoo, rows: Tensor) -> KernelRidge:
    """Fit the regression from text conditions to generic rows [N, D], over all living concepts."""
    options = run.recipe.denoiser
    return fit_kernel_ridge(zoo.conditions[zoo.alive], rows[zoo.alive], options.gamma, options.noise)


def diffusion_stage(run: Run, zoo: Zoo, spec: BackboneSpec, lexicon: Lexicon, clip_folder: Path | None) -> None:
    """Train the denoiser, calibrate, and write the generator directory."""
    from tina_cli.denoising import calibrate, sampling_of, train_denoiser

    prior = fit_prior(run, zoo, zoo.rows)
    projection = clip_projection(clip_folder) if clip_folder else None
    network, state = train_denoiser(run, zoo, prior, projection)
    calibration = calibrate(run, zoo, prior, network)
    options = run.recipe.denoiser
    alive = [c for c, living in zip(zoo.concepts, zoo.alive.tolist(), strict=True) if living]
    info = {
        "name": run.out.name,
        "backbone": spec.to_json(),
        "clip": {} if clip_folder else {"name": run.clip},
        "prior": {"gamma": options.gamma, "noise": options.noise},
        "denoiser": {
            "row_dim": spec.dim,
            "condition_dim": zoo.conditions.shape[1],
            "width": options.width,
            "layers": options.layers,
            "heads": options.heads,
        },
        "sampling": asdict(sampling_of(options)),
        "recipe": asdict(run.recipe),
        "data": {name: len(classes) for name, classes in run.data.items()},
        "concepts": [[c.name, c.sense] for c in alive],
        "known_senses": sorted(known_senses(alive, lexicon)),
        "heldout": [[c.name, c.sense, c.heldout] for c in zoo.concepts if c.heldout],
    }
    write_generator(
        run.out,
        info,
        fit_prior(run, zoo, zoo.final_rows),
        zoo.spread,
        zoo.feature_mean,
        state,
        calibration,
        lexicon,
        clip_folder,
    )
