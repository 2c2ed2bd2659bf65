"""DESCRIPTIONS: what things look like, in words: a table that the small CLIP's text tower learns from (training only)."""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from tina_cli.errors import DataError
from tina_cli.lexicon import Lexicon, Sense, normalise

FIELDS = ("name", "sense", "description", "lookalikes", "tags", "neighbours", "other names", "kind")
OWN = "x"  # begins the ids of senses that WordNet does not have


@dataclass(frozen=True)
class Description:
    """What a photo of a thing shows: in a sentence, by the things that look most like it, and in tags.

    Look-alikes are any names, to be read; neighbours are names in the table, the likest first. A tag is a word with how much of
    it there is, 1 to 3. Other names are what WordNet does not know that the thing is called. What has a `kind`, WordNet's id of
    what it is a kind of, is a thing that WordNet does not know at all: its sense is one of our own.
    """

    name: str
    sense: str | None
    text: str
    lookalikes: tuple[str, ...]
    tags: str
    neighbours: tuple[str, ...]
    other_names: tuple[str, ...]
    kind: str


class Descriptions:
    """A table of descriptions, found by sense or by name."""

    def __init__(self, rows: list[Description]) -> None:
        self.rows = rows
        self._of = {row.sense: row for row in reversed(rows) if row.sense}
        self._of |= {normalise(row.name): row for row in reversed(rows)}

    @classmethod
    def read(cls, path: Path) -> Descriptions:
        """Read tab-separated lines, perhaps compressed; raises `DataError`.

        Their fields: name, WordNet sense or nothing, description, look-alikes, tags, neighbours, other names, and of what
        has no WordNet sense the sense that it is a kind of, or nothing.
        """
        try:
            data = path.read_bytes()
            lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8").splitlines()
        except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
            raise DataError(f"cannot read descriptions from {path}: {error}", hint="see docs/training.md") from error
        rows = []
        for number, line in enumerate(lines, 1):
            fields = line.split("\t")
            if len(fields) != len(FIELDS) or not fields[0] or not fields[2]:
                raise DataError(f"{path}:{number} has not the fields {', '.join(FIELDS)}, separated by tabs")
            name, sense, text, lookalikes, tags, neighbours, others, kind = fields
            own = f"{OWN}{zlib.crc32(normalise(name).encode()):08x}" if kind else None
            lists = listed(lookalikes), tags, listed(neighbours), listed(others)
            rows.append(Description(name, sense or own, text, *lists, kind))
        return cls(rows)

    def extended(self, lexicon: Lexicon) -> Lexicon:
        """Return a lexicon with the things that it does not know, and with what things are called besides.

        What is described as a thing of its own is no other name of anything.
        """
        own = {squeezed(row.name): row.sense for row in self.rows}
        names = {
            row.sense: [name for name in row.other_names if own.get(squeezed(name), row.sense) == row.sense]
            for row in self.rows
            if row.sense
        }
        new = [Sense(row.sense, (row.name,), (1,), row.text, (row.kind,)) for row in self.rows if row.sense and row.kind]
        return lexicon.with_senses(new).with_names(names)

    def find(self, name: str, sense: Sense | None) -> Description | None:
        """Return the description of a name in a sense: that of the sense, or of the name where the sense has no id."""
        if sense is not None and sense.id:
            return self._of.get(sense.id)
        return self._of.get(normalise(name))


def squeezed(name: str) -> str:
    """Return a name without spaces, hyphens and the plural's s."""
    return re.sub("[ -]", "", normalise(name)).removesuffix("s")


def listed(text: str) -> tuple[str, ...]:
    """Return the names of a list with commas."""
    return tuple(filter(None, map(str.strip, text.split(","))))
