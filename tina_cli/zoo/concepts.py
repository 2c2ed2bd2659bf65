"""Concepts: the classes of several picture sets, those with the same meaning made one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tina_cli.device import prepare_torchvision
from tina_cli.lexicon import Lexicon, normalise
from tina_cli.rng import derive
from tina_cli.senses import choose_senses

TESTABLE = 10  # pictures that a held-out class has at least


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
    prepare_torchvision()
    import open_clip
    import timm

    folder = Path(timm.__file__).parent / "data" / "_info"
    senses = (folder / "imagenet_synsets.txt").read_text().split()
    return [Concept(n, s, trunk_row=i) for i, (n, s) in enumerate(zip(open_clip.IMAGENET_CLASSNAMES, senses, strict=True))]


def known_senses(concepts: Sequence[Concept], lexicon: Lexicon) -> frozenset[str]:
    """Return the senses of concepts and all their hypernyms: whoever knows a tabby has an idea of a cat."""
    return frozenset().union(*(lexicon.ancestors(concept.sense) for concept in concepts if concept.sense))


def kinds_of(names: Sequence[str], lexicon: Lexicon) -> frozenset[str]:
    """Return the senses of the names of kinds."""
    return frozenset(sense.id for name in names for sense in lexicon.candidates(name))


def collect(
    sets: Mapping[str, Mapping[str, int]],
    lexicon: Lexicon,
    first: Sequence[Concept],
    heldout_share: float,
    heldout_kinds: Sequence[str],
    seed: int,
) -> tuple[list[Concept], dict[str, list[int]]]:
    """Return all concepts, and for each set (class -> number of pictures) the concept of each of its classes.

    `first` are concepts known beforehand. Held out are, by a hash of the concept's key, a share of those with pictures enough
    to test on ("near") and all whose hypernyms include one of `heldout_kinds` ("far"): fixed before anything is fitted.
    """
    concepts = {concept.key: concept for concept in first}
    known, exact = known_senses(first, lexicon), frozenset(concept.sense for concept in first if concept.sense)
    place: dict[str, list[str]] = {}
    pictures: dict[str, int] = {}
    for name, classes in sets.items():
        senses = choose_senses(lexicon, list(classes), known, exact)
        found = [Concept(c, s.id or None if s else None) for c, s in zip(classes, senses, strict=True)]
        place[name] = [concept.key for concept in found]
        for concept, count in zip(found, classes.values(), strict=True):
            concepts.setdefault(concept.key, concept)
            pictures[concept.key] = pictures.get(concept.key, 0) + count
    kinds = kinds_of(heldout_kinds, lexicon)
    out: dict[str, Concept] = {}
    for key, concept in concepts.items():
        tier = ""
        chance = derive(seed, "held-out class", key) % 10_000 / 10_000
        if concept.sense and kinds & lexicon.ancestors(concept.sense):
            tier = "far"
        elif pictures.get(key, 0) >= TESTABLE and chance < heldout_share:
            tier = "near"
        out[key] = Concept(concept.name, concept.sense, tier, concept.trunk_row)
    index = {key: i for i, key in enumerate(out)}
    return list(out.values()), {name: [index[key] for key in keys] for name, keys in place.items()}
