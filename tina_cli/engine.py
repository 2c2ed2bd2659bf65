"""ENGINE: a batch on many processes or machines, by Ray: the same models, byte for byte, as in this process.

A window of lines is a task. Ray starts a task anew where its worker died, and a task begun anew writes again what it had
written: nothing is lost, nothing is there twice. The output folder must be one that every worker sees.
"""

from __future__ import annotations

import importlib.util
import json
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tina_cli.batch import Output, generate_numbered, numbered, windows
from tina_cli.device import choose_device
from tina_cli.errors import DataError, UsageError
from tina_cli.files import make_folder
from tina_cli.generator import Generator, open_generator

LOCAL, RAY = "local", "ray"
AHEAD = 2  # windows that wait for each worker


@dataclass(frozen=True)
class Source:
    """Where a worker finds the generator: all of `open_generator`'s arguments, as text."""

    folder: str
    device: str
    clip: str | None
    cache: bool


def check_engine(engine: str) -> None:
    """Raise `UsageError` for an engine that is none, or whose package is not installed; loads nothing."""
    if engine == LOCAL:
        return
    if engine != RAY and not engine.startswith("ray://"):
        raise UsageError(f"unknown engine {engine!r}", hint="local, ray, or ray://ADDRESS")
    if importlib.util.find_spec("ray") is None:
        raise UsageError("the engine ray is not installed", hint='pip install "tina-cli[ray]"')


def generate_on_ray(engine: str, source: Source, lines: Iterable[str], output: Output) -> Iterator[dict[str, Any]]:
    """Write a model for every line on a Ray cluster, as `generate_batch` does; yield the same, in order.

    `ray` starts one on this machine, `ray://ADDRESS` connects to one. Raises `OutputError`, and `DataError` where there is
    none.
    """
    import ray

    make_folder(output.folder)
    try:
        # A cluster on this machine sees what this process sees; ray's own messages are no part of ours.
        address = None if engine == RAY else engine
        ray.init(address, log_to_driver=False, logging_level="ERROR", **({"include_dashboard": False} if engine == RAY else {}))
    except (ConnectionError, RuntimeError, OSError) as error:
        raise DataError(f"cannot reach {engine}: {error}", hint="is the cluster there?") from error
    try:
        run = ray.remote(max_retries=-1)(run_window)
        most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        pending: deque[Any] = deque()
        for window in windows(numbered(lines)):
            pending.append(run.remote(source, window, claimed(window, output)))
            if len(pending) >= most:
                yield from ray.get(pending.popleft())
        while pending:
            yield from ray.get(pending.popleft())
    finally:
        ray.shutdown()


def claimed(window: list[tuple[int, str]], output: Output) -> Output:
    """Return the output of one window: the names that other windows took, and those that were free when the batch began."""
    taken, free = {}, set()
    for number, line in window:
        name = f"{number:06d}"
        with suppress(ValueError, RecursionError, AttributeError):  # a line that is no object fails where it is read
            name = json.loads(line).get("name", name)
        if isinstance(name, str):
            first = output.taken.setdefault(name, number)
            if first != number:
                taken[name] = first
            elif Path(name).name == name and not output.path(name).exists():
                free.add(name)
    return replace(output, taken=taken, free=frozenset(free))


def run_window(source: Source, window: list[tuple[int, str]], output: Output) -> list[dict[str, Any]]:
    """Generate a window's models in a worker's process."""
    return list(generate_numbered(opened(source), window, output))


@lru_cache(maxsize=1)
def opened(source: Source) -> Generator:
    """Return the generator of this process."""
    return open_generator(Path(source.folder), choose_device(source.device), source.clip, source.cache)
