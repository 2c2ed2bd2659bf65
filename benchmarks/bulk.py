"""Bulk: models per second of `tina generate --batch`, beside one process a prompt, and beside fine-tuning the same heads."""

from __future__ import annotations

import json
import resource
import tempfile
import time
from pathlib import Path

import torch
from record import TINA, record, run
from torch.nn.functional import normalize

from tina_cli.config import Recipe
from tina_cli.device import choose_device
from tina_cli.generator import open_generator
from tina_cli.rng import numpy_rng, torch_rng
from tina_cli.weights import embedded_weights
from tina_cli.zoo.finetune import finetune_heads

PROMPTS, LONE, LEAST, MOST = 10_000, 5, 2, 20
TASKS = 64  # heads that the zoo fine-tunes at once


def requests(count: int) -> list[list[str]]:
    """Return class names of requests, 2 to 20 each, drawn from all that the embedded generator knows."""
    names = sorted({c.name for c in open_generator(embedded_weights(), choose_device("cpu")).concepts})
    out = []
    for number in range(count):
        rng = numpy_rng(0, "bulk", number)
        chosen = rng.permutation(len(names))[: int(rng.integers(LEAST, MOST + 1))]
        unique = {names[i].casefold(): names[i] for i in chosen}
        out.append(list(unique.values()))
    return out


def bulk(classes: list[list[str]], folder: Path) -> tuple[float, float]:
    """Return seconds and peak memory in MiB of a batch, in a process of its own."""
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps({"classes": names}) + "\n" for names in classes))
    taken = run([*TINA, "generate", "--batch", file, "-o", folder / "models", "--no-cache", "-q"])
    return taken, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def finetuned(classes: list[list[str]]) -> float:
    """Return heads per second of the zoo's own batched fine-tuner on features in memory, for the same numbers of classes."""
    options, dim, done, start = Recipe().zoo, 1280, 0, time.perf_counter()
    sizes = sorted(len(names) for names in classes)
    for first in range(0, len(sizes), TASKS):
        part = sizes[first : first + TASKS]
        shape = (len(part), part[len(part) // 2], options.pictures, dim)
        features = normalize(torch.randn(shape, generator=torch_rng(0, "features", first)), dim=-1)
        finetune_heads(normalize(features.mean(2), dim=-1), features, options.steps, options.lr, options.scale, options.pull)
        done += len(part)
    return done / (time.perf_counter() - start)


def main() -> None:
    """Measure, and record."""
    classes = requests(PROMPTS)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lone = []
        for number, names in enumerate(classes[:LONE]):
            named = [part for n in names for part in ("--class", n)]
            lone.append(run([*TINA, "generate", *named, "-o", folder / f"{number}.safetensors", "--no-cache", "-q"]))
        alone = LONE / sum(lone)
        tuned = finetuned(classes[:640])
        (folder / "few").mkdir()
        few, memory_few = bulk(classes[: PROMPTS // 10], folder / "few")
        many, memory_many = bulk(classes, folder)
    rate = PROMPTS / many
    rows = [
        ["one `tina generate` a prompt", f"{alone:.2f}", "", ""],
        ["fine-tuning, batched, features in memory", f"{tuned:.1f}", f"{tuned / alone:.0f} x", ""],
        [
            f"--batch, {PROMPTS // 10} prompts",
            f"{PROMPTS / 10 / few:.0f}",
            f"{PROMPTS / 10 / few / alone:.0f} x",
            f"{memory_few:.0f}",
        ],
        [f"--batch, {PROMPTS} prompts", f"{rate:.0f}", f"{rate / alone:.0f} x", f"{memory_many:.0f}"],
    ]
    note = (
        f"Models of {LEAST} to {MOST} classes, written to disk. The batch makes {rate / tuned:.1f} times as many models a "
        f"second as the zoo's fine-tuner."
    )
    record("bulk", "Many models", note, ["", "models/s", "ratio", "peak memory, MiB"], rows)


if __name__ == "__main__":
    main()
