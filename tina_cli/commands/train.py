"""`tina train`: folders of pictures -> a generator directory."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from tina_cli import options
from tina_cli.console import Steps, libraries_on_stderr, result, result_json, say
from tina_cli.errors import UsageError

STAGES = ("clip", "features", "zoo", "diffusion", "all")
BACKBONES = ("clip", "resnet20")


def train(
    data: Annotated[list[Path], typer.Option(help="Pictures, one subfolder a class. Repeatable: every folder is one set.")],
    out: Annotated[Path, typer.Option(help="The generator directory to make.")],
    recipe: Annotated[str, typer.Option(help="default, tina-mini, tina-mini-heldout, smoke, or a .toml file.")] = "default",
    clip: Annotated[
        str | None,
        typer.Option(help="CLIP to build on, by its open_clip name, or local-dir:PATH.", show_default="the embedded one"),
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="Image trunk: clip is the CLIP's own; resnet20 is trained on your pictures.")
    ] = "clip",
    stage: Annotated[str, typer.Option(help=f"Stop after this stage: {', '.join(STAGES)}.")] = "all",
    work: Annotated[
        Path | None, typer.Option(help="Folder for features, checkpoints and the log.", show_default="OUT.work")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted training.")] = False,
    seed: Annotated[
        int | None, typer.Option(help="Seed of all randomness.", show_default="the recipe's", envvar="TINA_SEED")
    ] = None,
    vectors: Annotated[
        Path | None, typer.Option(help="Genuine CLIP text vectors (.npz), for recipes that train a text tower.")
    ] = None,
    wordnet: Annotated[Path, typer.Option(help="WordNet's noun files, for the same recipes.")] = Path("/usr/share/wordnet"),
    descriptions: Annotated[
        Path | None, typer.Option(help="What things look like, a table (docs/training.md), for the same.")
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(help="Sentence encoder, a folder or a name on the Hub, for the same.", show_default="MiniLM"),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="Where features and p-Models are made: local; ray; ray://ADDRESS for a cluster.")
    ] = "local",
    device: options.Device = "auto",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and show what would be done, and do nothing.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a generator of your own on folders of pictures; stop it at any time and go on with --resume."""
    if stage not in STAGES:
        raise UsageError(f"unknown stage {stage!r}", hint=f"one of {', '.join(STAGES)}")
    if backbone not in BACKBONES:
        raise UsageError(f"unknown backbone {backbone!r}", hint=f"one of {', '.join(BACKBONES)}")
    from dataclasses import replace

    from tina_cli.config import load_recipe

    chosen = load_recipe(recipe)
    chosen = chosen if seed is None else replace(chosen, seed=seed)
    if backbone != "clip" and chosen.zoo.imagenet:
        raise UsageError(f"the recipe {recipe} takes ImageNet's rows from the CLIP's own trunk", hint="use --backbone clip")

    from tina_cli.device import choose_device
    from tina_cli.engine import check_engine, workers_of
    from tina_cli.run import Run, prepare, read_data
    from tina_cli.team import follows, join
    from tina_cli.training import train as run_stages
    from tina_cli.training import train_in_team as run_team

    check_engine(engine)
    quiet = quiet or follows()
    pictures = read_data(data, chosen.features.max_per_class)
    out = out if out.name not in ("", "..") else out.resolve()
    folder = work or out.with_name(out.name + ".work")
    say(overview(pictures), quiet)
    with Steps(quiet) as progress:

        def report(**fields: Any) -> None:
            if follows():
                return
            log(folder / "log.jsonl", fields)
            if fields.get("event") == "step":
                note = f"loss {fields['loss']:.3f}" if "loss" in fields else ""
                progress.step(fields["stage"], fields["step"], fields["of"], note)

        where = choose_device(device)
        sources = (vectors, wordnet, descriptions, encoder)
        run = Run(pictures, out, folder, chosen, clip, where, report, backbone, *sources)
        if dry_run:
            prepare(run, resume, dry=True)
            if json:
                result_json({"schema": "tina/train/1", "output": str(out), "work": str(folder), "stage": stage, "new": False})
            return
        try:
            with libraries_on_stderr(), join(where) as (team, own), workers_of(engine) as workers:
                run = replace(run, workers=workers, device=own)
                new = run_stages(run, stage, resume) if team.size == 1 else run_team(run, team, stage, resume)
        except KeyboardInterrupt:
            say(f"interrupted; the same command with --resume goes on from {folder}", quiet)
            raise
    if follows():
        return
    if json:
        result_json({"schema": "tina/train/1", "output": str(out), "work": str(folder), "stage": stage, "new": new})
    elif not new:
        result(f"{out}: done before")
    else:
        result(f"{out}: trained" if stage in ("all", "diffusion") else f"{folder}: {stage} done")


def overview(pictures: dict[str, dict[str, list[Path]]]) -> str:
    """Return a line that says what the data are."""
    classes = sum(map(len, pictures.values()))
    count = sum(len(paths) for each in pictures.values() for paths in each.values())
    return f"{count} pictures of {classes} classes in {len(pictures)} set{'s' * (len(pictures) != 1)}"


def log(path: Path, fields: dict[str, Any]) -> None:
    """Append one line to the training's log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(jsonlib.dumps(fields, allow_nan=False, default=str) + "\n")
