"""`tina generate`: a prompt, or a file of prompts, -> model files."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from tina_cli import options
from tina_cli.console import libraries_on_stderr, result, result_bytes, result_json, result_line, say
from tina_cli.errors import DataError, UsageError
from tina_cli.files import check_writable, write_atomic
from tina_cli.prompt import check_classes, read_class_list

STDOUT = Path("-")


def generate(
    prompt: Annotated[
        str | None,
        typer.Argument(help='What to tell apart: "classify cats, dogs and trucks"; - reads it from standard input.'),
    ] = None,
    output: options.Output = Path("model.safetensors"),
    class_: Annotated[
        list[str] | None, typer.Option("--class", help="An exact class name, in place of a prompt. Repeatable.")
    ] = None,
    classes_file: Annotated[
        Path | None, typer.Option(help="A file with one exact class name a line, in place of a prompt; - is standard input.")
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A picture, or a folder of pictures, that shows what NAME means. Repeatable."),
    ] = None,
    describe: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=TEXT", help="A description that says what NAME means. Repeatable."),
    ] = None,
    batch: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='Many requests, one JSON object a line: {"prompt": ...}. -o is a folder then.'),
    ] = None,
    seed: options.Seed = 0,
    samples: Annotated[int, typer.Option(help="Sample so many and keep the one with the best expected accuracy.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Sampling steps.", show_default="the generator's own")] = None,
    sampler: Annotated[str | None, typer.Option(help="ddim, ddpm or dpm-solver++.", show_default="the generator's own")] = None,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Put the backbone into the file: it then needs nothing else.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail for a name far from all that is known, or with another's meaning.")
    ] = False,
    weights: options.Weights = None,
    clip: options.Clip = None,
    device: options.Device = "auto",
    no_cache: options.NoCache = False,
    force: options.Force = False,
    resume: Annotated[bool, typer.Option("--resume", help="With --batch: keep the models that are there already.")] = False,
    engine: Annotated[
        str, typer.Option(help="With --batch: local; ray for processes side by side; ray://ADDRESS for a cluster.")
    ] = "local",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what is understood, and write nothing.")] = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Generate a classifier from a sentence, from class names, from descriptions or from pictures."""
    sampling = {"seed": seed, "samples": samples, "steps": steps, "sampler": sampler, "bundle": bundle, "strict": strict}
    if batch is not None:
        if prompt is not None or class_ or classes_file or image or describe or dry_run:
            raise UsageError("--batch takes its requests from the file alone", hint="leave out prompt, classes and --dry-run")
        run_batch(batch, output, sampling, weights, clip, device, not no_cache, force, resume, engine, quiet)
        return
    if resume or engine != "local":
        raise UsageError(f"{'--resume' if resume else '--engine'} belongs to --batch")
    if output == STDOUT and json:
        raise UsageError("-o - writes the model to standard output, where --json writes too", hint="leave one of them out")
    if output != STDOUT and not dry_run:
        check_writable(output, force)
    images, texts = pairs("--image", image), pairs("--describe", describe)
    names = explicit_classes(class_, classes_file, prompt is None, [*images, *texts])
    if names is None and prompt is None:
        raise UsageError("there is no prompt", hint='for example: tina generate "classify cats, dogs and trucks"')
    if names is not None and prompt is not None:
        raise UsageError("a prompt and --class or --classes-file exclude each other")
    if prompt == "-":
        prompt = read_text(STDOUT)
    if names is not None:
        check_classes(names)
    wanted: dict[str, Any] = {"images": {n: [Path(p) for p in paths] for n, paths in images.items()}, "describe": texts}
    wanted |= sampling | ({} if names is None else {"classes": names})

    from tina_cli.generation import make_plan, make_request, sample_plan, understand
    from tina_cli.generator import open_generator
    from tina_cli.weights import find_generator

    generator = open_generator(find_generator(weights), chosen_device(device, quiet), clip, not no_cache)
    request = make_request(generator, prompt, wanted)
    meanings = understand(generator, request)
    notes = [meaning.note() for meaning in meanings]
    for note in notes:
        say(describe_class(note), quiet)
    plan = make_plan(generator, request, meanings)
    for name, nearest in plan.far.items():
        say(f"warning: {name!r} is far from all that is known; nearest are {', '.join(nearest)}", quiet)
    for name, other in plan.same.items():
        say(f'warning: {name!r} means the same as {other!r}; --describe "{name}=..." says how they differ', quiet)
    if dry_run:
        if json:
            result_json({"schema": "tina/generate/1", "output": None, "classes": notes})
        return
    model = sample_plan(generator, plan)
    from tina_cli.modelfile import dump_model

    data = dump_model(model)
    if output == STDOUT:
        result_bytes(data)
        return
    write_atomic(output, data)
    if json:
        result_json({"schema": "tina/generate/1", **summary(output, model.info)})
    else:
        result(f"{output}: {len(model.classes)} classes, expected accuracy {model.info['expected_accuracy']:.2f}")


def run_batch(
    batch: Path,
    folder: Path,
    sampling: dict[str, Any],
    weights: str | None,
    clip: str | None,
    device: str,
    cache: bool,
    force: bool,
    resume: bool,
    engine: str,
    quiet: bool,
) -> None:
    """Generate every request of a file; a bad line fails alone, and the exit code is then 1."""
    if folder.suffix == ".safetensors" or folder == STDOUT:
        raise UsageError("with --batch, -o is a folder", hint="for example: -o models/")
    from tina_cli.batch import Output, generate_batch
    from tina_cli.engine import LOCAL, Source, check_engine, generate_on_ray
    from tina_cli.generator import open_generator
    from tina_cli.weights import find_generator

    check_engine(engine)
    with open_text(batch) as lines:
        where, output = find_generator(weights).absolute(), Output(folder.absolute(), sampling, force, resume)
        generator = open_generator(where, chosen_device(device, quiet), clip, cache)  # checked here, whoever works
        failed = count = 0
        if engine == LOCAL:
            told = generate_batch(generator, lines, replace(output, folder=folder))
        else:
            told = generate_on_ray(engine, Source(str(where), device, clip, cache), lines, output)
        try:
            with libraries_on_stderr():
                for line in told:
                    failed, count = failed + ("error" in line), count + 1
                    result_line(line)
        except UnicodeDecodeError as error:
            raise DataError(f"{batch} is not UTF-8 text") from error
    if failed:
        raise DataError(f"{failed} of {count} requests failed", hint="see their lines")


def open_text(path: Path) -> AbstractContextManager[TextIO]:
    """Open a text file, or standard input for "-"; raises `DataError`."""
    if path == STDOUT:
        return nullcontext(sys.stdin)
    try:
        return path.open(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def chosen_device(name: str, quiet: bool) -> Any:
    """Return the device, and say what `auto` took where that is not the CPU."""
    from tina_cli.device import choose_device

    device = choose_device(name)
    if name == "auto" and device.type != "cpu":
        say(f"device: {device}", quiet)
    return device


def pairs(option: str, given: Sequence[str] | None) -> dict[str, list[str]]:
    """Read NAME=VALUE options into name -> values; raises `UsageError`."""
    out: dict[str, list[str]] = {}
    for item in given or ():
        name, equals, value = item.partition("=")
        if not (equals and name.strip() and value.strip()):
            raise UsageError(f"{option} {item!r} is not NAME=VALUE")
        out.setdefault(" ".join(name.split()), []).append(value.strip())
    return out


def explicit_classes(given: Sequence[str] | None, file: Path | None, alone: bool, named: Sequence[str]) -> list[str] | None:
    """Return the classes of --class, --classes-file and, without a prompt, of --image and --describe; None for none."""
    names = list(given or ())
    if file is not None:
        names += read_class_list(read_text(file))
    if alone:
        names += [name for name in dict.fromkeys(named) if name not in names]
    return names or None


def read_text(path: Path) -> str:
    """Read a text file, or standard input for "-"; raises `DataError`."""
    try:
        with open_text(path) as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def describe_class(note: dict[str, Any]) -> str:
    """Return the line that says how a class was understood."""
    if "descriptions" in note or "pictures" in note:
        parts = [f'"{text}"' for text in note.get("descriptions", ())]
        parts += [f"{note['pictures']} picture" + "s" * (note["pictures"] != 1)] if "pictures" in note else []
        return f"  {note['name']}: {' and '.join(parts)}"
    meant = f'taken for "{note["taken_for"]}", ' if "taken_for" in note else ""
    if note["sense"]:
        return f"  {note['name']}: {meant}{note['gloss']}"
    taken = "as a kind of its last word" if "kind_of" in note else "by its letters alone"
    return f'  {note["name"]}: {meant}not in the lexicon, taken {taken}; --describe "{note["name"]}=..." says what it is'


def summary(path: Path, info: dict[str, Any]) -> dict[str, Any]:
    """Return what --json says of a model that was written."""
    return {"output": str(path), **{key: info[key] for key in ("classes", "seed", "sampler", "steps", "expected_accuracy")}}
