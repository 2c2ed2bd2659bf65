"""BASELINES: what else would turn a list of class names into a network. Each returns the networks of tasks of one size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn.functional import normalize

from tina_cli.denoising import cluster
from tina_cli.diffusion import linear_alpha_bar
from tina_cli.loop import LoopOptions, train_loop
from tina_cli.paper_denoiser import PaperDenoiser, chunks_of
from tina_cli.paper_generator import sample_parameters
from tina_cli.ridge import fit_kernel_ridge
from tina_cli.rng import numpy_rng, torch_rng
from tina_cli.study.lab import Lab, Task, Tensors
from tina_cli.study.learner import TIMESTEPS, nothing
from tina_cli.study.network import initialise
from tina_cli.study.pmodels import Networks, entropy, finetune, start_from
from tina_cli.study.recipe import Episodes, Learning
from tina_cli.study.space import GAMMA, class_means, fit_space
from tina_cli.study.targets import forward_many
from tina_cli.zoo.store import FIT

BODY_NOISE = 1.0  # of the regression from a task's mean condition to its body, beside a signal of one


def lookup(lab: Lab, tasks: Sequence[Task]) -> Networks:
    """Return each class's mean row over the training p-Models, and their mean body."""
    zoo_tasks, zoo = lab.zoo()
    means, _ = class_means(zoo_tasks, zoo, len(lab.bank.names))
    return Networks(zoo.bodies.mean(0).expand(len(tasks), -1), means[torch.tensor(tasks)])


def further(lab: Lab, how: Learning) -> Networks:
    """Return the generic model, trained further on random tasks on as many pictures as ours sees in training.

    What it lacks is only to be told what the task is.
    """
    return lab.on_tasks("further", lab.generic(), Episodes(how.steps, how.batch, how.pictures, lab.recipe.further.lr))


def ridge(lab: Lab, tasks: Sequence[Task]) -> Networks:
    """Return the regression of rows on conditions, and of bodies on the tasks' mean conditions."""
    zoo_tasks, zoo = lab.zoo()
    space = fit_space(lab, zoo_tasks, zoo)
    middle = normalize(lab.conditions[torch.tensor(zoo_tasks)].mean(1), dim=-1)
    bodies = zoo.bodies.mean(0).expand(len(tasks), -1)
    told = lab.conditions[torch.tensor(tasks)]
    if lab.target.body_dim:
        prior = fit_kernel_ridge(middle, zoo.bodies - zoo.bodies.mean(0), GAMMA, BODY_NOISE)
        bodies = bodies + prior.predict(normalize(told.mean(1), dim=-1))
    return Networks(bodies, space.anchor(space.shares(told)).rows)


def anchors(lab: Lab, tasks: Sequence[Task]) -> Networks:
    """Return what ours starts from: rows of the generic model, and its body with what the task's classes add to it.

    Both by regression, the former on conditions, the latter on which classes the p-Models' tasks have.
    """
    space = fit_space(lab, *lab.zoo())
    anchor = space.anchor(space.shares(lab.conditions[torch.tensor(tasks)]))
    return space.decode(nothing(anchor), anchor)


def nearest(lab: Lab, tasks: Sequence[Task]) -> Networks:
    """Return the training p-Model whose classes' mean condition is most alike, its rows given to the classes they fit best."""
    zoo_tasks, zoo = lab.zoo()
    unit = normalize(lab.conditions - lab.conditions.mean(0), dim=-1)
    middles = normalize(unit[torch.tensor(zoo_tasks)].mean(1), dim=-1)
    bodies, rows = [], []
    for task in tasks:
        found = int((middles @ unit[task].mean(0)).argmax())
        _, order = linear_sum_assignment((unit[task] @ unit[zoo_tasks[found]].T).numpy(), maximize=True)
        bodies.append(zoo.bodies[found])
        rows.append(zoo.rows[found][torch.from_numpy(order)])
    return Networks(torch.stack(bodies), torch.stack(rows))


def mixer(lab: Lab, tasks: Sequence[Task]) -> Networks:
    """Return mixtures of experts by the task's mean condition: the generic model fine-tuned on groups of alike classes.

    After TAPER: Wu et al. 2024 train basis networks and a mixer from text; the mixing weights are learned on random tasks.
    """
    generic, recipe = lab.generic(), lab.recipe
    groups = cluster(normalize(lab.conditions - lab.conditions.mean(0), dim=-1), recipe.experts, recipe.seed)

    def make() -> Tensors:
        bodies, rows = [generic.bodies[0]], [generic.rows[0]]
        for group in groups.unique().tolist():
            members = (groups == group).nonzero()[:, 0].tolist()
            if len(members) < 2:
                continue
            tuned = finetune(lab.target, lab.bank, [members], start_from(generic, [members]), recipe.oracle, "expert", group)
            bodies.append(tuned.bodies[0])
            rows.append(generic.rows[0].index_copy(0, torch.tensor(members), tuned.rows[0]))
        return {"bodies": torch.stack(bodies), "rows": torch.stack(rows)}

    found = lab.keep("experts", [groups.tolist(), asdict(recipe.oracle), lab.origin], make)
    bodies, rows = found["bodies"], found["rows"]
    gate = nn.Linear(lab.conditions.shape[1], len(bodies))
    nn.init.zeros_(gate.weight)
    nn.init.zeros_(gate.bias)

    def mix(some: Sequence[Task]) -> Networks:
        places = torch.tensor(some)
        share = gate(lab.conditions[places].mean(1) * lab.conditions.shape[1] ** 0.5).softmax(-1)  # (T, E)
        return Networks(share @ bodies, torch.einsum("te,etkr->tkr", share, rows[:, places]))

    optimiser = torch.optim.Adam(gate.parameters(), lr=3e-3)
    for step in range(recipe.mixer_steps):
        some = lab.random_tasks(numpy_rng(recipe.seed, "mixer", step), 8, recipe.classes)
        made, device = mix(some), lab.bank.device
        inputs = lab.bank.draw(some, 6, FIT, "mixer", step)
        logits = forward_many(lab.target, made.bodies.to(device), made.rows.to(device), inputs)
        loss = entropy(logits)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return mix(tasks)


@dataclass(frozen=True)
class PaperLearner:
    """The paper's own network, trained, and the scales of what it was trained on."""

    lab: Lab
    network: PaperDenoiser
    body_scale: Tensor
    row_scale: Tensor
    key: object

    def make(self, tasks: Sequence[Task], seed: int = 0) -> Networks:
        """Sample networks by DDPM with the linear schedule; fewer classes than the network's own are padded."""
        told = self.lab.conditions[torch.tensor(tasks)]
        visited, (body, weight, bias) = self.lab.recipe.paper_steps, paper_sizes(self.lab)

        def sample() -> Tensors:
            out = sample_parameters(self.network, told, seed, visited)
            parts = out.split([body, weight, bias], dim=1)
            rows = torch.cat([parts[1].unflatten(1, (bias, -1)), parts[2][..., None]], dim=2) * self.row_scale
            return {"bodies": parts[0] * self.body_scale, "rows": rows[:, : told.shape[1]].contiguous()}

        made = self.lab.keep("paper-samples", [self.key, list(map(list, tasks)), visited, seed], sample)
        return Networks(made["bodies"], made["rows"])


def paper_sizes(lab: Lab) -> tuple[int, int, int]:
    """Return how many parameters the paper's network makes for the body, the weights of the rows, and their biases."""
    return lab.target.body_dim, lab.recipe.classes * lab.target.dim, lab.recipe.classes


def paper(lab: Lab, seed: int = 0) -> PaperLearner:
    """Train the paper's own network on the zoo: x_0, AdamW, EMA, classes and their rows shuffled together.

    Parameters are scaled to unit root mean square.
    """
    recipe, how, classes = lab.recipe, lab.recipe.paper, lab.recipe.classes
    zoo_tasks, zoo = lab.zoo()
    sizes = [*lab.target.sizes, *paper_sizes(lab)[1:]]
    network = PaperDenoiser(chunks_of(sizes), classes, lab.conditions.shape[1], how.width, how.layers, how.heads)
    initialise(network, torch_rng(seed, "paper"), 0.02)
    device = lab.bank.device
    network.to(device)
    body_scale = zoo.bodies.square().mean().sqrt() if lab.target.body_dim else torch.ones(())
    row_scale = zoo.rows.square().mean().sqrt()

    def loss_at(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = numpy_rng(seed, "paper", step)
        chosen = rng.integers(len(zoo_tasks), size=how.batch).tolist()
        order = torch.stack([torch.from_numpy(rng.permutation(classes)) for _ in chosen])
        rows = zoo.rows[chosen].gather(1, order[..., None].expand(-1, -1, lab.target.row_dim)) / row_scale
        told = lab.conditions[torch.tensor([zoo_tasks[i] for i in chosen]).gather(1, order)]
        clean = torch.cat([zoo.bodies[chosen] / body_scale, rows[..., :-1].flatten(1), rows[..., -1]], dim=1)
        noise = torch_rng(seed, "paper step", step)
        t = torch.randint(TIMESTEPS, (len(chosen),), generator=noise)
        signal = linear_alpha_bar((t + 1) / TIMESTEPS)[:, None]
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * torch.randn(clean.shape, generator=noise)
        return (network(noisy.to(device), t.to(device), told.to(device)) - clean.to(device)).square().mean(), {}

    loop = LoopOptions(
        steps=how.steps, lr=how.lr, warmup=min(100, how.steps // 10), weight_decay=0.1, clip=0.1, ema=0.999,
        checkpoint_every=250, log_every=100, seed=seed,
    )  # fmt: skip
    key = [asdict(how), seed, recipe.zoo, asdict(recipe.pmodel), lab.origin, classes]
    checkpoint = lab.checkpoint("paper", key)

    def train() -> Tensors:
        found = train_loop(network, loss_at, loop, checkpoint, lab.stage("paper"))
        checkpoint.unlink()
        return {name: value.cpu().contiguous() for name, value in found.items()}

    state = lab.keep("paper", key, train)
    network.load_state_dict({k: v for k, v in state.items() if k != "seconds"}, strict=False)
    return PaperLearner(lab, network.eval(), body_scale, row_scale, key)
