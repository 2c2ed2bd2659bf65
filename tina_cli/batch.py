"""BATCH: many requests, one generator, one model file each; a bad request fails alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from tina_cli.errors import ModelFileError, TinaError, UsageError
from tina_cli.files import check_writable, make_folder, write_atomic
from tina_cli.generation import Plan, Request, finish_model, make_plan, make_request, sampling_of
from tina_cli.generator import Generator
from tina_cli.images import expand
from tina_cli.modelfile import dump_model, is_bundled, read_info
from tina_cli.sampling import Draw, sample_rows

WINDOW = 256  # lines
CLASSES = 2048  # that the denoiser sees at once
WRITERS = 2
KEYS = ("prompt", "classes", "images", "describe", "seed", "name")


@dataclass
class Job:
    """One line of a batch: where its model goes, how it is to be made, and what is said of it in the end."""

    number: int
    path: Path = Path()
    plan: Plan | None = None  # None where there is nothing to make
    said: dict[str, Any] = field(default_factory=dict)

    def fail(self, error: TinaError) -> None:
        """Say what was wrong with the line."""
        self.plan, self.said = None, {"error": error.message, "hint": error.hint}


@dataclass(frozen=True)
class Output:
    """Where the models of a batch go, what becomes of those that are there, and how all are sampled."""

    folder: Path
    sampling: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False  # overwrite them
    resume: bool = False  # keep them, where they are what a line asks for
    taken: dict[str, int] = field(default_factory=dict)  # names of files, and the lines that write them
    free: frozenset[str] = frozenset()  # names that were free when the batch began: what is there is its own

    def path(self, name: str) -> Path:
        """Return the file of a model."""
        return self.folder / f"{name}.safetensors"


def generate_batch(generator: Generator, lines: Iterable[str], output: Output) -> Iterator[dict[str, Any]]:
    """Write a model for every line of JSON; yield what was written, or the error, with the line's number, in order.

    A line is an object with `prompt` or `classes`, and perhaps `images` and `describe` (name -> list), `seed`, and `name`,
    the file's name without its suffix; by default the line's number in six digits. Models with the same number of classes are
    sampled together, a window of lines at a time, while those of the window before are written; each has the bytes that it
    would have alone. Raises `OutputError`.
    """
    make_folder(output.folder)
    yield from generate_numbered(generator, numbered(lines), output)


def numbered(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers from 1."""
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def windows(lines: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Yield numbered lines in portions."""
    rest = iter(lines)
    while window := list(islice(rest, WINDOW)):
        yield window


def generate_numbered(generator: Generator, lines: Iterable[tuple[int, str]], output: Output) -> Iterator[dict[str, Any]]:
    """Write a model for every numbered line, as `generate_batch` does."""
    with ThreadPoolExecutor(WRITERS) as pool:
        written: list[Future[Job]] = []
        for window in windows(lines):
            if len(window) == WINDOW:
                generator.lexicon.index()  # it takes as long as looking up some hundred names
            jobs = [plan_job(generator, number, line, output) for number, line in window]
            made = sample_jobs(generator, jobs)
            writing = [pool.submit(write_job, generator, job, rows) for job, rows in zip(jobs, made, strict=True)]
            yield from told(written)
            written = writing
        yield from told(written)


def told(written: Sequence[Future[Job]]) -> Iterator[dict[str, Any]]:
    """Yield what is said of each job when it is done."""
    for future in written:
        job = future.result()
        yield {"line": job.number, **job.said}


def plan_job(generator: Generator, number: int, line: str, output: Output) -> Job:
    """Return what is to be done for a line."""
    job = Job(number)
    try:
        name, request = read_request(generator, line, output.sampling, f"{number:06d}")
        if (first := output.taken.setdefault(name, number)) != number:
            raise UsageError(f"line {first} writes {name!r} too", hint="every model needs a name of its own")
        job.path = output.path(name)
        if output.resume and (info := finished(generator, job.path, request)):
            job.said = line_of(job.path, info) | {"kept": True}
            return job
        check_writable(job.path, output.force or name in output.free)
        job.plan = make_plan(generator, request)
    except TinaError as error:
        job.fail(error)
    return job


def finished(generator: Generator, path: Path, request: Request) -> dict[str, Any] | None:
    """Return the description of a model that is there already; None where there is none, or that of another request.

    Pictures are only counted: another picture in the place of one goes unnoticed.
    """
    if not path.exists():
        return None
    try:
        info = read_info(path)
    except ModelFileError:
        return None
    how = sampling_of(generator, request)
    asked = [(n, list(request.describe.get(n, ())), len(expand(request.images.get(n, ())))) for n in request.classes]
    there = [(entry["name"], entry.get("descriptions", []), entry.get("pictures", 0)) for entry in info["classes"]]
    same = (
        asked == there
        and info["generator"] == generator.identity
        and (info["sampler"], info["steps"]) == (how.sampler, how.steps)
        and is_bundled(info) == request.bundle
    )
    return info if same and request.seed <= info["seed"] < request.seed + request.samples else None


def sample_jobs(generator: Generator, jobs: Sequence[Job]) -> list[list[Tensor]]:
    """Return the rows [K, D] of every draw of every job, those with the same number of classes sampled together."""
    out: list[list[Tensor]] = [[] for _ in jobs]
    alike: dict[Any, list[tuple[int, Draw]]] = {}
    for i, job in enumerate(jobs):
        if (plan := job.plan) is not None:
            for draw in plan.draws:
                alike.setdefault((len(draw.names), plan.how), []).append((i, draw))
    for (classes, how), drawn in alike.items():
        most = max(1, CLASSES // classes)
        for start in range(0, len(drawn), most):
            part = drawn[start : start + most]
            rows = sample_rows(generator.denoiser, [draw for _, draw in part], how, generator.device)
            for (i, _), found in zip(part, rows, strict=True):
                out[i].append(found)
    return out


def write_job(generator: Generator, job: Job, rows: Sequence[Tensor]) -> Job:
    """Write a job's model, and say so."""
    if job.plan is not None:
        try:
            model = finish_model(generator, job.plan, rows)
            write_atomic(job.path, dump_model(model))
            job.said = line_of(job.path, model.info)
        except TinaError as error:
            job.fail(error)
        job.plan = None
    return job


def line_of(path: Path, info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of a model that was written."""
    return {
        "output": str(path),
        "classes": [entry["name"] for entry in info["classes"]],
        "seed": info["seed"],
        "expected_accuracy": info["expected_accuracy"],
    }


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
    if not name or Path(name).name != name or name.startswith(".") or not name.isprintable():
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
