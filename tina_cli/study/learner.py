"""LEARNER: training what turns conditions into networks, and sampling from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tina_cli.diffusion import alpha_bar, time_grid
from tina_cli.loop import LoopOptions, train_loop
from tina_cli.prior import joint_condition
from tina_cli.rng import numpy_rng, torch_rng
from tina_cli.sampler import SAMPLERS
from tina_cli.study.lab import Lab, Task
from tina_cli.study.network import Anchored, Hypernetwork, NetDenoiser, State, initialise
from tina_cli.study.pmodels import Networks, entropy
from tina_cli.study.recipe import Learning
from tina_cli.study.space import Space, fit_space
from tina_cli.study.targets import forward_many
from tina_cli.zoo.store import FIT

TIMESTEPS = 1000
DESIGN = 3  # counts what changes in networks and their training, so that a store of trainings keeps them apart
MOST = 5  # pictures that a class is told by in training
KINDS = ("denoiser", "regressor", "hypernetwork")


@dataclass(frozen=True)
class Learner:
    """A trained generator of networks."""

    lab: Lab
    space: Space
    network: Anchored
    kind: str
    seconds: float  # that its training took

    @torch.inference_mode()
    def make(
        self, tasks: Sequence[Task], condition: Tensor | None = None, seed: int = 0, steps: int = 0, sampler: str = ""
    ) -> Networks:
        """Generate the networks of tasks of one size, by their classes' conditions or by those given, [T, K, d]."""
        told = self.lab.conditions[torch.tensor(tasks)] if condition is None else condition
        names = [[self.lab.bank.names[c] for c in task] for task in tasks]
        return self.sample(told, names, seed, steps or self.lab.recipe.steps, sampler or self.lab.recipe.sampler)

    def sample(self, told: Tensor, names: Sequence[Sequence[str]], seed: int, steps: int, sampler: str) -> Networks:
        """Generate by conditions [T, K, d]; the noise of a class depends on the seed and its name alone."""
        shares, device = self.space.shares(told), self.lab.bank.device
        anchor = self.space.anchor(shares)
        inputs = [value.to(device) for value in self.space.inputs(told, anchor)]
        body, row = anchor.body.shape[1], anchor.rows.shape[2]

        def clean(x: State, t: Tensor) -> State:
            out: State = self.network(x.to(device), t.expand(len(told)).to(device), *inputs)
            return out.to(told.device)

        if self.kind != "denoiser":
            return decode(self.space, self.network, clean(nothing(anchor), torch.ones(())), anchor, shares)

        def noise_at(step: int) -> Tensor:
            shared = torch.randn(body, generator=torch_rng(seed, "body", step)).expand(len(told), -1)
            own = {n: torch.randn(row, generator=torch_rng(seed, "row", step, n)) for n in {n for ns in names for n in ns}}
            rows = torch.stack([torch.stack([own[name] for name in some]) for some in names])
            return State(shared, rows).flat()

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            return clean(State.of(x, body, row), t).flat()

        out = SAMPLERS[sampler](denoise, noise_at(-1), time_grid(steps, TIMESTEPS), noise_at)
        return decode(self.space, self.network, State.of(out, body, row), anchor, shares)


def build(lab: Lab, space: Space, options: Learning, kind: str) -> Anchored:
    """Build an untrained network of one kind."""
    classes, code = space.effects.shape
    row, told = lab.target.row_dim, lab.conditions.shape[1]
    network: nn.Module
    if kind == "hypernetwork":
        network = Hypernetwork(code, row, told, 2 * options.width, options.layers)
    else:
        network = NetDenoiser(code, row, told, options.width, options.layers, options.heads)
    return Anchored(network, lab.target.body_dim, code, classes, row, lab.recipe.classes, options.train_anchors)


def nothing(anchor: State) -> State:
    """Return the state of zeros."""
    return State(torch.zeros_like(anchor.body), torch.zeros_like(anchor.rows))


def decode(space: Space, network: Anchored, state: State, anchor: State, shares: Tensor) -> Networks:
    """Return the networks of clean states that a network made for conditions with these anchors and shares."""
    device = state.rows.device
    shift = network.shift(shares.to(network.body.device)).to(device)
    made = space.decode(state, State(anchor.body + shift.body, anchor.rows + shift.rows))
    return Networks(made.bodies + network.common.to(device), made.rows)


def tell(lab: Lab, tasks: Sequence[Task], share: float, rng: np.random.Generator) -> Tensor:
    """Return conditions [T, K, d] of tasks' classes: of their names, of a share of them by one to five FIT pictures.

    Half of these are told by both.
    """
    told = lab.conditions[torch.tensor(tasks)]
    for place in np.argwhere(rng.random(told.shape[:2]) < share).tolist():
        own = lab.shown[tasks[place[0]][place[1]]]
        seen = normalize(own[rng.integers(len(own), size=rng.integers(1, MOST + 1)).tolist()].mean(0), dim=-1)
        told[tuple(place)] = joint_condition(told[tuple(place)], seen) if rng.random() < 0.5 else seen
    return told


def learn(lab: Lab, options: Learning, kind: str = "denoiser", seed: int = 0, zoo: int | None = None) -> Learner:
    """Train a generator of networks on the zoo, or on its first `zoo` p-Models.

    The loss is the distance to the p-Model in the state's units, plus the cross-entropy of the predicted network on FIT
    pictures of its task. A share of a batch are the zoo's tasks at random times; the others, drawn anew, have no p-Model
    and are all noise. Test tasks are never drawn.
    """
    tasks, networks = lab.zoo()
    tasks, networks = tasks[:zoo], networks[slice(zoo)]
    space = fit_space(lab, tasks, networks, options)
    network = build(lab, space, options, kind)
    initialise(network, torch_rng(seed, "learner", kind))
    device = lab.bank.device
    network.to(device)

    def draw(step: int) -> tuple[list[Task], Networks | None]:
        """Return the tasks of a step, those of the zoo first, and their p-Models."""
        rng = numpy_rng(seed, "batch", step)
        if options.sizes and step % 2:
            size = int(rng.choice([s for s in options.sizes if s <= len(lab.bank.names)]))
            batch, own = max(1, options.batch * lab.recipe.classes // size), []
        else:
            size, batch = lab.recipe.classes, options.batch
            own = rng.integers(len(tasks), size=round(options.share * batch)).tolist()
        chosen = [tasks[i] for i in own] + lab.random_tasks(rng, batch - len(own), size)
        return chosen, networks[own] if own else None

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        chosen, target = draw(step)
        known = len(target) if target else 0
        told = tell(lab, chosen, options.shown, numpy_rng(seed, "told", step))
        rng = torch_rng(seed, "step", step)
        blur = options.noise * told.shape[-1] ** -0.5 * torch.randn(told.shape, generator=rng)
        told = normalize(told + blur, dim=-1)
        shares = space.shares(told)
        anchor = space.anchor(shares)
        body = torch.randn(anchor.body.shape, generator=rng)
        x = State(body, torch.randn(anchor.rows.shape, generator=rng))
        t = torch.ones(len(chosen))
        clean = None
        if target:
            clean = space.encode(target, State(anchor.body[:known], anchor.rows[:known]))
            if kind == "denoiser":
                t[:known] = torch.rand(known, generator=rng)
                signal = alpha_bar(t[:known])[:, None]
                noisy = signal.sqrt() * clean.flat() + (1 - signal).sqrt() * State(x.body[:known], x.rows[:known]).flat()
                part = State.of(noisy, body.shape[1], lab.target.row_dim)
                x = State(torch.cat([part.body, x.body[known:]]), torch.cat([part.rows, x.rows[known:]]))
        if kind != "denoiser":
            x = nothing(x)
        out = network(x.to(device), t.to(device), *(value.to(device) for value in space.inputs(told, anchor)))
        anchor = anchor.to(device)
        loss, parts = torch.zeros((), device=device), {}
        if clean is not None and options.distance:
            clean = clean.to(device)
            far = (out.rows[:known] - clean.rows).square().mean()
            if lab.target.body_dim:
                far = far + (out.body[:known] - clean.body).square().mean()
            loss, parts["distance"] = loss + options.distance * far, far.item()
        if options.functional:
            count = max(1, options.pictures * lab.recipe.classes // len(chosen[0]))
            inputs = lab.bank.draw(chosen, count, FIT, "functional", seed, step)
            made = decode(space, network, out, anchor, shares)
            logits = forward_many(lab.target, made.bodies, made.rows, inputs)
            cross = entropy(logits)
            loss, parts["entropy"] = loss + options.functional * cross, cross.item()
        return loss, parts

    loop = LoopOptions(
        steps=options.steps, lr=options.lr, warmup=min(100, options.steps // 10), ema=0.995, checkpoint_every=250,
        log_every=100, seed=seed,
    )  # fmt: skip
    key = [DESIGN, asdict(options), kind, seed, len(tasks), asdict(lab.recipe.pmodel), lab.origin, lab.recipe.classes]
    name = f"{kind}-{seed}"

    def make() -> dict[str, Tensor]:
        checkpoint = lab.checkpoint(name, key)
        ema = train_loop(network, loss_at, loop, checkpoint, lab.stage(name))
        checkpoint.unlink()
        return {k: v.cpu().contiguous() for k, v in ema.items()}

    state = lab.keep(name, key, make)
    network.load_state_dict({k: v for k, v in state.items() if k != "seconds"})
    return Learner(lab, space, network.eval(), kind, float(state["seconds"]))
