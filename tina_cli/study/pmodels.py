"""P-MODELS: fine-tuning many tasks' networks at once, and telling how good they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tina_cli.loop import LoopOptions, learning_rate
from tina_cli.study.pictures import Bank
from tina_cli.study.recipe import Episodes, Tuning
from tina_cli.study.targets import Target, features, forward, forward_heads, forward_many
from tina_cli.zoo.store import FIT, TEST

REFERENCE = 32  # features of a row that learning rates are told for


@dataclass(frozen=True)
class Networks:
    """T p-Models of one size: bodies [T, P] and rows [T, K, D + 1]."""

    bodies: Tensor
    rows: Tensor

    def __len__(self) -> int:
        return len(self.bodies)

    def __getitem__(self, places: slice | list[int]) -> Networks:
        return Networks(self.bodies[places], self.rows[places])


def together(networks: Sequence[Networks]) -> Networks:
    """Return several batches of p-Models as one."""
    return Networks(torch.cat([n.bodies for n in networks]), torch.cat([n.rows for n in networks]))


def start_from(generic: Networks, tasks: Sequence[Sequence[int]]) -> Networks:
    """Return the generic model's p-Models of tasks of one size: its body, and the rows of the tasks' classes."""
    rows = torch.stack([generic.rows[0, list(task)] for task in tasks])
    return Networks(generic.bodies.expand(len(tasks), -1).clone(), rows)


def finetune(
    target: Target,
    bank: Bank,
    tasks: Sequence[Sequence[int]],
    start: Networks,
    how: Tuning,
    *purpose: object,
    most: int | None = None,
    at: Callable[[int, Networks], None] | None = None,
) -> Networks:
    """Fine-tune T networks at once on FIT pictures, on the first `most` of each class alone if so.

    `at(step, networks)` looks on before the first step and after each.
    """
    bodies, rows = (value.detach().to(bank.device, copy=True).requires_grad_() for value in (start.bodies, start.rows))
    classes = len(tasks[0])
    # Adam moves each weight alike: a row of many features moves its score as far as one of few.
    groups = [{"params": [rows], "share": (REFERENCE / target.dim) ** 0.5}]
    groups += [{"params": [bodies], "share": 1.0}] if bodies.numel() else []
    optimiser = torch.optim.Adam(groups, fused=True)
    rate = LoopOptions(steps=how.steps, lr=how.lr, warmup=min(20, how.steps // 10))
    each = max(1, how.batch // classes)
    for step in range(how.steps):
        if at:
            at(step, Networks(bodies.detach(), rows.detach()))
        for group in optimiser.param_groups:
            group["lr"] = group["share"] * learning_rate(step, rate)
        inputs = bank.draw(tasks, each, FIT, *purpose, step, most=most)
        logits = forward_many(target, bodies, rows, inputs)
        # The sum over tasks: the gradients of one do not depend on how many others there are.
        loss = entropy(logits, "sum") / (classes * each)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    out = Networks(bodies.detach().cpu(), rows.detach().cpu())
    if at:
        at(how.steps, out)
    return out


def train_on_tasks(
    target: Target,
    bank: Bank,
    tasks_at: Callable[[int], Sequence[Sequence[int]]],
    start: Networks,
    how: Episodes,
    *purpose: object,
) -> Networks:
    """Train one network of all classes further on the FIT pictures of random tasks, `tasks_at(step)`; it is not told which."""
    body, rows = (part[0].clone().to(bank.device).requires_grad_() for part in (start.bodies, start.rows))
    optimiser = torch.optim.Adam([body, rows], fused=True)
    rate = LoopOptions(steps=how.steps, lr=how.lr, warmup=0)
    for step in range(how.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, rate)
        tasks = tasks_at(step)
        inputs = bank.draw(tasks, how.pictures, FIT, *purpose, step)
        seen = features(target, body, inputs.flatten(0, 1)).unflatten(0, inputs.shape[:2])
        optimiser.zero_grad()
        entropy(forward_heads(rows[torch.tensor(tasks)], seen)).backward()
        optimiser.step()
    return Networks(body.detach().cpu()[None], rows.detach().cpu()[None])


def entropy(logits: Tensor, reduction: str = "mean") -> Tensor:
    """Return the cross-entropy of logits [T, K n, K] of pictures in the order of their classes, equally many of each."""
    tasks, pictures, classes = logits.shape
    labels = torch.arange(classes, device=logits.device).repeat_interleave(pictures // classes).repeat(tasks)
    return cross_entropy(logits.flatten(0, 1), labels, reduction=reduction)


@torch.inference_mode()
def predict(
    target: Target, bank: Bank, task: Sequence[int], body: Tensor, rows: Tensor, part: int = TEST
) -> tuple[Tensor, Tensor]:
    """Return a network's guesses [n] for all pictures of a part, and the labels [n]."""
    inputs, labels = bank.whole(task, part)
    body, rows = body.to(bank.device), rows.to(bank.device)
    return torch.cat([forward(target, body, rows, some).argmax(-1) for some in inputs.split(1024)]).cpu(), labels


def accuracies(target: Target, bank: Bank, tasks: Sequence[Sequence[int]], networks: Networks, part: int = TEST) -> list[float]:
    """Return each network's accuracy on its own task."""
    out = []
    for task, body, rows in zip(tasks, networks.bodies, networks.rows, strict=True):
        guess, labels = predict(target, bank, task, body, rows, part)
        out.append(float((guess == labels).float().mean()))
    return out
