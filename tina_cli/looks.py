"""LOOKS: what described nouns look like, written into their vectors (training only).

What is said of a thing in sentences tells meanings apart better than pictures. So a noun's vector is moved towards those of
what it resembles in photos, and its tags (colour, material, shape, parts, surroundings) go where CLIP's text vectors have
nearly no variance: they tell likes from unlikes, and take nothing from what CLIP says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.lexicon import normalise, split_remark

NEIGHBOUR_WEIGHT = 0.6  # of what a noun resembles beside what is said of it
FALL = 0.15  # how fast the weights of neighbours fall with their rank
SHARPNESS = 1.5  # and the power they are raised to
TAG_WEIGHT = 0.6  # of the tags beside all else
TAG = re.compile(r"([a-z]+)([1-3])")


def toward_neighbours(vectors: Tensor, names: Sequence[str], neighbours: Sequence[Sequence[str]]) -> Tensor:
    """Return unit vectors [n, d] moved towards those of their neighbours, which are given by name, the likest first.

    The first of several nouns with a name is meant; names without a vector count for nothing.
    """
    place: dict[str, int] = {}
    for i, name in enumerate(names):
        place.setdefault(normalise(name), i)
    towards = torch.zeros_like(vectors)
    for i, own in enumerate(neighbours):
        for rank, other in enumerate(own):
            j = place.get(normalise(other), place.get(normalise(split_remark(other)[0]), i))
            if j != i:
                towards[i] += (1 + FALL * rank) ** -SHARPNESS * vectors[j]
    return normalize(vectors + NEIGHBOUR_WEIGHT * normalize(towards, dim=-1), dim=-1)


def tag_vectors(tags: Sequence[str]) -> Tensor:
    """Return the centred unit vectors [n, t] of lists such as "fur3 brown2", one dimension a tag; of an empty one, zero.

    A tag counts by the root of its level, and of how rare it is: the logarithm of the inverse of its share.
    """
    levels = [{word: int(level) for word, level in TAG.findall(text)} for text in tags]
    words = sorted({word for own in levels for word in own})
    place = {word: i for i, word in enumerate(words)}
    out = torch.zeros(len(tags), len(words))
    for row, own in zip(out, levels, strict=True):
        for word, level in own.items():
            row[place[word]] = level**0.5
    told = out.any(1)
    share = (out[told] > 0).float().mean(0)
    out = normalize(out * (-share.clamp(1e-3, 0.99).log()).sqrt(), dim=-1)
    out[told] = normalize(out[told] - out[told].mean(0), dim=-1)
    return out


def unused_directions(vectors: Tensor, count: int) -> Tensor:
    """Return the `count` orthonormal directions [count, d] in which centred vectors [N, d] vary least."""
    return torch.linalg.eigh((vectors.T @ vectors).double())[1][:, :count].T.float()


def with_tags(vectors: Tensor, tags: Sequence[str], genuine: Tensor) -> Tensor:
    """Return unit vectors [n, d] with their tags in the directions that genuine centred vectors [N, d] use least."""
    told = tag_vectors(tags)[:, : vectors.shape[1] // 2]
    return normalize(vectors + TAG_WEIGHT * told @ unused_directions(genuine, told.shape[1]), dim=-1)
