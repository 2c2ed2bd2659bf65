"""SENSES: names -> what they mean beside each other, by the lexicon's senses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from tina_cli.lexicon import PHYSICAL, Lexicon, Sense, normalise, split_remark

RANK_WEIGHT = 0.75  # a sense's log frequency rank counts against it
PHYSICAL_BONUS = 1.0
FIRST_BONUS = 0.3  # a hedgehog is first of all a hedgehog, though porcupines are called so too
KNOWN_BONUS = 1.0  # the generator has seen pictures of it
CONTEXT_WEIGHT = 4.0  # similarity to the other names of the prompt


def choose_senses(
    lexicon: Lexicon,
    names: Sequence[str],
    known: frozenset[str] = frozenset(),
    first: frozenset[str] = frozenset(),
    described: frozenset[str] = frozenset(),
) -> list[Sense | None]:
    """Choose a sense for each name beside the other names, whatever their order; None for a name with none.

    A sense without an id is one made up for a name that is not here: a kind of what its last word means. A sense scores
    by its frequency, by having the name for its first, by being a physical thing, by being in `known` (pictures of it
    are known) and by its likeness to the best fitting senses of the other names: "crane" beside "heron" is the bird.
    Where one or more of a name's senses are in `first`, only these come into question; where none is in `known`, those in
    `described` count as if they were.
    """
    options = [possible_senses(lexicon, name) for name in names]
    options = [[sense for sense in senses if sense.id in first] or senses for senses in options]
    preferred = [known if any(sense.id in known for sense in senses) else described for senses in options]
    priors = [
        [_prior(lexicon, sense, lexicon.spellings(split_remark(name)[0]), liked) for sense in senses]
        for name, senses, liked in zip(names, options, preferred, strict=True)
    ]
    named = [i for i, senses in enumerate(options) if senses]
    chosen: list[Sense | None] = [None] * len(names)
    if not named:
        return chosen
    starts = np.cumsum([0, *(len(options[i]) for i in named[:-1])])
    worth = likeness(lexicon, list(chain(*options))) + 0.1 * np.array(list(chain(*priors)))
    fit = np.maximum.reduceat(worth, starts, axis=1)  # of every sense to every name that has one
    for place, (i, start) in enumerate(zip(named, starts, strict=True)):
        scores = []
        for prior, fits in zip(priors[i], fit[start : start + len(options[i])].tolist(), strict=True):
            others = fits[:place] + fits[place + 1 :]
            scores.append(prior + (CONTEXT_WEIGHT * math.fsum(others) / len(others) if others else 0.0))
        chosen[i] = options[i][max(range(len(scores)), key=scores.__getitem__)]
    return chosen


def sense_of(lexicon: Lexicon, name: str, sense_id: str | None) -> Sense | None:
    """Return the sense with this id, or for None what the name means by itself."""
    return lexicon.get(sense_id) if sense_id else choose_senses(lexicon, [name])[0]


def possible_senses(lexicon: Lexicon, name: str) -> list[Sense]:
    """Return what a name may mean: its senses, those that a remark in parentheses allows, or a kind of its last word.

    "bass (fish)" is a bass that is a fish; "cabin fan", which is no name here, is a kind of fan.
    """
    base, remark = split_remark(name)
    found = lexicon.candidates(base)
    kinds = {sense.id for sense in lexicon.candidates(remark)} if remark else set()
    if kinds and found:
        return [sense for sense in found if kinds & lexicon.ancestors(sense.id)] or found
    if found:
        return found
    words = normalise(remark or base).split(" ")
    for start in range(0 if remark else 1, len(words)):
        head = " ".join(words[start:])
        if len(head) >= 3 and (heads := lexicon.candidates(head)):
            return [Sense("", (normalise(base),), (rank,), "", (head.id,)) for rank, head in enumerate(heads, 1)]
    return []


def likeness(lexicon: Lexicon, senses: Sequence[Sense]) -> NDArray[np.float64]:
    """Return the share of hypernyms that senses have in common, 0 to 1 (Jaccard), [n, n]."""
    above = [lexicon.above(sense) for sense in senses]
    place = {found: i for i, found in enumerate({found for path in above for found in path})}
    member = np.zeros((len(senses), len(place)), dtype=np.float32)  # whole numbers, which it counts exactly
    for row, path in zip(member, above, strict=True):
        row[[place[found] for found in path]] = 1
    common, sizes = (member @ member.T).astype(np.float64), member.sum(1, dtype=np.float64)
    return common / (sizes[:, None] + sizes - common)


def _prior(lexicon: Lexicon, sense: Sense, forms: Sequence[str], known: frozenset[str]) -> float:
    named = [lemma.lower() in forms for lemma in sense.lemmas]
    rank = min((rank for rank, is_name in zip(sense.ranks, named, strict=True) if is_name), default=1)
    score = FIRST_BONUS * named[0] - RANK_WEIGHT * math.log(rank)
    if PHYSICAL in lexicon.above(sense):
        score += PHYSICAL_BONUS
    if sense.id in known:
        score += KNOWN_BONUS
    return score
