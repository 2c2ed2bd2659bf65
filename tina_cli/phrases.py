"""PHRASES: what people might say of a described noun without its name, made up anew in every step (training only).

A small text tower learns one description of a thing by heart, and reads another of the same thing poorly. So it is taught by
phrases that are never the same: parts of a description, in any order, tags, kinds, parts of the dictionary's gloss, with
words left out and nouns exchanged for their synonyms and kinds.
"""

from __future__ import annotations

import re

import numpy as np

from tina_cli.lexicon import Lexicon
from tina_cli.looks import TAG
from tina_cli.teacher import Noun

KEPT = (0.25, 0.5, 0.8)  # how often a tag is said, by its weight
WORDS = {"plainbackground": "plain background", "twolegs": "two legs", "fourlegs": "four legs", "closeup": "close up"}
PARTS = re.compile(r", | with | and ")
KINDS = 2  # the nearest kinds, by one of which a thing is told
DROPPED = 0.12  # of the words of every second phrase
EXCHANGED = 0.25  # of the nouns
SHORTEST = 3  # letters of a noun that is exchanged


def phrase(noun: Noun, lexicon: Lexicon, rng: np.random.Generator) -> str:
    """Return something that may be said of a described noun; its own name is not in it."""
    kind = str(rng.choice(noun.kind.split(", ")[:KINDS])) if noun.kind else "thing"
    form = rng.random()
    if form < 0.35:
        parts = some(PARTS.split(noun.description), 0.75, rng)
        said = (", " if rng.random() < 0.5 else " with ").join(rng.permutation(parts) if rng.random() < 0.5 else parts)
    elif form < 0.5 and noun.tags:
        said = " ".join(tags(noun, rng))
    elif form < 0.7 and noun.tags:
        own = tags(noun, rng)
        said = " ".join([*own[:3], kind]) + (" with " + " and ".join(own[3:6]) if own[3:] else "")
    elif form < 0.85 and noun.gloss:
        said = ", ".join([*some(re.split("[;,] ", noun.gloss), 0.8, rng), *(tags(noun, rng)[:3] if rng.random() < 0.4 else [])])
    else:
        said = noun.description
    if rng.random() < 0.5:
        said = " ".join(some(said.split(), 1 - DROPPED, rng))
    said = " ".join(exchanged(word, lexicon, rng) if rng.random() < EXCHANGED else word for word in said.split())
    said = re.sub(rf"\b{re.escape(noun.name)}s?\b", "", said, flags=re.IGNORECASE).strip() or kind
    return f"a {said}" if rng.random() < 0.4 and not said.lower().startswith(("a ", "an ", "the ")) else said


def exchanged(word: str, lexicon: Lexicon, rng: np.random.Generator) -> str:
    """Return another word for a noun: a name of its commonest sense, or of the kind that is; what is no noun stays."""
    plain = word.strip(",.;").lower()
    senses = lexicon.candidates(plain) if len(plain) >= SHORTEST else []
    if not senses:
        return word
    above = [kind for kind in map(lexicon.get, senses[0].hypernyms[:1]) if kind]
    others = [name for name in senses[0].lemmas if name.lower() != plain] + [name for kind in above for name in kind.lemmas[:2]]
    return str(rng.choice(others[:4])) + "," * word.endswith(",") if others else word


def some(items: list[str], share: float, rng: np.random.Generator) -> list[str]:
    """Return a share of some strings at random, in their order: at least the first."""
    return [item for item in items if rng.random() < share] or items[:1]


def tags(noun: Noun, rng: np.random.Generator) -> list[str]:
    """Return some tags of a noun in any order, the weightier the likelier, eight at most."""
    said = [WORDS.get(tag, tag) for tag, weight in TAG.findall(noun.tags) if rng.random() < KEPT[int(weight) - 1]]
    return [str(tag) for tag in rng.permutation(said)[:8]]
