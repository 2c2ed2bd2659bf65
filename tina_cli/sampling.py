"""Tasks' guidance -> their rows: canonical order, seeded noise, a sampler, the codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tina_cli.codec import decode_rows
from tina_cli.denoiser import Denoiser, Guidance
from tina_cli.diffusion import time_grid
from tina_cli.rng import torch_rng
from tina_cli.sampler import SAMPLERS

LEAST = 16  # classes that the network sees at once


@dataclass(frozen=True)
class Sampling:
    """How to sample: which sampler, how many of the process's `timesteps` it visits, and how much of the correction to take.

    `strength` 1 takes the denoiser at its word, 0 gives the anchors. On classes kept out of all stages 0.3 was the safest,
    above the anchors for words and pictures, at 5 and at 20 classes.
    """

    sampler: str = "dpm-solver++"
    steps: int = 4
    timesteps: int = 1000
    strength: float = 1.0


@dataclass(frozen=True)
class Draw:
    """One model to sample: what its denoiser is told [1, K, ...], its classes' names, its seed."""

    guidance: Guidance
    names: Sequence[str]
    seed: int


@torch.inference_mode()
def sample_rows(network: Denoiser, draws: Sequence[Draw], how: Sampling, device: torch.device) -> list[Tensor]:
    """Sample the rows [K, D] of models with the same number of classes.

    The noise of a class depends on the seed and its name alone, and the network sees the classes sorted by name: another
    order of the same classes gives the same rows, permuted, bit for bit. So does other company, on a CPU: matrix products
    of few rows take another path through the BLAS, so that a small batch is repeated up to `LEAST` classes.
    """
    count = len(draws)
    repeated = [draws[i % count] for i in range(max(count, -(-LEAST // len(draws[0].names))))]
    orders = [sorted(range(len(draw.names)), key=draw.names.__getitem__) for draw in repeated]
    told = Guidance(
        *(
            torch.cat([getattr(draw.guidance, part)[:, order] for draw, order in zip(repeated, orders, strict=True)]).to(device)
            for part in ("condition", "evidence", "anchor")
        )
    )
    mask = torch.ones(told.anchor.shape[:2], dtype=torch.bool, device=device)

    def noise_at(step: int) -> Tensor:
        noise = torch.empty(told.anchor.shape)
        for rows, draw, order in zip(noise, repeated, orders, strict=True):
            for row, i in zip(rows, order, strict=True):
                torch.randn(row.shape, generator=torch_rng(draw.seed, "noise", step, draw.names[i]), out=row)
        return noise.to(device)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(told.anchor, network(x, t.reshape(1).to(device), told, mask), how.strength)

    tokens = SAMPLERS[how.sampler](denoise, noise_at(-1), time_grid(how.steps, how.timesteps), noise_at)
    rows = decode_rows(tokens[:count].cpu())
    return [found[torch.tensor(order).argsort()] for found, order in zip(rows, orders, strict=False)]
