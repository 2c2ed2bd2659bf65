"""PAPER'S GENERATOR: a checkpoint of the paper's authors -> a generator directory, and sampling whole networks from it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from tina_cli.diffusion import linear_alpha_bar, time_grid
from tina_cli.errors import DataError, GeneratorError, OutputError
from tina_cli.files import make_folder, pretty_json, sha256, write_atomic
from tina_cli.paper_denoiser import TIMESTEPS, PaperDenoiser, paper_denoiser
from tina_cli.rng import torch_rng
from tina_cli.sampler import sample_ddpm
from tina_cli.weights import FORMAT, INFO, check_files, read_generator_info

DENOISER = "denoiser.safetensors"
NO_CHECKPOINT = (  # what torch raises for other files
    RuntimeError, pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError, OSError
)  # fmt: skip
KIND = "paper"


@dataclass(frozen=True)
class PaperGenerator:
    """The paper's network, as imported: class vectors in, the parameters of whole networks out."""

    network: PaperDenoiser
    info: dict[str, Any]

    def sample(self, conditions: Tensor, seed: int = 0, steps: int = TIMESTEPS) -> Tensor:
        """Sample flat parameters [B, P] for class vectors [B, K, d].

        The vectors are ViT-B/32's of the bare names, not normalised (the authors' code); parameters are as it was trained on.
        """
        return sample_parameters(self.network, conditions, seed, steps)


@torch.inference_mode()
def sample_parameters(network: PaperDenoiser, conditions: Tensor, seed: int, steps: int) -> Tensor:
    """Sample flat parameters [B, P] for conditions [B, K, d] by DDPM with the linear schedule."""
    device = network.position.device

    def noise_at(step: int) -> Tensor:
        return torch.randn(len(conditions), sum(network.chunks), generator=torch_rng(seed, "paper noise", step))

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        at = (t * TIMESTEPS - 1).clamp_min(0).expand(len(x))
        clean: Tensor = network(x.to(device), at.to(device), conditions.to(device))
        return clean.cpu()

    return sample_ddpm(denoise, noise_at(-1), time_grid(steps, TIMESTEPS), noise_at, linear_alpha_bar)


def read_checkpoint(path: Path, averaged: bool = True) -> tuple[str, Mapping[str, Tensor]]:
    """Read a checkpoint with nothing unpickled but tensors; return which weights it gave, `G_ema` or `G`, and these.

    Raises `DataError`.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except NO_CHECKPOINT as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"cannot read {path} as a checkpoint: {reason}", hint="only tensors are ever unpickled") from error
    kinds = ("G_ema", "G") if averaged else ("G",)
    kind = next((kind for kind in kinds if isinstance(found, dict) and isinstance(found.get(kind), dict)), None)
    if kind is None:
        raise DataError(f"{path} has no weights under {' or '.join(kinds)}", hint="expected a checkpoint of the paper's code")
    if not all(isinstance(value, Tensor) for value in found[kind].values()):
        raise DataError(f"{kind} in {path} holds more than tensors")
    return kind, found[kind]


def import_checkpoint(path: Path, folder: Path, averaged: bool = True) -> PaperGenerator:
    """Turn a checkpoint into a generator directory; raises `DataError` and `OutputError`."""
    if (folder / INFO).exists():
        raise OutputError(f"{folder} holds a generator", hint="choose another --output, or remove it")
    kind, state = read_checkpoint(path, averaged)
    network = paper_denoiser(state)
    make_folder(folder)
    write_atomic(folder / DENOISER, save({name: value.contiguous() for name, value in network.state_dict().items()}))
    info = {
        "format": FORMAT,
        "kind": KIND,
        "name": folder.name,
        "source": {"sha256": sha256(path), "weights": kind},
        "denoiser": network.shape,
        "files": {DENOISER: sha256(folder / DENOISER)},
    }
    write_atomic(folder / INFO, pretty_json(info).encode())
    return PaperGenerator(network, info)


def open_paper_generator(folder: Path) -> PaperGenerator:
    """Open an imported generator; raises `GeneratorError` where it is none, or damaged."""
    info = read_generator_info(folder)
    if info.get("kind") != KIND:
        raise GeneratorError(f"{folder} is no import of a checkpoint", hint="open it with tina_cli.generator.open_generator")
    check_files(folder, info)
    network = PaperDenoiser(**info["denoiser"])
    network.load_state_dict(load_file(folder / DENOISER))
    return PaperGenerator(network.eval(), info)
