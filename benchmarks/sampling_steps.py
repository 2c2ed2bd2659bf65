"""Sampling: the default sampler beside DDPM with 1,000 steps and others, one model at a time: time, and accuracy on pictures.

    python benchmarks/sampling_steps.py PICTURES

PICTURES has one subfolder a class, such as pictures that the generator was trained without.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median

import torch
from platformdirs import user_cache_path
from record import record, seconds

from tina_cli.comparison import make_pool
from tina_cli.console import Steps
from tina_cli.denoiser import Guidance
from tina_cli.device import choose_device
from tina_cli.generation import Request, make_plan
from tina_cli.generator import Generator, open_generator
from tina_cli.images import read_classes
from tina_cli.rng import numpy_rng
from tina_cli.sampling import Draw, Sampling, sample_rows
from tina_cli.weights import embedded_weights

CLASSES, TASKS, LONE = 5, 60, 15
WAYS = [
    ("ddpm", 1000),
    ("ddpm", 100),
    ("ddim", 20),
    ("dpm-solver++", 20),
    ("dpm-solver++", 8),
    ("dpm-solver++", 4),
    ("dpm-solver++", 2),
    ("dpm-solver++", 1),
]


def plans(generator: Generator, names: list[str]) -> list[tuple[list[int], Guidance, list[str]]]:
    """Return random tasks: places of their classes, their guidance, their names."""
    out = []
    for number in range(TASKS):
        task = numpy_rng(0, "steps", number).permutation(len(names))[:CLASSES].tolist()
        asked = [names[i] for i in task]
        out.append((task, make_plan(generator, Request(asked)).guidance, asked))
    return out


def main() -> None:
    """Measure, and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=Path)
    folder = parser.parse_args().pictures
    generator = open_generator(embedded_weights(), choose_device("cpu"))
    pool = make_pool(generator, read_classes(folder), {}, user_cache_path("tina") / "features", Steps().step)
    tasks = plans(generator, pool.names)
    draws = [Draw(guidance, names, number) for number, (_, guidance, names) in enumerate(tasks)]
    timed: dict[tuple[str, int], float] = {}
    right: dict[tuple[str, int], float] = {}
    for sampler, steps in WAYS:
        how = Sampling(sampler, steps, generator.sampling.timesteps, generator.sampling.strength)
        taken = []
        for draw in draws[: 3 if steps > 100 else LONE]:
            start = time.perf_counter()
            sample_rows(generator.denoiser, [draw], how, generator.device)
            taken.append(time.perf_counter() - start)
        found = []
        for (task, _, _), rows in zip(tasks, sample_rows(generator.denoiser, draws, how, generator.device), strict=True):
            x = torch.cat([pool.test[i] for i in task]) - generator.feature_mean
            y = torch.repeat_interleave(torch.arange(CLASSES), torch.tensor([len(pool.test[i]) for i in task]))
            found.append(float(((x @ rows.T).argmax(-1) == y).float().mean()))
        timed[sampler, steps], right[sampler, steps] = median(taken), sum(found) / len(found)
    slow = timed["ddpm", 1000]
    rows = []
    for way in WAYS:
        cells = [seconds(timed[way]), f"{slow / timed[way]:.0f} x", f"{100 * right[way]:.2f}"]
        rows.append([f"{way[0]}, {way[1]} steps", *cells])
    note = (
        f"One model of {CLASSES} classes at a time; accuracy (of the same bytes, sampled together) over {TASKS} tasks of "
        f"{folder.name}. The default is {generator.sampling.sampler} with {generator.sampling.steps} steps."
    )
    record("sampling_steps", "Sampling", note, ["sampler", "time a model", "beside DDPM, 1,000", "accuracy, %"], rows)


if __name__ == "__main__":
    main()
