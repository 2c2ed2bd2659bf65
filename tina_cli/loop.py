"""The training loop: one for every network, resumable at any step, the same result however often it is interrupted.

A step's batch and noise depend on the seed and the step alone, so that a run killed between two checkpoints repeats the
steps it lost and ends with the very bytes of a run that was never killed (same device, same thread count).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tina_cli.errors import DataError
from tina_cli.files import write_atomic
from tina_cli.rng import derive
from tina_cli.team import ALONE, Team

Report = Callable[..., None]
T = TypeVar("T")
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class LoopOptions:
    """Everything about an optimisation but its loss."""

    steps: int = 1000
    cycles: int = 1
    lr: float = 1e-3
    warmup: int = 100
    weight_decay: float = 0.01
    clip: float = 1.0
    ema: float = 0.999
    checkpoint_every: int = 100
    log_every: int = 20
    seed: int = 0


def learning_rate(step: int, options: LoopOptions) -> float:
    """Return the rate at a step: linear warm-up, then a cosine to zero; again in every cycle (SGDR, Loshchilov & Hutter)."""
    length = -(-options.steps // options.cycles)
    step %= length
    if step < options.warmup:
        return options.lr * (step + 1) / options.warmup
    done = (step - options.warmup) / max(1, length - options.warmup)
    return options.lr * 0.5 * (1 + math.cos(math.pi * done))


class Ahead(Generic[T]):
    """Makes what the next step needs in a thread of its own, while this step is computed.

    `make(step)` depends on the step alone, and draws no random numbers from torch's own generator.
    """

    def __init__(self, make: Callable[[int], T], steps: int) -> None:
        self._make, self._steps = make, steps
        self._pool = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        """Return what a step needs."""
        before, self._next = self._next, None
        out = before[1].result() if before and before[0] == step else self._make(step)
        if step + 1 < self._steps:
            self._next = step + 1, self._pool.submit(self._make, step + 1)
        return out


def train_loop(
    module: nn.Module,
    loss_at: Callable[[int], tuple[Tensor, dict[str, float]]],
    options: LoopOptions,
    checkpoint: Path,
    report: Report,
    team: Team = ALONE,
) -> dict[str, Tensor]:
    """Minimise `loss_at(step)` over a module's trainable parameters with AdamW; return their moving averages (EMA).

    `checkpoint` is a safetensors file, read if it exists. In a team the loss is the mean of the processes' own, and the first
    process reports and keeps the checkpoint. Raises `DataError` where it is another run's.
    """
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in named.values() if p.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in named.values() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=options.lr,
        betas=(0.9, 0.98),
        fused=True,
    )
    ema = {name: p.detach().clone() for name, p in named.items()}
    start = _restore(checkpoint, named, ema, optimiser) if checkpoint.exists() else 0
    if start:
        report(event="resumed", step=start)
    module.train()
    for step in range(start, options.steps):
        torch.manual_seed(derive(options.seed, "step", step))
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, options)
        loss, parts = loss_at(step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        team.average(p.grad for p in named.values() if p.grad is not None)
        norm = torch.nn.utils.clip_grad_norm_(named.values(), options.clip)
        optimiser.step()
        decay = min(options.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.values()), list(named.values()), 1 - decay)
        if team.rank:
            continue
        if (step + 1) % options.log_every == 0 or step + 1 == options.steps:
            report(event="step", step=step + 1, of=options.steps, loss=loss.item(), grad_norm=norm.item(), **parts)
        if (step + 1) % options.checkpoint_every == 0 or step + 1 == options.steps:
            write_atomic(checkpoint, save(_state(step + 1, named, ema, optimiser)))
    return ema


def _state(
    step: int, named: dict[str, nn.Parameter], ema: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {"step": torch.tensor(step)}
    for name, parameter in named.items():
        state[f"parameter.{name}"] = parameter.detach().contiguous()
        state[f"ema.{name}"] = ema[name].contiguous()
        for key, value in optimiser.state[parameter].items():
            state[f"optimiser.{key}.{name}"] = value.contiguous()
    return state


def _restore(path: Path, named: dict[str, nn.Parameter], ema: dict[str, Tensor], optimiser: torch.optim.Optimizer) -> int:
    state: dict[str, Any] = load_file(path)
    if {f"parameter.{name}" for name in named} != {key for key in state if key.startswith("parameter.")}:
        raise DataError(f"the checkpoint {path} is of another network", hint="remove it to start over")
    with torch.no_grad():
        for name, parameter in named.items():
            parameter.copy_(state[f"parameter.{name}"])
            ema[name].copy_(state[f"ema.{name}"])
            if f"optimiser.step.{name}" not in state:  # it had no gradient
                continue
            # The moments must lie in memory as the parameter does: the fused optimiser reads both as they lie.
            moments = {key: torch.zeros_like(parameter).copy_(state[f"optimiser.{key}.{name}"]) for key in MOMENTS}
            optimiser.state[parameter] = {"step": state[f"optimiser.step.{name}"], **moments}
    return int(state["step"])
