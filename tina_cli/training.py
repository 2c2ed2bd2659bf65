"""TRAINING: folders of pictures -> a generator directory, stage by stage, each resumable.

    clip       words and the image trunk -> the small CLIP (only by recipes that ask for it; others take the embedded one)
    features   pictures -> features, computed once; before that, where it is asked for, an image trunk trained on them
    zoo        generic rows of all concepts, held-out classes, tasks and their fine-tuned heads
    diffusion  the denoiser, the calibration, and the generator directory itself

Everything between the stages is kept in a working folder beside the generator, under names that hash what it was made
from: a stage that is done is read, a changed input makes a new file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.backbone import Backbone, clip_backbone, clip_projection
from tina_cli.clip import named_backbone
from tina_cli.codec import fit_spread
from tina_cli.config import ZooStage
from tina_cli.files import digest, write_atomic
from tina_cli.generator_writer import Own, write_generator
from tina_cli.knowledge import concept_conditions, known_before, known_words
from tina_cli.lexicon import Lexicon
from tina_cli.ridge import KernelRidge, fit_kernel_ridge
from tina_cli.run import Run, Zoo, data_concepts, features_stage, prepare
from tina_cli.team import Team
from tina_cli.weights import embedded_weights
from tina_cli.zoo.concepts import known_senses
from tina_cli.zoo.finetune import finetune_part, fit_generic, fit_projection
from tina_cli.zoo.kinds import find_kinds, fit_kinds
from tina_cli.zoo.store import FIT, TUNE, FeatureBank, feature_bank, sharded, sharded_many, write_manifest
from tina_cli.zoo.tasks import draw_tasks, exclusions, task_source

STAGES = ("clip", "features", "zoo", "diffusion")


def train(run: Run, stage: str, resume: bool) -> bool:
    """Run the stages up to `stage` ("all" for the last); return False where all had been done before."""
    if not prepare(run, resume):
        return False
    last = STAGES[-1] if stage == "all" else stage
    clip_folder = clip_stage(run)
    if last == "clip":
        return True
    lexicon = open_lexicon(run)
    backbone = open_backbone(run, clip_folder, lexicon)
    parts = features_stage(run, backbone)
    if last == "features":
        return True
    zoo = zoo_stage(run, backbone, lexicon, clip_folder, parts)
    if last == "zoo":
        return True
    diffusion_stage(run, zoo, backbone, lexicon, clip_folder)
    if not run.team.rank:
        write_atomic(run.work / "done.json", b"{}\n")
    return True


def train_in_team(run: Run, team: Team, stage: str, resume: bool) -> bool:
    """Run the stages as one process of a team: the first does all that comes before the denoiser, which they train together."""
    first, done = "zoo" if stage in ("diffusion", "all") else stage, run.work / "done.json"
    new = not done.exists()
    if not team.rank:
        train(run, first, resume)
    team.wait()
    if first != stage and new:
        train(replace(run, team=team), stage, resume=True)
    team.wait()
    return new


def clip_stage(run: Run) -> Path | None:
    """Return the folder of the CLIP that conditions come from; None where it is an open_clip model known by name."""
    if run.clip is not None:
        return Path(run.clip.removeprefix("local-dir:")) if run.clip.startswith("local-dir:") else None
    if run.recipe.clip.steps == 0:
        return embedded_weights() / "clip"
    from tina_cli.small_clip import make_small_clip

    return make_small_clip(run)


def open_lexicon(run: Run) -> Lexicon:
    """Return the lexicon of a run: its own, where it made a CLIP, or the embedded one."""
    path = run.work / "lexicon.gz"
    lexicon = Lexicon.read(path if path.exists() else embedded_weights() / "lexicon.gz")
    lexicon.index()
    return lexicon


def open_backbone(run: Run, clip_folder: Path | None, lexicon: Lexicon) -> Backbone:
    """Return the image trunk of a run."""
    if run.backbone == "resnet20":
        from tina_cli.trunk import make_trunk

        return make_trunk(run, *data_concepts(run.data, run.recipe, lexicon))
    return clip_backbone(clip_folder, run.device) if clip_folder else named_backbone(str(run.clip), run.device)


def zoo_stage(
    run: Run, backbone: Backbone, lexicon: Lexicon, clip_folder: Path | None, parts: dict[str, tuple[Tensor, Tensor]]
) -> Zoo:
    """Fix the splits, fit the generic rows, draw the tasks and fine-tune their heads."""
    options, seed = run.recipe.zoo, run.recipe.seed
    before = known_before(run, backbone.spec)
    concepts, places = data_concepts(run.data, run.recipe, lexicon, before.concepts)
    bank = feature_bank(parts, places, run.recipe.features.test_share, run.recipe.features.tune_share, seed)
    heldout = torch.tensor([bool(c.heldout) for c in concepts])
    fitted = (bank.part == FIT) & ~heldout[bank.concept]
    own_means = [bank.features[(bank.origin == o) & fitted].float().mean(0) for o in bank.origin[fitted].unique()]
    feature_mean = torch.stack(own_means).mean(0) if before.feature_mean is None else before.feature_mean
    fixed = torch.tensor([c.trunk_row >= 0 for c in concepts])
    known = torch.zeros(len(concepts), backbone.spec.dim)
    for i, concept in enumerate(concepts):
        if concept.trunk_row >= 0:
            known[i] = before.rows[concept.trunk_row]
    noise = torch.full((len(concepts),), run.recipe.denoiser.fitted_noise)
    noise[fixed] = run.recipe.denoiser.noise
    if before.noise is not None:
        noise[: len(before.noise)] = before.noise

    key = [asdict(options), [c.key for c in concepts], backbone.spec.sha256, digest([*map(float, feature_mean[:8])])]

    def generic(fit_on: tuple[int, ...]) -> Tensor:
        def report(**fields: Any) -> None:
            run.report(stage="generic rows", **fields)

        def make() -> dict[str, Tensor]:
            args = (known, fixed, heldout, fit_on, options.generic_steps, options.scale)
            return {"rows": fit_generic(bank, feature_mean, *args, report)}

        return sharded(run.work, "generic", [key, fit_on], make)["rows"]

    rows = generic((FIT,))
    counts = torch.bincount(bank.concept[fitted], minlength=len(concepts))
    alive = ((counts > 0) | fixed) & ~heldout
    spread = before.spread
    if spread is None:
        weights = 1 / torch.bincount(bank.origin)[bank.origin[fitted]].float()  # every set weighs the same
        spread = fit_spread(bank.features[fitted].float() - feature_mean, weights, rows[alive])
    rows, final_rows = spread.standardise(rows), spread.standardise(generic((FIT, TUNE)))
    enough = counts >= min(options.min_pictures, int(counts.max()))

    kinds = find_kinds(concepts, alive, bank, lexicon, known_words(run).keys, options.kinds) if options.kinds else {}
    first, more = len(concepts), len(kinds)
    concepts, bank = [*concepts, *kinds], replace(bank, members=dict(enumerate(kinds.values(), first)))
    alive, enough = (torch.cat([those, torch.ones(more, dtype=torch.bool)]) for those in (alive, enough))
    noise = torch.cat([noise, torch.full((more,), run.recipe.denoiser.kinds_noise)])
    conditions = concept_conditions(run, concepts, lexicon, clip_folder, before.conditions)

    usable = enough.nonzero()[:, 0].tolist()
    centred = normalize(conditions - conditions[alive].mean(0), dim=-1)
    excluded = exclusions(concepts, lexicon, bank.members)
    source = task_source(usable, places.values(), centred @ centred.T, excluded, tuple(bank.members))
    if kinds:
        rows, final_rows = (
            fit_kinds(torch.cat([those, those.new_zeros(more, those.shape[1])]), source, bank, feature_mean, spread, options)
            for those in (rows, final_rows)
        )
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
    models = finetuned(run, tasks, [key, spread.floor], (options, bank, feature_mean, rows))
    return Zoo(
        concepts, places, bank, feature_mean, conditions, rows, final_rows, spread, noise, alive, tasks, heldout_tasks, models
    )


def finetuned(
    run: Run, tasks: Sequence[tuple[int, ...]], key: list[Any], shared: tuple[ZooStage, FeatureBank, Tensor, Tensor]
) -> list[Tensor]:
    """Return the p-Models of tasks, [K, D] each, fine-tuned in shards; `key` says what they are made from."""
    size = run.recipe.zoo.shard
    parts = [(tasks[start : start + size], start) for start in range(0, len(tasks), size)]
    done = 0

    def tick(number: int) -> None:
        nonlocal done
        done += len(parts[number][0])
        run.report(stage="zoo", event="step", step=done, of=len(tasks))

    jobs = [("models", [*key, part], (part, start)) for part, start in parts]
    made = sharded_many(run.work / "zoo", jobs, finetune_part, shared, run.workers, tick)
    return [shard[f"{i:06d}"].float() for shard, (part, _) in zip(made, parts, strict=True) for i in range(len(part))]


def fit_prior(run: Run, zoo: Zoo, rows: Tensor) -> KernelRidge:
    """Fit the regression from text conditions to generic rows [N, D], over all living concepts."""
    options = run.recipe.denoiser
    return fit_kernel_ridge(zoo.conditions[zoo.alive], rows[zoo.alive], options.gamma, zoo.noise[zoo.alive], options.own)


def diffusion_stage(run: Run, zoo: Zoo, backbone: Backbone, lexicon: Lexicon, clip_folder: Path | None) -> None:
    """Train the denoiser, calibrate, and write the generator directory."""
    from tina_cli.denoising import Batches, calibrate, recipe_sampling, train_denoiser

    words = known_words(run)
    projection, spec = clip_projection(clip_folder) if clip_folder else None, backbone.spec
    if backbone.own is not None:
        known = {number: zoo.conditions[number] for number in zoo.alive.nonzero()[:, 0].tolist()}
        projection = fit_projection(zoo.bank, known, run.recipe.clip.projection_noise)
    batches = Batches(run, zoo, fit_prior(run, zoo, zoo.rows), projection)
    network, state = train_denoiser(run, zoo, batches)
    if run.team.rank:
        return  # the first process goes on
    calibration = calibrate(run, zoo, batches, network)
    options = run.recipe.denoiser
    alive = [c for c, living in zip(zoo.concepts, zoo.alive.tolist(), strict=True) if living]
    info = {
        "name": run.out.name,
        "backbone": spec.to_json(),
        "clip": {} if clip_folder else {"name": run.clip},
        "prior": {"gamma": options.gamma, "own": options.own},
        "denoiser": {
            "row_dim": spec.dim,
            "condition_dim": zoo.conditions.shape[1],
            "width": options.width,
            "layers": options.layers,
            "heads": options.heads,
        },
        "sampling": asdict(recipe_sampling(options)),
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
        words.path if len(words) else None,
        Own(backbone.own, projection) if backbone.own is not None and projection is not None else None,
    )
