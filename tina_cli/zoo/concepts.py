"""Concepts: the classes of several picture sets, those with the same meaning made one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tina_cli.lexicon import Lexicon, normalise
from tina_cli.rng import derive


@dataclass(frozen=True)
class Concept:
    """A class: its name, its sense where the lexicon has one, and whether every stage is to leave it out."""

    name: str
    sense: str | None
    heldout: str = ""  # "", "near" or "far"
    trunk_row: int = -1  # its row in the trunk's own classifier

    @property
    def key(self) -> str:
        """Return what makes two classes one concept: the sense, or else the name."""
        return self.sense or normalise(self.name)


def imagenet_concepts() -> list[Concept]:
    """Return the 1,000 classes of ImageNet with their WordNet senses, in the order of a classifier's rows."""
    import open_clip
    import timm

    folder = Path(timm.__file__).parent / "data" / "_info"
    senses = (folder / "imagenet_synsets.txt").read_text().split()
    return [Concept(n, s, trunk_row=i) for i, (n, s) in enumerate(zip(open_clip.IMAGENET_CLASSNAMES, senses, strict=True))]


def collect(
    sets: Mapping[str, Sequence[str]],
    lexicon: Lexicon,
    first: Sequence[Concept],
    heldout_share: float,
    heldout_kinds: Sequence[str],
    seed: int,
) -> tuple[list[Concept], dict[str, list[int]]]:
    """Return all concepts, and for each set the concept of each of its classes.

    `first` are concepts known beforehand. Held out are, by a hash of the concept's key, a share of those with pictures
    ("near") and all whose hypernyms include one of `heldout_kinds` ("far"): fixed before anything is fitted.
    """
    concepts = {concept.key: concept for concept in first}
    known = frozenset(concept.sense for concept in first if concept.sense)
    place: dict[str, list[str]] = {}
    for name, classes in sets.items():
        senses = lexicon.choose(classes, known)
        found = [Concept(c, s.id if s else None) for c, s in zip(classes, senses, strict=True)]
        place[name] = [concept.key for concept in found]
        for concept in found:
            concepts.setdefault(concept.key, concept)
    pictured = {key for keys in place.values() for key in keys}
    kinds = {sense.id for kind in heldout_kinds for sense in lexicon.candidates(kind)}
    out: dict[str, Concept] = {}
    for key, concept in concepts.items():
        tier = ""
        if concept.sense and kinds & lexicon.ancestors(concept.sense):
            tier = "far"
        elif key in pictured and derive(seed, "held-out class", key) % 10_000 < heldout_share * 10_000:
            tier = "near"
        out[key] = Concept(concept.name, concept.sense, tier, concept.trunk_row)
    index = {key: i for i, key in enumerate(out)}
    return list(out.values()), {name: [index[key] for key in keys] for name, keys in place.items()}
