"""WordNet's noun files -> the lexicon's table of senses (training time only)."""

from __future__ import annotations

import re
from pathlib import Path

from tina_cli.errors import DataError
from tina_cli.lexicon import Lexicon, Sense

NOUN_FILES = ("data.noun", "index.noun", "noun.exc")
MAX_GLOSS = 120
UNMET = 3  # ranks that senses never met in texts stand further behind


def short_gloss(gloss: str) -> str:
    """Return the definition of a WordNet gloss without its examples, at most `MAX_GLOSS` characters long."""
    definition = re.split(r'; *"|\s*"', gloss.strip(), maxsplit=1)[0].strip(" ;:")
    definition = re.sub(r"^\([^)]*\)\s*", "", definition) or definition
    if len(definition) <= MAX_GLOSS:
        return definition
    return definition[:MAX_GLOSS].rsplit(" ", 1)[0].rstrip(" ,;(")


def read_wordnet(directory: Path) -> Lexicon:
    """Read every noun that is a kind of thing (not an instance such as a city or a person) from WordNet's files.

    Raises `DataError` where `directory` lacks WordNet's noun files. Source: WordNet 3.0, `wndb(5)`.
    """
    for name in NOUN_FILES:
        if not (directory / name).is_file():
            raise DataError(f"no {name} in {directory}", hint="install WordNet's data files (Debian: wordnet-base)")
    ranks = _sense_numbers(directory / "index.noun")
    senses = []
    for line in (directory / "data.noun").read_text(encoding="latin-1").splitlines():
        if line.startswith(" "):
            continue
        head, _, gloss = line.partition("|")
        fields = head.split()
        offset, count = fields[0], int(fields[3], 16)
        lemmas = [fields[4 + 2 * i].replace("_", " ") for i in range(count)]
        pointers = fields[5 + 2 * count :]
        hypernyms = [pointers[i + 1] for i in range(0, len(pointers) - 3, 4) if pointers[i] == "@"]
        if not hypernyms and any(pointers[i] == "@i" for i in range(0, len(pointers) - 3, 4)):
            continue
        senses.append(
            Sense(
                id=f"n{offset}",
                lemmas=tuple(lemmas),
                ranks=tuple(ranks.get((lemma.lower(), offset), 9) for lemma in lemmas),
                gloss=short_gloss(gloss),
                hypernyms=tuple(f"n{h}" for h in hypernyms),
            )
        )
    exceptions = (line.split() for line in (directory / "noun.exc").read_text(encoding="latin-1").splitlines())
    plurals = {many.replace("_", " "): one.replace("_", " ") for many, one, *_ in exceptions if many != one}
    return Lexicon.from_senses(senses, plurals)


def _sense_numbers(index: Path) -> dict[tuple[str, str], int]:
    """Map (lemma, synset offset) to its sense number, 1 the most frequent; those never met in texts stand further behind."""
    numbers = {}
    for line in index.read_text(encoding="latin-1").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split()
        offsets, met = fields[-int(fields[2]) :], int(fields[-int(fields[2]) - 1])
        for number, offset in enumerate(offsets, start=1):
            numbers[fields[0].replace("_", " "), offset] = number if number <= met else number + UNMET
    return numbers
