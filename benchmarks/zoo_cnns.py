"""Whole networks: fine-tuned CNNs per second, side by side on all cores, beside one at a time on the same cores."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import torch
from record import record
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from tina_cli.study.drawn import drawn_classes
from tina_cli.study.lab import Lab, data_digest
from tina_cli.study.pictures import scaled, split_bank
from tina_cli.study.recipe import StudyRecipe, Tuning
from tina_cli.study.suite import one_thread
from tina_cli.study.targets import TARGETS
from tina_cli.zoo.store import FIT

CLASSES, STEPS, BATCH, LONE, TOGETHER = 10, 100, 100, 4, 32


def usual_loop(pictures: torch.Tensor, labels: torch.Tensor) -> None:
    """Fine-tune one CNN as it is usually done: a module, a DataLoader, all threads."""
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(16, 32, 3, 1, 1, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, CLASSES),
    )  # fmt: skip
    optimiser = torch.optim.Adam(network.parameters(), lr=0.005)
    loader, step = DataLoader(TensorDataset(pictures, labels), BATCH, shuffle=True), 0
    while step < STEPS:
        for some, wanted in loader:
            flipped = torch.where((torch.rand(len(some)) < 0.5)[:, None, None, None], some.flip(-1), some)
            loss = cross_entropy(network(flipped), wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
            if step == STEPS:
                break


def main() -> None:
    """Measure, and record."""
    bank = split_bank(drawn_classes(400, "train"), drawn_classes(2, "test"), 0.1, 0)
    pictures = scaled(torch.cat(bank.parts[FIT][:CLASSES]), torch.float32)
    labels = torch.arange(CLASSES).repeat_interleave(len(pictures) // CLASSES)
    usual_loop(pictures, labels)
    start = time.perf_counter()
    for _ in range(LONE):
        usual_loop(pictures, labels)
    usual = LONE / (time.perf_counter() - start)
    recipe = StudyRecipe(
        classes=CLASSES, zoo=TOGETHER, shard=TOGETHER // 4, generic=Tuning(2, 64), pmodel=Tuning(STEPS, BATCH, 0.005)
    )
    with tempfile.TemporaryDirectory() as name, one_thread():
        lab = Lab(
            TARGETS["cnn-5k"], bank, torch.randn(len(bank.names), 8), recipe, Path(name), lambda **_: None, data_digest(bank),
            os.cpu_count() or 1,
        )  # fmt: skip
        lab.generic()
        start = time.perf_counter()
        lab.zoo()
        ours = TOGETHER / (time.perf_counter() - start)
    rows = [
        ["usual loop, one network at a time, all threads", f"{usual:.2f}", "1 x"],
        [f"{TOGETHER} networks, a thread a core", f"{ours:.2f}", f"{ours / usual:.1f} x"],
    ]
    note = f"CNNs of 5,370 parameters for {CLASSES} classes, {STEPS} steps of {BATCH} pictures, mirrored at random, in memory."
    record("zoo_cnns", "The zoo of whole networks", note, ["", "networks/s", "ratio"], rows)


if __name__ == "__main__":
    main()
