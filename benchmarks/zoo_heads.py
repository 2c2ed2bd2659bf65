"""Zoo: fine-tuned heads per second, many at once on features kept, beside the usual loop over tasks and pictures."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from record import draw_pictures, record
from torch.nn.functional import cross_entropy, normalize
from torch.utils.data import DataLoader

from tina_cli.backbone import Backbone
from tina_cli.config import Recipe
from tina_cli.device import choose_device
from tina_cli.generator import open_generator
from tina_cli.images import load_image
from tina_cli.rng import torch_rng
from tina_cli.weights import embedded_weights
from tina_cli.zoo.finetune import finetune_heads

CLASSES, TASKS, ROUNDS = 5, 64, 5


class Pictures(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """One task's pictures, opened when they are asked for."""

    def __init__(self, paths: list[Path], backbone: Backbone) -> None:
        self.paths, self.how = paths, backbone.spec.preprocess

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return load_image(self.paths[place], self.how), place % CLASSES


def usual_loop(backbone: Backbone, paths: list[Path], steps: int, lr: float, scale: float) -> None:
    """Fine-tune one task's head as it is usually done: every step opens its pictures and runs the trunk on them."""
    rows = torch.zeros(CLASSES, backbone.spec.dim, requires_grad=True)
    optimiser = torch.optim.Adam([rows], lr=lr)
    loader = DataLoader(Pictures(paths, backbone), batch_size=len(paths), num_workers=2)
    for _ in range(steps):
        for pictures, labels in loader:
            loss = cross_entropy(scale * backbone.features(pictures) @ rows.T, labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def main() -> None:
    """Measure, and record."""
    options = Recipe().zoo
    backbone = open_generator(embedded_weights(), choose_device("cpu")).backbone
    count = CLASSES * options.pictures
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "pictures"
        draw_pictures(folder, count)
        start = time.perf_counter()
        usual_loop(backbone, sorted(folder.iterdir()), options.steps, options.lr, options.scale)
        usual = 1 / (time.perf_counter() - start)
    features = torch.randn(TASKS, CLASSES, options.pictures, backbone.spec.dim, generator=torch_rng(0, "features"))
    features = normalize(features, dim=-1)
    rows = normalize(features.mean(2), dim=-1)
    start = time.perf_counter()
    for _ in range(ROUNDS):
        finetune_heads(rows, features, options.steps, options.lr, options.scale, options.pull)
    ours = ROUNDS * TASKS / (time.perf_counter() - start)
    table = [
        ["usual loop, one head at a time", f"{usual:.3f}", "1 x"],
        [f"{TASKS} at once, features kept", f"{ours:.0f}", f"{ours / usual:.0f} x"],
    ]
    note = (
        f"Heads of {CLASSES} classes, {options.pictures} pictures each, {options.steps} steps. "
        "The features are computed once for all tasks."
    )
    record("zoo_heads", "The zoo", note, ["", "heads/s", "ratio"], table)


if __name__ == "__main__":
    main()
