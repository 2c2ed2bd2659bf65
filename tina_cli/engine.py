"""ENGINE: work on many processes or machines, by Ray: the same bytes as in this process.

A window of a batch's lines is a task, and so is a shard of a training's features or p-Models. Ray starts a task anew where
its worker died, and a window begun anew writes again what it had written: nothing is lost, nothing is there twice. Folders of
pictures, and a batch's output, must be where every worker sees them.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from tina_cli.batch import Output, generate_numbered, numbered, windows
from tina_cli.device import choose_device, prepare_torchvision
from tina_cli.errors import DataError, UsageError
from tina_cli.files import make_folder
from tina_cli.generator import Generator, open_generator
from tina_cli.zoo.store import Shard, Workers, in_turn

LOCAL, RAY = "local", "ray"
AHEAD = 2  # windows that wait for each worker


@dataclass(frozen=True)
class Source:
    """Where a worker finds the generator: all of `open_generator`'s arguments, as text, and the threads to use."""

    folder: str
    device: str
    clip: str | None
    cache: bool
    threads: int = field(default_factory=torch.get_num_threads)  # the driver's


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
    with cluster(engine):
        run = ray.remote(max_retries=-1)(run_window)
        for told in in_order(run.remote(source, window, claimed(window, output)) for window in windows(numbered(lines))):
            yield from told


@contextmanager
def workers_of(engine: str) -> Iterator[Workers]:
    """Provide the workers of an engine: this process, or Ray tasks; raises `DataError`."""
    if engine == LOCAL:
        yield in_turn
        return
    import ray

    def workers(function: Callable[..., Shard], shared: object, items: Sequence[tuple[Any, ...]]) -> Iterator[Shard]:
        run, kept = ray.remote(max_retries=-1)(run_shard), ray.put(ray.cloudpickle.dumps(shared))
        yield from in_order(run.remote(function, kept, item, torch.get_num_threads()) for item in items)

    with cluster(engine):
        yield workers


def run_shard(function: Callable[..., Shard], shared: bytes, item: tuple[Any, ...], threads: int) -> Shard:
    """Make a shard in a worker's process, with as many threads as the driver has: another number gives other last bits."""
    torch.set_num_threads(threads)
    prepare_torchvision()  # before a network is unpacked that would import torchvision
    return function(pickle.loads(shared), *item)


@contextmanager
def cluster(engine: str) -> Iterator[None]:
    """Start a cluster on this machine, or connect to one; raises `DataError` where none is there."""
    import ray

    try:
        # Ray's own messages are no part of ours.
        options = {"include_dashboard": False} if engine == RAY else {"address": engine}
        ray.init(log_to_driver=False, logging_level="ERROR", **options)
    except (ConnectionError, RuntimeError, OSError) as error:
        raise DataError(f"cannot reach {engine}: {error}", hint="is the cluster there?") from error
    try:
        yield
    finally:
        ray.shutdown()


def in_order(tasks: Iterable[Any]) -> Iterator[Any]:
    """Yield the results of Ray tasks in order; no more are begun than keep the workers busy."""
    import ray

    most = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
    pending: deque[Any] = deque()
    for task in tasks:
        pending.append(task)
        if len(pending) >= most:
            yield ray.get(pending.popleft())
    while pending:
        yield ray.get(pending.popleft())


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
    torch.set_num_threads(source.threads)
    return open_generator(Path(source.folder), choose_device(source.device), source.clip, source.cache)
