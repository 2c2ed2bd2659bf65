"""TRUNK: a ResNet-20 trained on the run's own pictures, for heads on an image trunk that knows nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from tina_cli.backbone import Backbone, BackboneSpec, weights_sha256, with_weights
from tina_cli.config import Preprocess, TrunkStage
from tina_cli.files import digest, write_atomic
from tina_cli.images import batches
from tina_cli.loop import LoopOptions, Report, train_loop
from tina_cli.resnet import ResNet20
from tina_cli.rng import derive, torch_rng
from tina_cli.run import Run
from tina_cli.zoo.concepts import Concept
from tina_cli.zoo.store import TEST, feature_bank, listing, named, sharded

ARCH = "tina:resnet20"
SHIFT = 4  # pixels that a training picture is moved by, at most
BATCH = 256  # pictures at once where nothing is learned


class Whole(nn.Module):
    """The trunk and a classifier, which is not kept."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.trunk = ResNet20()
        self.head = nn.Linear(self.trunk.num_features, classes)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return logits [n, classes]."""
        return self.head(self.trunk(pictures))


def make_trunk(run: Run, concepts: Sequence[Concept], places: Mapping[str, Sequence[int]]) -> Backbone:
    """Train a ResNet-20 to tell the run's classes apart, or find it in the working folder.

    Test pictures and held-out classes take no part.
    """
    how = Preprocess(size=run.recipe.trunk.size)
    path = run.work / f"trunk-{digest([asdict(run.recipe.trunk), run.recipe.seed, places])}.safetensors"
    if not path.exists():
        pictures, labels = learning_pictures(run, how, concepts, places)
        report = partial(run.report, stage="trunk")
        state = train_trunk(run.recipe.trunk, run.recipe.seed, run.device, run.work, report, pictures, labels)
        write_atomic(path, save(state))
    state = load_file(path)
    spec = BackboneSpec(ARCH, weights_sha256(state), ResNet20.num_features, how)
    return replace(with_weights(spec, state, run.device, str(path)), own=state)


def learning_pictures(
    run: Run, how: Preprocess, concepts: Sequence[Concept], places: Mapping[str, Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Return pictures [n, 3, s, s] in half precision, and their classes [n] in numbers without gaps."""
    found, parts = [], {}
    for name, classes in run.data.items():
        paths, labels = listing(classes)
        parts[name] = (torch.zeros(len(paths), 0), torch.tensor(labels))

        def make(paths: Sequence[Path] = paths, name: str = name) -> dict[str, Tensor]:
            out: list[Tensor] = []
            for some in batches(paths, how, 64, workers=2):
                out.append(some.half())
                run.report(stage="pictures", event="step", step=sum(map(len, out)), of=len(paths), set=name)
            return {"pictures": torch.cat(out)}

        found.append(sharded(run.work / "pictures", name, [how.size, named(paths)], make)["pictures"])
    options = run.recipe.features
    bank = feature_bank(parts, places, options.test_share, options.tune_share, run.recipe.seed)
    heldout = torch.tensor([bool(concept.heldout) for concept in concepts])
    usable = (bank.part != TEST) & ~heldout[bank.concept]
    return torch.cat(found)[usable], bank.concept[usable].unique(return_inverse=True)[1]


def train_trunk(
    options: TrunkStage, seed: int, device: torch.device, folder: Path, report: Report, pictures: Tensor, labels: Tensor
) -> dict[str, Tensor]:
    """Return the trunk's state after training; its batch statistics are those of the averaged weights.

    Checkpoints are kept in `folder`.
    """
    torch.manual_seed(derive(seed, "trunk"))
    network: Any = Whole(int(labels.max()) + 1).to(device)
    network = network.to(memory_format=torch.channels_last)

    def batch_at(step: int) -> tuple[Tensor, Tensor]:
        rng = torch_rng(seed, "trunk", step)
        rows = torch.randint(len(labels), (options.batch,), generator=rng)
        left, top, flip = (torch.randint(high, (1,), generator=rng).item() for high in (2 * SHIFT + 1, 2 * SHIFT + 1, 2))
        some = pad(pictures[rows].float(), [SHIFT] * 4)[:, :, int(top) :, int(left) :][..., : options.size, : options.size]
        return (some.flip(-1) if flip else some).to(device, memory_format=torch.channels_last), labels[rows].to(device)

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        some, wanted = batch_at(step)
        return cross_entropy(network(some), wanted, label_smoothing=0.1), {}

    loop = LoopOptions(steps=options.steps, lr=options.lr, warmup=50, weight_decay=0.05, ema=0.99, seed=seed)
    checkpoint = folder / f"trunk-steps-{digest([asdict(options), seed, len(labels)])}.safetensors"
    ema = train_loop(network, loss_at, loop, checkpoint, report)
    network.load_state_dict(ema, strict=False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all that follow
    network.train()
    with torch.no_grad():
        for start in range(0, min(len(labels), 8 * BATCH), BATCH):
            order = torch.randperm(len(labels), generator=torch_rng(seed, "statistics", start))[:BATCH]
            network(pictures[order].float().to(device, memory_format=torch.channels_last))
    state = network.trunk.state_dict()
    return {name: value.cpu().contiguous() for name, value in state.items() if not name.endswith("num_batches_tracked")}
