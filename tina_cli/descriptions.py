"""DESCRIPTIONS: what things look like, in words: a table that the small CLIP's text tower learns from (training only)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tina_cli.errors import DataError
from tina_cli.lexicon import Sense, normalise

FIELDS = ("name", "sense", "description", "lookalikes")


@dataclass(frozen=True)
class Description:
    """What a photo of a thing shows, and the things that look most like it."""

    name: str
    sense: str | None
    text: str
    lookalikes: tuple[str, ...]


class Descriptions:
    """A table of descriptions, found by sense or by name."""

    def __init__(self, rows: list[Description]) -> None:
        self.rows = rows
        self._of = {row.sense: row for row in reversed(rows) if row.sense}
        self._of |= {normalise(row.name): row for row in reversed(rows)}

    @classmethod
    def read(cls, path: Path) -> Descriptions:
        """Read tab-separated lines: name, WordNet sense or nothing, description, look-alikes; raises `DataError`."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read descriptions from {path}: {error}", hint="see docs/training.md") from error
        rows = []
        for number, line in enumerate(lines, 1):
            fields = line.split("\t")
            if len(fields) != len(FIELDS) or not fields[0] or not fields[2]:
                raise DataError(f"{path}:{number} has not the fields {', '.join(FIELDS)}, separated by tabs")
            name, sense, text, lookalikes = fields
            rows.append(Description(name, sense or None, text, tuple(filter(None, map(str.strip, lookalikes.split(","))))))
        return cls(rows)

    def find(self, name: str, sense: Sense | None) -> Description | None:
        """Return the description of a name in a sense: that of the sense, or of the name where the sense has no id."""
        if sense is not None and sense.id:
            return self._of.get(sense.id)
        return self._of.get(normalise(name))
