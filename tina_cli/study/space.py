"""SPACE: networks as states that a generator makes: what classes add to bodies as codes, and rows, both around anchors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.ridge import KernelRidge, fit_kernel_ridge
from tina_cli.study.lab import Lab, Task, Tensors
from tina_cli.study.network import State
from tina_cli.study.pmodels import Networks
from tina_cli.study.recipe import Learning

GAMMA, NOISE = 3.0, 0.01  # of the regression from conditions to rows
# Of the regression from a task's classes to its body, in p-Models: how far one differs from what its classes tell. By TUNE
# accuracy of unseen tasks, with 200 p-Models: 50 gains 0.13 points, 100 gains 0.23, 200 gains 0.15.
DOUBT = 100.0
FAINT = 1e-3  # directions that classes differ along less than so much of their first are none
DEFAULT = Learning()


@dataclass(frozen=True)
class Standard:
    """Vectors around a mean, in units of how far they are from it."""

    mean: Tensor
    unit: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> Standard:
        """Return the standard of vectors [n, d]."""
        return cls(vectors.mean(0), (vectors - vectors.mean(0)).square().mean().sqrt())

    def __call__(self, vectors: Tensor) -> Tensor:
        """Return vectors [..., d] as what they differ by from the mean, in units."""
        return (vectors - self.mean) / self.unit


@dataclass(frozen=True)
class Space:
    """How networks become states: bodies as codes around `mean [P]`, rows in units of scale, both from their anchors.

    A code is told in the directions along which classes change bodies, in units of how far p-Models differ along each: what
    else sets p-Models apart is mostly chance. Conditions and anchors are standardised for the network that sees them: text
    vectors of all names are much alike, and what sets a task apart was lost beside what they have in common.
    """

    mean: Tensor
    basis: Tensor  # [C, P], orthogonal
    effects: Tensor  # [N, C], the anchor of a body for this class alone: that of a task is its classes' mean
    row_scale: Tensor
    rows: Tensor  # [N, R], each class's anchor
    known: KernelRidge  # conditions -> which class it is
    conditions: Standard
    anchors: Standard

    def shares(self, condition: Tensor) -> Tensor:
        """Return how much conditions [..., d] are each class's, by regression, [..., N]."""
        return self.known.predict(condition.flatten(0, -2)).unflatten(0, condition.shape[:-1])

    def anchor(self, shares: Tensor) -> State:
        """Return the anchors of tasks whose classes have these shares [T, K, N]: codes and rows."""
        return State(shares.mean(1) @ self.effects, shares @ self.rows)

    def inputs(self, told: Tensor, anchor: State) -> tuple[Tensor, Tensor]:
        """Return conditions [T, K, d] and the rows of anchors as networks see them."""
        return self.conditions(told), self.anchors(anchor.rows)

    def encode(self, networks: Networks, anchor: State) -> State:
        """Return the clean states of networks."""
        code = (networks.bodies - self.mean) @ self.basis.T / self.basis.square().sum(1)
        return State(code - anchor.body, (networks.rows - anchor.rows) / self.row_scale)

    def decode(self, state: State, anchor: State) -> Networks:
        """Return the networks of clean states."""
        mean, basis, row_scale = (value.to(state.rows.device) for value in (self.mean, self.basis, self.row_scale))
        return Networks(mean + (anchor.body + state.body) @ basis, anchor.rows + state.rows * row_scale)


def class_means(tasks: Sequence[Task], networks: Networks, classes: int) -> tuple[Tensor, Tensor]:
    """Return each class's mean row [N, R] over the p-Models it is in, and in how many it is [N]."""
    places = torch.tensor(tasks).flatten()
    sums = torch.zeros(classes, networks.rows.shape[-1]).index_add_(0, places, networks.rows.flatten(0, 1))
    counts = torch.bincount(places, minlength=classes)
    return sums / counts.clamp_min(1)[:, None], counts


def class_effects(tasks: Sequence[Task], bodies: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return what each class adds to a body, by ridge regression of bodies [T, P] on which classes their tasks have.

    As codes [N, C] in an orthogonal basis [C, P], its directions as long as bodies differ along them.
    """
    has = torch.zeros(len(tasks), classes, dtype=torch.float64).scatter_(1, torch.tensor(tasks), 1.0)
    has, gaps = has - has.mean(0), (bodies - bodies.mean(0)).double()
    effects = torch.linalg.solve(has.T @ has + DOUBT * torch.eye(classes, dtype=torch.float64), has.T @ gaps)
    own, size, directions = torch.linalg.svd(effects - effects.mean(0), full_matrices=False)
    kept = size > FAINT * size[:1]
    spread = (gaps @ directions[kept].T).square().mean(0).sqrt()
    return (own[:, kept] * size[kept] / spread).float(), (directions[kept] * spread[:, None]).float()


def fit_space(lab: Lab, tasks: Sequence[Task], networks: Networks, how: Learning = DEFAULT) -> Space:
    """Fit the space to the zoo: bodies around the generic model's, its rows by regression on conditions.

    Without anchors, a row is told from the mean row and classes add nothing to the anchor of a body. Where classes are to be
    told by pictures too, the regression knows each class by its pictures as well.
    """
    generic, classes = lab.generic(), len(lab.bank.names)
    rows = generic.rows[0] if how.anchored else generic.rows[0].mean(0).expand(classes, -1)
    keys, labels = lab.conditions, torch.eye(classes)
    if how.shown:
        keys, labels = torch.cat([keys, *(normalize(own.mean(0), dim=-1)[None] for own in lab.shown)]), labels.repeat(2, 1)
    known = fit_kernel_ridge(keys, labels, GAMMA, NOISE)

    def make() -> Tensors:
        effects, basis = class_effects(tasks, networks.bodies, classes)
        return {"effects": effects, "basis": basis}

    effects, basis, row_scale = torch.zeros(classes, 0), torch.zeros(0, lab.target.body_dim), torch.ones(())
    if lab.target.body_dim:  # kept: the basis is one of many, and what is trained on it is nothing on another
        found = lab.keep("effects", [tasks, asdict(lab.recipe.pmodel), lab.origin, DOUBT, FAINT], make)
        effects, basis = found["effects"], found["basis"]
    if how.normalise:
        gaps = networks.rows - (known.predict(lab.conditions) @ rows)[torch.tensor(tasks)]
        row_scale = gaps.square().mean().sqrt()
    else:
        size = basis.norm(dim=1)
        effects, basis = effects * size, basis / size[:, None]
    fixed = known, Standard.of(lab.conditions), Standard.of(generic.rows[0])
    # What a class adds to a body is its share of it: by TUNE accuracy on tasks of 2 to 50 classes a mean is mostly better than
    # a sum, and never worse.
    alone = effects * lab.recipe.classes * how.anchored
    return Space(generic.bodies[0], basis, alone, row_scale, rows, *fixed)
