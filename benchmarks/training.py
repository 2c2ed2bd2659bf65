"""Training: updates of the embedded generator's denoiser a second, and the share of the time that is not spent in it."""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from record import draw_pictures, record
from torch import nn

from tina_cli.config import load_recipe
from tina_cli.denoiser import Denoiser
from tina_cli.device import choose_device
from tina_cli.run import Run, read_data
from tina_cli.training import train

NAMES = ("cat", "dog", "truck", "teapot", "sunflower", "castle", "ferry", "guitar")
PICTURES, STEPS = 24, 200


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


def main() -> None:
    """Measure, and record."""
    clock, spent = Clock(), {}
    build = Denoiser.__init__

    def watched(self: Denoiser, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        clock.watch(self)

    def report(**fields: Any) -> None:
        if fields.get("stage") == "diffusion" and fields.get("event") == "step":
            spent[fields["step"]] = (time.perf_counter(), clock.inside)

    recipe, usual = load_recipe("tina-mini"), load_recipe("default")
    recipe = replace(
        recipe, clip=usual.clip, zoo=replace(usual.zoo, tasks=200, heldout_tasks=6),
        denoiser=replace(recipe.denoiser, steps=STEPS, calibration_tasks=6, groups=40),
    )  # fmt: skip
    Denoiser.__init__ = watched  # type: ignore[method-assign]
    torch.Tensor.backward = timed(clock, torch.Tensor.backward)  # type: ignore[method-assign]
    torch.optim.AdamW.step = timed(clock, torch.optim.AdamW.step)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as name:
        for kind in NAMES:
            draw_pictures(Path(name) / "photos" / kind, PICTURES)
        data = read_data([Path(name) / "photos"], PICTURES)
        train(Run(data, Path(name) / "out", Path(name) / "work", recipe, None, choose_device(), report), "all", False)
    first, last = min(spent), max(spent)
    wall, inside = (spent[last][i] - spent[first][i] for i in range(2))
    rate, share = (last - first) / wall, 1 - inside / wall
    shape = recipe.denoiser
    rows = [["updates a second", f"{rate:.1f}"], ["time not in the network or the optimiser", f"{share:.0%}"]]
    note = (
        f"The embedded generator's denoiser, {shape.layers} layers of width {shape.width}; batches of {shape.batch} tasks of "
        f"2 to {recipe.zoo.max_classes} classes; {last - first} updates. The rest goes into a batch's conditions and pictures."
    )
    record("training", "Training the denoiser", note, ["", ""], rows)


if __name__ == "__main__":
    main()
