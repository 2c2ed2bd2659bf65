"""One task's guidance -> its rows: canonical order, seeded noise, a sampler, the codec."""

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


@torch.inference_mode()
def sample_rows_for(
    network: Denoiser, guidance: Guidance, names: Sequence[str], seed: int, how: Sampling, device: torch.device
) -> Tensor:
    """Sample the rows [K, D] of one task.

    The noise of a class depends on the seed and its name alone, and the network sees the classes sorted by name: another
    order of the same classes gives the same rows, permuted, bit for bit.
    """
    order = sorted(range(len(names)), key=lambda i: names[i])
    told = Guidance(*(part[:, order].to(device) for part in (guidance.condition, guidance.evidence, guidance.anchor)))
    mask = torch.ones(1, len(names), dtype=torch.bool, device=device)

    def noise_at(step: int) -> Tensor:
        rows = [torch.randn(told.anchor.shape[-1], generator=torch_rng(seed, "noise", step, names[i])) for i in order]
        return torch.stack(rows)[None].to(device)

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return torch.lerp(told.anchor, network(x, t.reshape(1).to(device), told, mask), how.strength)

    tokens = SAMPLERS[how.sampler](denoise, noise_at(-1), time_grid(how.steps, how.timesteps), noise_at)
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))
    return decode_rows(tokens[0].cpu())[back]
