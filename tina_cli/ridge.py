"""KERNEL RIDGE: vectors -> vectors through a Gaussian kernel on the centred unit sphere, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

NEAR = 60.0  # the width of the narrow kernel: at a cosine of 0.98 it is 0.3


@dataclass(frozen=True)
class KernelRidge:
    """A fitted regression: `mean [d]`, `keys [N, d]` centred unit vectors, `dual [N, m]`, kernel width `gamma`, `noise [N]`.

    The noise is the variance of each fitted value, beside a signal of variance one. The share `own` of it is no error but what
    the key has to itself: it counts where the key itself is asked for, or its like within `NEAR`, and nowhere else.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, section 2.2; the kernel is the sum of two.
    """

    mean: Tensor
    keys: Tensor
    dual: Tensor
    gamma: float
    noise: Tensor
    own: float = 0.0

    def kernel(self, x: Tensor) -> Tensor:
        """Return the likeness of each x [n, d] to each key, 0 to 1: exp(gamma (cos - 1)), [n, N]."""
        return torch.exp(self.gamma * (normalize(x - self.mean, dim=-1) @ self.keys.T - 1))

    def inputs(self) -> Tensor:
        """Return the unit vectors [N, d] that the keys were made from: where the ray from the mean meets the sphere."""
        along = self.keys @ self.mean
        reach = (along.square() + 1 - self.mean.square().sum()).sqrt() - along
        return normalize(self.mean + reach[:, None] * self.keys, dim=-1)

    def kernel_of_keys(self, places: Tensor) -> Tensor:
        """Return the likeness of some keys to all keys, in double precision [n, N]."""
        double = self.keys.double()
        return torch.exp(self.gamma * (double[places] @ double.T - 1))

    def predict(self, x: Tensor) -> Tensor:
        """Return the predictions for x [n, d], [n, m]."""
        kernel = self.kernel(x)
        if self.own:
            kernel = kernel + self.own * self.noise * kernel ** (NEAR / self.gamma)
        return kernel @ self.dual


def fit_kernel_ridge(x: Tensor, y: Tensor, gamma: float, noise: float | Tensor, own: float = 0.0) -> KernelRidge:
    """Fit y [N, m] from x [N, d], with one noise or that of each value [N]; solved in double precision.

    What keys have to themselves is taken to be nothing to each other: no two are as near as that.
    """
    mean = x.mean(0)
    noise = torch.as_tensor(noise, dtype=torch.float32).expand(len(x))
    keys = normalize(x - mean, dim=-1)
    dual = torch.linalg.solve(gram(keys, gamma, noise), y.double()).to(y.dtype)
    return KernelRidge(mean, keys, dual, gamma, noise, own)


def fit_linear_ridge(x: Tensor, y: Tensor, noise: float) -> Tensor:
    """Fit a matrix [m, d] that carries x [N, d] to y [N, m]; `noise` is in units of x's mean square. In double precision."""
    x, y = x.double(), y.double()
    penalty = noise * x.square().sum() / x.shape[1] * torch.eye(x.shape[1], dtype=torch.float64)
    return torch.linalg.solve(x.T @ x + penalty, x.T @ y).T.float().contiguous()


def gram(keys: Tensor, gamma: float, noise: Tensor) -> Tensor:
    """Return the regularised kernel matrix of unit keys [N, d], in double precision [N, N]."""
    double = keys.double()
    return torch.exp(gamma * (double @ double.T - 1)) + torch.diag(noise.double())


def left_out(ridge: KernelRidge, y: Tensor, groups: Tensor) -> Tensor:
    """Return what the regression would predict for each of its own keys had the key's whole group been left out.

    y [N, m] are the fitted values, `groups` [N] the group of each key; the result is [N, m]. Leaving groups of one out is
    the usual leave-one-out. Source: the block form of the leave-one-out identity (same book, section 5.4.2).
    """
    inverse = torch.linalg.inv(gram(ridge.keys, ridge.gamma, ridge.noise))
    dual = inverse @ y.double()
    out = torch.empty_like(y)
    for group in groups.unique():
        members = (groups == group).nonzero()[:, 0]
        block = inverse[members][:, members]
        out[members] = (y[members].double() - torch.linalg.solve(block, dual[members])).to(y.dtype)
    return out
