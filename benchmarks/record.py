"""What the speed benchmarks share: commands timed in turn, and README.md made from all results.

A result is a table of one run on one machine: each line a variant with what it took, and a ratio beside the variant that it is
measured against, taken in the same run. Machines are noisy; ratios of medians are less so.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tina_cli import __version__
from tina_cli.files import pretty_json, write_atomic
from tina_cli.rng import numpy_rng

HERE = Path(__file__).parent
PHOTO = (500, 375)  # pixels
TINA = [sys.executable, "-m", "tina_cli"]


def run(command: Sequence[str | Path], **environment: str) -> float:
    """Run a command and return its seconds; raises `CalledProcessError`."""
    start = time.perf_counter()
    subprocess.run(list(map(str, command)), check=True, capture_output=True, env={**os.environ, **environment})
    return time.perf_counter() - start


def in_turn(variants: Mapping[str, Callable[[], float | None]], rounds: int) -> dict[str, float]:
    """Return each variant's median seconds over rounds that take all in turn, after one round for the caches.

    A variant says itself how many seconds it took, or is timed.
    """
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds + 1):
        for name, variant in variants.items():
            start = time.perf_counter()
            own = variant()
            if number:
                taken[name].append(time.perf_counter() - start if own is None else own)
    return {name: statistics.median(values) for name, values in taken.items()}


def record(claim: str, title: str, note: str, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Keep a claim's table, and write README.md anew from all that are kept."""
    result = {"claim": claim, "title": title, "note": note, "head": head, "rows": rows}
    result |= {"machine": machine(), "version": __version__}
    (HERE / "speed").mkdir(exist_ok=True)
    write_atomic(HERE / "speed" / f"{claim}.json", pretty_json(result).encode())
    parts = [(HERE / "speed" / "README.head.md").read_text(encoding="utf-8").rstrip()]
    for path in sorted((HERE / "speed").glob("*.json")):
        found = json.loads(path.read_text(encoding="utf-8"))
        lines = [
            "| " + " | ".join(map(str, row)) + " |" for row in [found["head"], ["---"] * len(found["head"]), *found["rows"]]
        ]
        table = "\n".join(lines)
        parts.append(
            f"## {found['title']}\n\n{found['note']}\n\n{table}\n\n"
            f"`python benchmarks/{found['claim']}.py`, {found['machine']}, tina {found['version']}."
        )
    write_atomic(HERE / "README.md", ("\n\n".join(parts) + "\n").encode())
    print(title, *rows, sep="\n")


def draw_pictures(folder: Path, count: int) -> None:
    """Write JPEGs of the size of ordinary web photos: noise at several scales, so that they are as hard to decode."""
    folder.mkdir(parents=True)
    for number in range(count):
        rng = numpy_rng(0, "picture", number % 50)
        coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)).resize(PHOTO, Image.Resampling.BICUBIC)
        fine = rng.normal(0, 12, (PHOTO[1], PHOTO[0], 3))
        Image.fromarray((np.asarray(coarse) + fine).clip(0, 255).astype(np.uint8)).save(
            folder / f"{number:05d}.jpg", quality=85
        )


def machine() -> str:
    """Return a few words about where a benchmark runs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cores} cores, no GPU"
    return f"{platform.machine()}, {device}, torch {torch.__version__}"


def seconds(value: float) -> str:
    """Return a time for a table."""
    return f"{value:.2f} s" if value >= 0.1 else f"{1000 * value:.1f} ms"
