"""Kinds: concepts above those with pictures, and rows for them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli.codec import fit_spread
from tina_cli.config import ZooStage
from tina_cli.lexicon import Lexicon
from tina_cli.rng import torch_rng
from tina_cli.senses import choose_senses
from tina_cli.weights import embedded_weights
from tina_cli.zoo.concepts import Concept
from tina_cli.zoo.kinds import find_kinds, fit_kinds
from tina_cli.zoo.store import FIT, TEST, FeatureBank
from tina_cli.zoo.tasks import TaskSource, exclusions

BELOW = {
    "dog": ["beagle", "whippet", "borzoi", "pug"],
    "bird": ["robin", "goldfinch", "jay", "magpie"],
    "car": ["minivan", "jeep", "limousine", "convertible"],
    "cat": ["tabby", "Persian cat", "Siamese cat", "Egyptian cat"],
    "fish": ["goldfish", "tench", "stingray", "eel"],
}
WIDTH, PICTURES = 16, 10


def zoo() -> tuple[list[Concept], FeatureBank, Lexicon]:
    """Return classes with pictures around a centre of their own, which is some way from their kind's."""
    lexicon = Lexicon.read(embedded_weights() / "lexicon.gz")
    names = [name for below in BELOW.values() for name in below]
    known = frozenset(sense.id for kind in BELOW for sense in lexicon.candidates(kind))
    senses = choose_senses(lexicon, names, known)
    concepts = [Concept(name, sense.id if sense else None) for name, sense in zip(names, senses, strict=True)]
    centres = torch.randn(len(BELOW), WIDTH, generator=torch_rng(0, "kinds")).repeat_interleave(4, 0)
    centres = centres + 1.5 * torch.randn(len(names), WIDTH, generator=torch_rng(0, "classes"))
    noise = 0.8 * torch.randn(len(names), PICTURES, WIDTH, generator=torch_rng(0, "pictures"))
    features = normalize(centres[:, None] + noise, dim=-1).flatten(0, 1)
    part = torch.tensor([FIT] * 6 + [TEST] * 4).repeat(len(names))
    concept = torch.arange(len(names)).repeat_interleave(PICTURES)
    return concepts, FeatureBank(features, concept, part, torch.zeros_like(concept)), lexicon


def test_kinds_are_known_words_above_enough_classes() -> None:
    concepts, bank, lexicon = zoo()
    alive = torch.ones(len(concepts), dtype=torch.bool)
    [dog] = {s.id for s in choose_senses(lexicon, ["dog"]) if s}
    [boat] = {s.id for s in choose_senses(lexicon, ["boat"]) if s}
    found = find_kinds(concepts, alive, bank, lexicon, {dog, boat}, 4)
    assert found == {Concept("dog", dog): (0, 1, 2, 3)}
    alive[0] = False  # as held-out classes are
    assert not find_kinds(concepts, alive, bank, lexicon, {dog, boat}, 4)
    assert not find_kinds([*concepts, Concept("dog", dog)], torch.ones(21, dtype=torch.bool), bank, lexicon, {dog}, 4)


def test_a_kind_has_equally_many_pictures_of_each_member() -> None:
    _, bank, _ = zoo()
    keep = torch.ones(len(bank.concept), dtype=torch.bool)
    keep[1:6] = False  # the first class has one picture to fit on
    some = FeatureBank(bank.features[keep], bank.concept[keep], bank.part[keep], bank.origin[keep], {16: (0, 1, 2)})
    assert bool((some.part[some.rows_of(16, FIT)] == FIT).all())
    assert torch.bincount(some.concept[some.rows_of(16, FIT)]).unique().numel() == 1


def test_rows_of_kinds_tell_their_pictures_apart() -> None:
    """Fitted on some pictures, they are right on others, more often than their members' mean rows are."""
    concepts, bank, lexicon = zoo()
    members = {20 + i: tuple(range(4 * i, 4 * i + 4)) for i in range(5)}
    concepts += [Concept(kind, choose_senses(lexicon, [kind])[0].id) for kind in BELOW]  # type: ignore[union-attr]
    bank = FeatureBank(bank.features, bank.concept, bank.part, bank.origin, members)
    excluded = exclusions(concepts, lexicon, members)
    assert bool(excluded[20, 0]) and not bool(excluded[20, 4]) and not bool(excluded[20, 21])
    mean = bank.features.mean(0)
    rows = torch.stack([(bank.features[bank.rows_of(i, FIT)] - mean).mean(0) for i in range(20)] + [torch.zeros(WIDTH)] * 5)
    spread = fit_spread(bank.features - mean, torch.ones(len(bank.features)), rows[:20])
    rows[:20] = spread.standardise(rows[:20])
    source = TaskSource(tuple(range(25)), (), torch.eye(25), excluded, tuple(members))

    def accuracy(rows: Tensor) -> float:
        right = [
            (((bank.features[bank.rows_of(kind, TEST)] - mean) @ rows[20:].T).argmax(-1) == i).float().mean()
            for i, kind in enumerate(members)
        ]
        return float(torch.stack(right).mean())

    fitted = fit_kinds(rows, source, bank, mean, spread, ZooStage())
    assert torch.equal(fitted[:20], rows[:20])
    means = torch.cat([rows[:20], spread.standardise(torch.stack([rows[list(own)].mean(0) for own in members.values()]))])
    assert accuracy(fitted) > max(0.9, accuracy(means))
