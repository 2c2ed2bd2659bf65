"""FORWARD PROCESS: how clean tokens become noise. No network inside."""

from __future__ import annotations

import math

import torch
from torch import Tensor

OFFSET = 0.008


def alpha_bar(t: Tensor) -> Tensor:
    """Return the share of the signal's variance left at time t in [0, 1], by the cosine schedule.

    Source: Nichol and Dhariwal 2021, Improved Denoising Diffusion Probabilistic Models, equation 17.
    """
    first = math.cos(OFFSET / (1 + OFFSET) * math.pi / 2) ** 2
    return (torch.cos((t + OFFSET) / (1 + OFFSET) * math.pi / 2).square() / first).clamp(1e-5, 1.0)


def linear_alpha_bar(t: Tensor, timesteps: int = 1000) -> Tensor:
    """Return the share of the signal's variance left at time t in [0, 1], by the linear schedule.

    Source: Ho et al. 2020, Denoising Diffusion Probabilistic Models, section 4.
    """
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, timesteps, dtype=torch.float64), 0)
    table = torch.cat([torch.ones(1, dtype=torch.float64), kept]).float().to(t.device)
    return table[(t * timesteps).round().long()]


def q_sample(x_0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Return x_t for clean tokens x_0 [B, K, R], times t [B] and noise eps [B, K, R] (Ho et al. 2020, equation 4)."""
    signal = alpha_bar(t)[:, None, None]
    return signal.sqrt() * x_0 + (1 - signal).sqrt() * eps


def time_grid(steps: int, timesteps: int) -> Tensor:
    """Return `steps` times from 1 down, and a final 0: a subset of the `timesteps` discrete times, [steps + 1]."""
    grid = torch.linspace(timesteps, 0, steps + 1, dtype=torch.float64).round() / timesteps
    return grid.float()
