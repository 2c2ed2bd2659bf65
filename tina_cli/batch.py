"""BATCH: many requests, one generator, one model file each; a bad request fails alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tina_cli.errors import OutputError, TinaError, UsageError
from tina_cli.files import check_writable, write_atomic
from tina_cli.generation import Request, generate_model, make_request
from tina_cli.generator import Generator
from tina_cli.modelfile import dump_model

KEYS = ("prompt", "classes", "images", "describe", "seed", "name")


def generate_batch(
    generator: Generator, lines: Sequence[str], folder: Path, sampling: Mapping[str, Any], force: bool
) -> Iterator[dict[str, Any]]:
    """Write a model for every line of JSON; yield what was written, or the error, with the line's number.

    A line is an object with `prompt` or `classes`, and perhaps `images` and `describe` (name -> list), `seed`, and `name`,
    the file's name without its suffix; by default the line's number in six digits. Raises `OutputError`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}", hint="choose another place with -o") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            name, request = read_request(generator, line, sampling, f"{number:06d}")
            path = folder / f"{name}.safetensors"
            check_writable(path, force)
            model = generate_model(generator, request)
            write_atomic(path, dump_model(model))
            yield {"line": number, "output": str(path), "classes": model.classes} | {
                key: model.info[key] for key in ("seed", "expected_accuracy")
            }
        except TinaError as error:
            yield {"line": number, "error": error.message, "hint": error.hint}


def read_request(generator: Generator, line: str, sampling: Mapping[str, Any], default: str) -> tuple[str, Request]:
    """Return the file name and the request of a line; raises `UsageError` or `PromptError`."""
    try:
        values = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UsageError(f"the line is no JSON: {error}") from error
    if not isinstance(values, dict):
        raise UsageError("the line is no JSON object", hint='for example: {"prompt": "cats or dogs"}')
    if unknown := [key for key in values if key not in KEYS]:
        raise UsageError(f"unknown key {unknown[0]!r}", hint=f"known: {', '.join(KEYS)}")
    if ("prompt" in values) == ("classes" in values):
        raise UsageError("give either prompt or classes")
    check_types(values)
    name = values.get("name", default)
    if not name or Path(name).name != name or name.startswith("."):
        raise UsageError(f"{name!r} is no file name")
    options = dict(sampling) | {key: values[key] for key in ("classes", "describe", "seed") if key in values}
    options["images"] = {n: [Path(p) for p in paths] for n, paths in values.get("images", {}).items()}
    return name, make_request(generator, values.get("prompt"), options)


def check_types(values: Mapping[str, Any]) -> None:
    """Raise `UsageError` where a value is of another type than its key asks for."""

    def texts(value: Any) -> bool:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)

    for key, value in values.items():
        if key in ("prompt", "name"):
            right = isinstance(value, str)
        elif key == "seed":
            right = type(value) is int
        elif key == "classes":
            right = texts(value)
        else:
            right = isinstance(value, dict) and all(map(texts, value.values()))
        if not right:
            raise UsageError(
                f"{key!r} has a value of the wrong type", hint="classes: [NAME, ...]; images, describe: {NAME: [...]}"
            )
