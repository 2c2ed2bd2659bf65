"""TRAINING: folders of pictures -> a generator directory, stage by stage, each resumable.

    clip       words and the image trunk -> the small CLIP (only by recipes that ask for it; others take the embedded one)
    features   pictures -> features, computed once
    zoo        generic rows of all concepts, held-out classes, tasks and their fine-tuned heads
    diffusion  the denoiser, the calibration, and the generator directory itself

Everything between the stages is kept in a working folder beside the generator, under names that hash what it was made
from: a stage that is done is read, a changed input makes a new file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tina_cli.backbone import Backbone, BackboneSpec, clip_backbone, clip_projection, weights_sha256
from tina_cli.clip import load_clip, sentences, text_condition
from tina_cli.config import Preprocess, Recipe
from tina_cli.errors import DataError, UsageError
from tina_cli.files import digest, pretty_json, read_json, write_atomic
from tina_cli.generator import INFO, embedded_weights, open_generator, write_generator
from tina_cli.images import read_classes
from tina_cli.lexicon import Lexicon
from tina_cli.loop import Report
from tina_cli.ridge import KernelRidge, fit_kernel_ridge
from tina_cli.zoo.concepts import Concept, collect, imagenet_concepts
from tina_cli.zoo.finetune import finetune_heads, fit_generic, task_features
from tina_cli.zoo.store import FeatureBank, extract, feature_bank, sharded, write_manifest
from tina_cli.zoo.tasks import TaskSource, draw_tasks, exclusions

STAGES = ("clip", "features", "zoo", "diffusion")


@dataclass(frozen=True)
class Run:
    """One training: where from, where to, how."""

    data: dict[str, dict[str, list[Path]]]  # set -> class -> pictures
    out: Path
    work: Path
    recipe: Recipe
    clip: str | None  # an open_clip name; None is the embedded one, or the one the recipe makes
    device: torch.device
    report: Report
    vectors: Path | None = None
    wordnet: Path = Path("/usr/share/wordnet")


@dataclass(frozen=True)
class Zoo:
    """What the zoo stage hands on. Rows are unit rows; `alive` are the concepts that have one and are not held out."""

    concepts: list[Concept]
    places: dict[str, list[int]]
    bank: FeatureBank
    feature_mean: Tensor
    conditions: Tensor
    rows: Tensor
    alive: Tensor
    tasks: list[tuple[int, ...]]
    heldout_tasks: list[tuple[int, ...]]
    models: list[Tensor]


def read_data(folders: Sequence[Path], most: int) -> dict[str, dict[str, list[Path]]]:
    """Read picture sets, one folder of classes each, at most `most` pictures a class; raises `DataError`."""
    sets: dict[str, dict[str, list[Path]]] = {}
    for folder in folders:
        if folder.name in sets:
            raise DataError(f"two data folders are called {folder.name}", hint="rename one")
        sets[folder.name] = {name.replace("_", " "): paths[:most] for name, paths in read_classes(folder).items()}
    if sum(len(classes) for classes in sets.values()) < 2:
        raise DataError("the data have fewer than two classes")
    return sets


def prepare(run: Run, resume: bool) -> bool:
    """Make the working folder, or check that it is this run's; say whether there is anything left to do.

    Raises `UsageError` where the folder holds other work, or this one's and `resume` was not asked for.
    """
    listing = {name: {c: [p.name for p in ps] for c, ps in classes.items()} for name, classes in run.data.items()}
    config = {"recipe": asdict(run.recipe), "clip": run.clip, "data": digest(listing)}
    path = run.work / "run.json"
    if path.exists():
        if read_json(path) != json.loads(pretty_json(config)):
            raise UsageError(f"{run.work} holds another training", hint="choose another --work, or remove it")
        if not resume:
            raise UsageError(f"{run.work} holds this training, begun before", hint="add --resume to go on with it")
    elif (run.out / INFO).exists():
        raise UsageError(f"{run.out} holds a generator", hint="choose another --out, or remove it")
    run.work.mkdir(parents=True, exist_ok=True)
    write_atomic(path, pretty_json(config).encode())
    return not (run.work / "done.json").exists()


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
    lexicon_path = run.work / "lexicon.gz"
    lexicon = Lexicon.read(lexicon_path if lexicon_path.exists() else embedded_weights() / "lexicon.gz")
    if clip_folder is not None:
        return clip_backbone(clip_folder, run.device), lexicon
    assert run.clip is not None
    visual = load_clip(run.clip, run.device).model.visual
    return visual_backbone(run.clip, visual, run.device), lexicon


def visual_backbone(name: str, visual: nn.Module, device: torch.device) -> Backbone:
    """Return an open_clip model's image tower as a backbone; its features are CLIP's own image vectors."""
    how = visual.preprocess_cfg  # type: ignore[union-attr]
    size = how["size"] if isinstance(how["size"], int) else how["size"][0]  # type: ignore[index]
    dim = int(visual.output_dim)  # type: ignore[arg-type]
    pictures = Preprocess(size, tuple(how["mean"]), tuple(how["std"]), how["interpolation"])  # type: ignore[index]
    spec = BackboneSpec(f"open_clip:{name.partition(':')[0]}", weights_sha256(visual.state_dict()), dim, pictures)
    return Backbone(spec, visual.eval(), device)


def features_stage(run: Run, backbone: Backbone) -> dict[str, tuple[Tensor, Tensor]]:
    """Compute every picture's features once."""
    total = sum(len(paths) for classes in run.data.values() for paths in classes.values())
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        run.report(stage="features", event="step", step=done, of=total)

    options = run.recipe.features
    return extract(run.data, backbone, run.work / "features", options.shard, options.batch, tick)


def known_before(run: Run, spec: BackboneSpec) -> tuple[list[Concept], Tensor]:
    """Return concepts whose rows are given, and these rows: the trunk's own classifier, or the embedded generator's."""
    if run.recipe.zoo.imagenet:
        from tina_cli.student import imagenet_weights

        weight = imagenet_weights()["classifier.weight"]
        return imagenet_concepts(), normalize(weight - weight.mean(0), dim=-1)
    if run.clip is None and (embedded_weights() / INFO).exists():
        embedded = open_generator(embedded_weights(), run.device)
        if embedded.spec.sha256 == spec.sha256:
            concepts = [Concept(c.name, c.sense, trunk_row=i) for i, c in enumerate(embedded.concepts)]
            return concepts, embedded.generic_rows()
    return [], torch.zeros(0, spec.dim)


def concept_conditions(run: Run, concepts: Sequence[Concept], lexicon: Lexicon, clip_folder: Path | None) -> Tensor:
    """Return the text conditions of concepts, [N, d]."""
    texts = [sentences(c.name, lexicon.get(c.sense) if c.sense else None, lexicon) for c in concepts]

    def make() -> dict[str, Tensor]:
        clip = load_clip(f"local-dir:{clip_folder}" if clip_folder else str(run.clip), run.device)
        rows = []
        for number, text in enumerate(texts, 1):
            rows.append(text_condition(clip, text))
            if number % 100 == 0 or number == len(texts):
                run.report(stage="conditions", event="step", step=number, of=len(texts))
        return {"conditions": torch.stack(rows)}

    weights = clip_folder / "open_clip_model.safetensors" if clip_folder else None
    key = [texts, weights.stat().st_size if weights else run.clip, weights.stat().st_mtime_ns if weights else 0]
    return sharded(run.work, "conditions", key, make)["conditions"]


def zoo_stage(
    run: Run, backbone: Backbone, lexicon: Lexicon, clip_folder: Path | None, parts: dict[str, tuple[Tensor, Tensor]]
) -> Zoo:
    """Fix the splits, fit the generic rows, draw the tasks and fine-tune their heads."""
    options, seed = run.recipe.zoo, run.recipe.seed
    lexicon.index()
    first, given = known_before(run, backbone.spec)
    sets = {name: list(classes) for name, classes in run.data.items()}
    concepts, places = collect(sets, lexicon, first, options.heldout_share, options.heldout_kinds, seed)
    bank = feature_bank(parts, places, run.recipe.features.test_share, seed)
    feature_mean = torch.stack(
        [bank.features[(bank.origin == o) & ~bank.test].float().mean(0) for o in bank.origin.unique()]
    ).mean(0)
    fixed = torch.tensor([c.trunk_row >= 0 for c in concepts])
    known = torch.zeros(len(concepts), backbone.spec.dim)
    for i, concept in enumerate(concepts):
        if concept.trunk_row >= 0:
            known[i] = given[concept.trunk_row]
    heldout = torch.tensor([bool(c.heldout) for c in concepts])
    conditions = concept_conditions(run, concepts, lexicon, clip_folder)

    key = [asdict(options), [c.key for c in concepts], backbone.spec.sha256, digest([*map(float, feature_mean[:8])])]
    report = lambda **fields: run.report(stage="generic rows", **fields)  # noqa: E731
    rows = sharded(
        run.work,
        "generic",
        key,
        lambda: {"rows": fit_generic(bank, feature_mean, known, fixed, heldout, options.generic_steps, options.scale, report)},
    )["rows"]
    pictured = torch.zeros(len(concepts), dtype=torch.bool)
    pictured[bank.concept[~bank.test]] = True
    alive = (fixed | pictured) & ~heldout

    centred = normalize(conditions - conditions[alive].mean(0), dim=-1)
    usable = tuple((pictured & ~heldout).nonzero()[:, 0].tolist())
    allowed = set(usable)
    kept = [tuple(sorted({i for i in members if i in allowed})) for members in places.values()]
    source = TaskSource(
        usable, tuple(k for k in kept if len(k) >= 2), centred @ centred.T, exclusions(concepts, lexicon)
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
            "test_pictures": int(bank.test.sum()),
        },
    )
    models: list[Tensor] = []
    for start in range(0, len(tasks), options.shard):
        part = tasks[start : start + options.shard]

        def make(part: list[tuple[int, ...]] = part, start: int = start) -> dict[str, Tensor]:
            return finetune_part(run, bank, feature_mean, rows, part, start)

        made = sharded(run.work / "zoo", "models", [key, part], make)
        models += [made[f"{i:06d}"].float() for i in range(len(part))]
        run.report(stage="zoo", event="step", step=start + len(part), of=len(tasks))
    return Zoo(concepts, places, bank, feature_mean, conditions, rows, alive, tasks, heldout_tasks, models)


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
            features = task_features(bank, mean, tasks, options.pictures, False, "fine-tune", start, size, begin)
            first = torch.stack([rows[list(task)] for task in tasks])
            heads = finetune_heads(first, features, options.steps, options.lr, options.scale, options.pull)
            out |= {f"{i:06d}": head.half().clone() for i, head in zip(some, heads, strict=True)}
    return out


def fit_prior(run: Run, zoo: Zoo) -> KernelRidge:
    """Fit the regression from text conditions to generic rows, over all living concepts."""
    options = run.recipe.denoiser
    return fit_kernel_ridge(zoo.conditions[zoo.alive], zoo.rows[zoo.alive], options.gamma, options.noise)


def diffusion_stage(run: Run, zoo: Zoo, spec: BackboneSpec, lexicon: Lexicon, clip_folder: Path | None) -> None:
    """Train the denoiser, calibrate, and write the generator directory."""
    from tina_cli.denoising import calibrate, train_denoiser

    prior = fit_prior(run, zoo)
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
        "sampler": {"name": "dpm-solver++", "steps": options.sample_steps, "timesteps": options.timesteps},
        "recipe": asdict(run.recipe),
        "data": {name: len(classes) for name, classes in run.data.items()},
        "concepts": [[c.name, c.sense] for c in alive],
        "heldout": [[c.name, c.sense, c.heldout] for c in zoo.concepts if c.heldout],
    }
    write_generator(run.out, info, prior, zoo.feature_mean, state, calibration, lexicon, clip_folder)
