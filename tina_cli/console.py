"""The only writer to standard output (results) and standard error (talk, progress, errors)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TextIO

from tina_cli.files import canonical_json, pretty_json

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PLAIN_EVERY = 15.0  # seconds between progress lines where standard error is no terminal


_own: list[TextIO] = []  # standard output, where libraries are kept from it


@contextmanager
def libraries_on_stderr() -> Iterator[None]:
    """Send what libraries print to standard error: standard output is for results alone."""
    _own.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _own.pop()


def _results() -> TextIO:
    return _own[-1] if _own else sys.stdout


def fail(message: str, hint: str = "") -> None:
    """Write an error, and a hint where there is one, to standard error."""
    red, reset = ("\x1b[1;31m", "\x1b[0m") if _coloured() else ("", "")
    sys.stderr.write(f"{red}error:{reset} {message}\n" + (f"hint: {hint}\n" if hint else ""))


def say(text: str, quiet: bool = False) -> None:
    """Write a line of talk to standard error."""
    if not quiet:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


def result(text: str) -> None:
    """Write a line of result to standard output."""
    _results().write(f"{text}\n")


def result_json(value: Any) -> None:
    """Write one JSON document to standard output."""
    _results().write(pretty_json(value))


def result_line(value: Any) -> None:
    """Write one line of NDJSON to standard output, at once."""
    _results().write(canonical_json(value) + "\n")
    _results().flush()


def result_bytes(data: bytes) -> None:
    """Write bytes to standard output."""
    _results().buffer.write(data)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to standard output, numbers to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        result("  ".join(cells).rstrip())


def _coloured() -> bool:
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


@dataclass
class Steps:
    """Progress of named stages: bars on a terminal, else a plain line now and then; a context manager."""

    quiet: bool = False
    _bars: Progress | None = None
    _tasks: dict[str, TaskID] = field(default_factory=dict)
    _said: dict[str, float] = field(default_factory=dict)

    def __enter__(self) -> Steps:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._bars = Progress(
                TextColumn("{task.description:>16}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars:
            self._bars.stop()

    def step(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Show that `done` of `total` steps of a stage are done."""
        if self.quiet:
            return
        if self._bars:
            if stage not in self._tasks:
                self._tasks[stage] = self._bars.add_task(stage, total=total, note=note)
            self._bars.update(self._tasks[stage], completed=done, note=note)
            return
        now = time.monotonic()
        if done >= total or now - self._said.get(stage, 0.0) >= PLAIN_EVERY:
            self._said[stage] = now
            say(f"{stage}: {done}/{total}" + (f"  {note}" if note else ""))
