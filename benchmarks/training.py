"""Training: updates of the embedded generator's denoiser a second, and the share of the time that is not spent in it."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from record import draw_pictures, record
from torch import nn

from tina_cli.config import Recipe, load_recipe
from tina_cli.denoiser import Denoiser
from tina_cli.denoising import Batch, Batches
from tina_cli.device import choose_device
from tina_cli.run import Data, Run, read_data
from tina_cli.training import train

NAMES = ("cat", "dog", "truck", "teapot", "sunflower", "castle", "ferry", "guitar")
PICTURES, STEPS = 24, 200
DIFFERENT = 8  # batches made beforehand


class Clock:
    """Seconds spent in the network, forward and backward, and in the optimiser's step."""

    def __init__(self) -> None:
        self.inside = self.began = 0.0

    def watch(self, network: nn.Module) -> None:
        """Time a network from its input to its gradients' end."""
        network.register_forward_pre_hook(lambda *_: self.start())
        network.register_forward_hook(lambda *_: self.stop())

    def start(self, *_: Any) -> None:
        """Begin an interval."""
        self.began = time.perf_counter()

    def stop(self, *_: Any) -> None:
        """End an interval."""
        self.inside += time.perf_counter() - self.began


def timed(clock: Clock, call: Any) -> Any:
    """Return a function whose calls are counted as spent in the network."""

    def inner(*args: Any, **kwargs: Any) -> Any:
        clock.start()
        try:
            return call(*args, **kwargs)
        finally:
            clock.stop()

    return inner


def measure(recipe: Recipe, data: Data) -> tuple[float, float]:
    """Return the updates a second of one training, and the share of their time that is not spent in the network."""
    clock, spent = Clock(), {}
    build, backward, step = Denoiser.__init__, torch.Tensor.backward, torch.optim.AdamW.step

    def watched(self: Denoiser, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        clock.watch(self)

    def report(**fields: Any) -> None:
        if fields.get("stage") == "diffusion" and fields.get("event") == "step":
            spent[fields["step"]] = (time.perf_counter(), clock.inside)

    with (
        tempfile.TemporaryDirectory() as name,
        patch.object(Denoiser, "__init__", watched),
        patch.object(torch.Tensor, "backward", timed(clock, backward)),
        patch.object(torch.optim.AdamW, "step", timed(clock, step)),
    ):
        train(Run(data, Path(name) / "out", Path(name) / "work", recipe, None, choose_device(), report), "all", False)
    first, last = min(spent), max(spent)
    wall, inside = (spent[last][i] - spent[first][i] for i in range(2))
    return (last - first) / wall, 1 - inside / wall


def main() -> None:
    """Measure, and record."""
    recipe, usual = load_recipe("tina-mini"), load_recipe("default")
    recipe = replace(
        recipe, clip=usual.clip, zoo=replace(usual.zoo, tasks=200, heldout_tasks=6),
        denoiser=replace(recipe.denoiser, steps=STEPS, calibration_tasks=6, groups=40),
    )  # fmt: skip
    make, made = Batches.make, {}

    def remembered(self: Batches, step: int) -> Batch:
        if step % DIFFERENT not in made:
            made[step % DIFFERENT] = make(self, step % DIFFERENT)
        return made[step % DIFFERENT]

    with tempfile.TemporaryDirectory() as name:
        for kind in NAMES:
            draw_pictures(Path(name) / kind, PICTURES)
        data = read_data([Path(name)], PICTURES)
        rate, share = measure(recipe, data)
        with patch.object(Batches, "make", remembered):
            free, _ = measure(recipe, data)
    shape = recipe.denoiser
    rows = [
        ["updates a second", f"{rate:.1f}"],
        ["the same, batches made beforehand", f"{free:.1f}"],
        ["time that the making of batches costs", f"{max(0.0, 1 - rate / free):.0%}"],
        ["time not in the network or the optimiser", f"{share:.0%}"],
    ]
    note = (
        f"The embedded generator's denoiser, {shape.layers} layers of width {shape.width}; batches of {shape.batch} tasks of "
        f"2 to {recipe.zoo.max_classes} classes; {STEPS} updates. A batch's conditions and pictures are made in a thread while "
        "the last one is computed; what else is not in the network is the loss, clipping and averaging."
    )
    record("training", "Training the denoiser", note, ["", ""], rows)


if __name__ == "__main__":
    main()
