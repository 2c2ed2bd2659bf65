"""Growth: time and memory of one model against the number of classes, and of the denoiser against the width of rows."""

from __future__ import annotations

import time
from statistics import median

import torch
from record import record, seconds
from torch.nn.functional import normalize

from tina_cli.codec import encode_rows
from tina_cli.denoiser import Denoiser, Guidance
from tina_cli.device import choose_device
from tina_cli.generator import open_generator
from tina_cli.rng import torch_rng
from tina_cli.sampling import LEAST, Draw, Sampling, sample_rows
from tina_cli.weights import embedded_weights

CLASSES = (2, 5, 10, 20, 50, 100, 200, 500, 1000)
WIDTHS = (64, 320, 1280)
ROUNDS = 5
CPU = torch.device("cpu")


def draw(classes: int, row_dim: int, condition_dim: int) -> Draw:
    """Return a model to sample, of random words."""
    rng = torch_rng(0, "growth", classes, row_dim)
    condition = normalize(torch.randn(1, classes, condition_dim, generator=rng), dim=-1)
    anchor = encode_rows(normalize(torch.randn(1, classes, row_dim, generator=rng), dim=-1))
    return Draw(Guidance(condition, torch.zeros(1, classes, 2), anchor), [f"class {i:04d}" for i in range(classes)], 0)


def timed(network: Denoiser, one: Draw, how: Sampling) -> float:
    """Return the median seconds of sampling a model."""
    taken = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        sample_rows(network, [one], how, CPU)
        taken.append(time.perf_counter() - start)
    return median(taken[1:])


def main() -> None:
    """Measure, and record."""
    generator = open_generator(embedded_weights(), choose_device("cpu"))
    shape, how = generator.info["denoiser"], generator.sampling
    rows = []
    for classes in CLASSES:
        took = timed(generator.denoiser, draw(classes, shape["row_dim"], shape["condition_dim"]), how)
        rows.append([f"{classes} classes", seconds(took), f"{1000 * took / classes:.2f} ms"])
    for width in WIDTHS:
        torch.manual_seed(0)
        network = Denoiser(width, shape["condition_dim"], shape["width"], shape["layers"], shape["heads"]).eval()
        took = timed(network, draw(20, width, shape["condition_dim"]), how)
        rows.append([f"20 classes, rows of {width} numbers", seconds(took), f"{1000 * took / 20:.2f} ms"])
    note = (
        f"Sampling alone, {how.sampler} with {how.steps} steps. Below {LEAST} classes the time is that of 16. "
        "Attention and the mixing of rows grow with the square of the classes."
    )
    record("growth", "Growth with the classes", note, ["", "time a model", "a class"], rows)


if __name__ == "__main__":
    main()
