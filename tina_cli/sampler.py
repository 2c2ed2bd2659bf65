"""REVERSE PROCESS: noise -> clean tokens in a few calls of a denoiser. Plain functions.

Each takes `denoise(x_t [B, K, R], t) -> x_0`, the starting noise, a grid of descending times that ends at 0 (see
`diffusion.time_grid`) and `noise_at(step) -> [B, K, R]`, which only DDPM calls. DDPM takes another schedule than ours, too.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from tina_cli.diffusion import alpha_bar

Denoise = Callable[[Tensor, Tensor], Tensor]
NoiseAt = Callable[[int], Tensor]


def sample_ddpm(
    denoise: Denoise, x: Tensor, times: Tensor, noise_at: NoiseAt, schedule: Callable[[Tensor], Tensor] = alpha_bar
) -> Tensor:
    """Ancestral sampling (Ho et al. 2020, algorithm 2, with the posterior of equation 7)."""
    x_0 = x
    for step, (t, s) in enumerate(pairwise(times)):
        x_0 = denoise(x, t)
        if s == 0:
            break
        now, then = schedule(t), schedule(s)
        ratio = now / then  # alpha of the step
        mean = (then.sqrt() * (1 - ratio) * x_0 + ratio.sqrt() * (1 - then) * x) / (1 - now)
        variance = (1 - then) / (1 - now) * (1 - ratio)
        x = mean + variance.sqrt() * noise_at(step)
    return x_0


def sample_ddim(denoise: Denoise, x: Tensor, times: Tensor, noise_at: NoiseAt) -> Tensor:
    """Deterministic sampling (Song et al. 2021, Denoising Diffusion Implicit Models, equation 12 with sigma = 0)."""
    x_0 = x
    for t, s in pairwise(times):
        x_0 = denoise(x, t)
        if s == 0:
            break
        now, then = alpha_bar(t), alpha_bar(s)
        eps = (x - now.sqrt() * x_0) / (1 - now).sqrt()
        x = then.sqrt() * x_0 + (1 - then).sqrt() * eps
    return x_0


def sample_dpmpp_2m(denoise: Denoise, x: Tensor, times: Tensor, noise_at: NoiseAt) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), the last step to time 0 taken as the prediction itself."""
    x_0 = x
    before: tuple[Tensor, Tensor] | None = None  # the last prediction and the last step in log-SNR
    for t, s in pairwise(times):
        x_0 = denoise(x, t)
        if s == 0:
            break
        lambda_t, lambda_s = _half_log_snr(t), _half_log_snr(s)
        h = lambda_s - lambda_t
        if h <= 0:  # with many steps the first ones are all noise alike: there is nowhere to go yet
            continue
        guess = x_0
        if before is not None:
            ratio = before[1] / h
            guess = (1 + 0.5 / ratio) * x_0 - 0.5 / ratio * before[0]
        then, now = alpha_bar(s), alpha_bar(t)
        x = ((1 - then) / (1 - now)).sqrt() * x - then.sqrt() * torch.expm1(-h) * guess
        before = (x_0, h)
    return x_0


def _half_log_snr(t: Tensor) -> Tensor:
    signal = alpha_bar(t)
    return 0.5 * (signal / (1 - signal).clamp_min(1e-8)).log()


SAMPLERS: dict[str, Callable[[Denoise, Tensor, Tensor, NoiseAt], Tensor]] = {
    "ddim": sample_ddim,
    "ddpm": sample_ddpm,
    "dpm-solver++": sample_dpmpp_2m,
}
