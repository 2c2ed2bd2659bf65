"""LEXICON: names -> senses, glosses and hypernyms, from one compact text table.

The table is one gzip-compressed text with a line a sense, and names are found in it by substring search: there is
nothing to parse, so that opening it costs some tens of milliseconds, however few names a prompt has.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from tina_cli.errors import GeneratorError

PHYSICAL = "n00001930"  # physical entity: what a photo can show
DETACHMENT = (
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
)  # fmt: skip
PLURAL_ONLY = frozenset(
    {"binoculars", "dungarees", "goggles", "headphones", "jeans", "leggings", "overalls", "pajamas", "pants", "pliers"}
    | {"pyjamas", "shorts", "sunglasses", "tights", "tongs", "trousers", "tweezers"}
)
REMEMBERED = 16_384  # spellings: 2 MB


@dataclass(frozen=True)
class Sense:
    """One meaning of one or more nouns."""

    id: str  # empty for a meaning made up for a name that is not in the table
    lemmas: tuple[str, ...]
    ranks: tuple[int, ...]
    gloss: str
    hypernyms: tuple[str, ...]


@lru_cache(maxsize=REMEMBERED)
def normalise(name: str) -> str:
    """Return a name as the lexicon spells it: lower case, single spaces, no underscores."""
    return re.sub(r"[\s_]+", " ", name).strip().lower()


def split_remark(name: str) -> tuple[str, str]:
    """Return a name without the remark in parentheses at its end, and the remark: "bass (fish)" -> "bass", "fish"."""
    match = re.fullmatch(r"(.+?)\s*\(([^()]+)\)\s*", name)
    return (match[1], match[2]) if match else (name, "")


class Lexicon:
    """A table of senses, searched by name or by sense id."""

    def __init__(self, table: bytes) -> None:
        self.table = table
        self._parsed: dict[str, Sense] = {}  # every sense by its id, once `index` has run
        self._by_name: dict[str, list[tuple[int, Sense]]] = {}  # ranked senses by name, once `index` has run
        self._found: dict[str, list[Sense]] = {}  # memo of `senses`
        self._forms: dict[str, list[str]] = {}  # memo of `spellings`
        self._paths: dict[str, frozenset[str]] = {}  # memo of `ancestors`

    @classmethod
    def from_senses(cls, senses: Iterable[Sense], plurals: Mapping[str, str] | None = None) -> Lexicon:
        """Build a lexicon from senses, in the order given, and irregular plurals with their singulars."""
        lines = [f"~{many}\t{one}" for many, one in (plurals or {}).items()]
        lines += map(_line, senses)
        return cls(("\n" + "\n".join(lines) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Lexicon:
        """Read a lexicon's file; raises `GeneratorError` where it is missing or damaged."""
        try:
            return cls(gzip.decompress(path.read_bytes()))
        except (OSError, EOFError, zlib.error) as error:
            raise GeneratorError(f"cannot read the lexicon {path}: {error}", hint="is the generator complete?") from error

    def with_senses(self, senses: Iterable[Sense]) -> Lexicon:
        """Return the lexicon with further senses, after its own."""
        return Lexicon(self.table + "".join(f"{_line(sense)}\n" for sense in senses).encode())

    def with_names(self, names: Mapping[str, Sequence[str]]) -> Lexicon:
        """Return the lexicon with further names for senses, by their ids; a name that it knows already stays what it was."""
        self.index()
        lines = self.table.decode().split("\n")
        for number, line in enumerate(lines):
            sense_id, *rest = line.split("\t")
            if fresh := [f"|{name}#1" for name in names.get(sense_id, ()) if not self.candidates(name)]:
                lines[number] = "\t".join((sense_id, rest[0] + "".join(fresh), *rest[1:]))
        return Lexicon("\n".join(lines).encode())

    def dump(self) -> bytes:
        """Return the file's bytes, the same for the same senses."""
        return gzip.compress(self.table, compresslevel=9, mtime=0)

    @cached_property
    def _lower(self) -> bytes:
        return self.table.lower()

    @cached_property
    def _plurals(self) -> bytes:
        end = re.search(rb"\n[^~\n]", self.table)  # they come before all senses
        return self.table[: end.start() + 1] if end else self.table

    def __iter__(self) -> Iterator[Sense]:
        return (_parse(line) for line in self.table.decode().split("\n") if line and not line.startswith("~"))

    def get(self, sense_id: str) -> Sense | None:
        """Return the sense with this id, or None."""
        if self._parsed:
            return self._parsed.get(sense_id)
        start = self.table.find(f"\n{sense_id}\t".encode())
        return None if start < 0 else self._line_at(start + 1)

    def senses(self, name: str) -> list[Sense]:
        """Return the senses of a name, the most frequent first; an unknown name has none."""
        plain = normalise(name)
        if plain not in self._found:
            self._found[plain] = self._search(plain.encode())
        return self._found[plain]

    def _search(self, needle: bytes) -> list[Sense]:
        if not needle or any(mark in needle for mark in (b"#", b"|", b"\t")):
            return []
        if self._by_name:
            return [sense for _, sense in self._by_name.get(needle.decode(), ())]
        found: dict[str, tuple[int, Sense]] = {}
        for match in re.finditer(re.escape(needle) + rb"#(\d+)", self._lower):
            if self._lower[match.start() - 1 : match.start()] in (b"\t", b"|"):
                sense = self._line_at(self.table.rfind(b"\n", 0, match.start()) + 1)
                found.setdefault(sense.id, (int(match[1]), sense))
        return [sense for _, sense in sorted(found.values(), key=lambda item: (item[0], item[1].id))]

    @cached_property
    def words(self) -> frozenset[str]:
        """Return every word that occurs in a name, in lower case."""
        names = re.findall(rb"[\t|]([^\t|#\n]+)#\d", self._lower)
        return frozenset(word for name in names for word in re.split("[ -]", name.decode()))

    def is_noun(self, name: str) -> bool:
        """Say whether the name is in the table."""
        return bool(self.senses(name))

    def candidates(self, name: str) -> list[Sense]:
        """Return the senses of a name, of its singular, or of its spelling with other hyphens or spaces."""
        return next(filter(None, map(self.senses, self.spellings(name))), [])

    def spellings(self, name: str) -> list[str]:
        """Return a name as it is, with spaces for hyphens, hyphens for spaces, neither, and its singular; each form once."""
        plain = normalise(name)
        if plain not in self._forms:
            forms = (plain, plain.replace("-", " "), plain.replace(" ", "-"), re.sub("[ -]", "", plain), self._detach(plain))
            self._forms[plain] = list(dict.fromkeys(forms))
        return self._forms[plain]

    def singular(self, name: str) -> str:
        """Return the singular of a plural ("wheelie bins" -> "wheelie bin"), or the name itself.

        A plural that is a word of its own ("scissors", "glasses"), or is never said of one ("trousers"), stays, and so does
        what no known noun comes out of.
        """
        return name if normalise(name).rpartition(" ")[2] in PLURAL_ONLY else self._detach(name)

    def _detach(self, name: str) -> str:
        """Undo a plural. Source: WordNet's Morphy (rules of detachment and list of exceptions), on the last word."""
        plain = normalise(name)
        if self.is_noun(plain):
            return name
        *before, last = plain.split(" ")
        for one in self._singulars(last):
            if self.is_noun(" ".join([*before, one])) or self.is_noun(one):
                kept = next((i for i, (a, b) in enumerate(zip(last, one, strict=False)) if a != b), min(len(last), len(one)))
                return name[: len(name) - len(last) + kept] + one[kept:]  # spelled as it was given
        return name

    def _singulars(self, word: str) -> Iterable[str]:
        start = self._plurals.find(f"\n~{word}\t".encode())
        if start >= 0:
            yield self._plurals[start : self._plurals.find(b"\n", start + 1)].decode().partition("\t")[2]
        for ending, replacement in DETACHMENT:
            if word.endswith(ending) and len(word) > len(ending) + 1:
                yield word[: -len(ending)] + replacement

    def above(self, sense: Sense) -> frozenset[str]:
        """Return the ids of all that a sense is a kind of, its own among them."""
        return self.ancestors(sense.id) if sense.id else self.ancestors(sense.hypernyms[0])

    def ancestors(self, sense_id: str) -> frozenset[str]:
        """Return a sense's id and the ids of all its hypernyms."""
        if sense_id not in self._paths:
            sense = self.get(sense_id)
            above = [self.ancestors(h) for h in sense.hypernyms] if sense else []
            self._paths[sense_id] = frozenset({sense_id}).union(*above)
        return self._paths[sense_id]

    def index(self) -> None:
        """Parse the whole table once, for work that visits every sense, or very many names."""
        if self._parsed:
            return
        by_name: dict[str, dict[str, tuple[int, Sense]]] = {}
        for sense in self:
            self._parsed[sense.id] = sense
            for lemma, rank in zip(sense.lemmas, sense.ranks, strict=True):
                by_name.setdefault(lemma.lower(), {}).setdefault(sense.id, (rank, sense))
        for name, found in by_name.items():
            self._by_name[name] = sorted(found.values(), key=lambda item: (item[0], item[1].id))

    def kind(self, sense: Sense, levels: int = 3) -> str:
        """Return the names of a sense's nearest hypernyms, the nearest first: "wading bird, aquatic bird, bird"."""
        names: list[str] = []
        above: Sense | None = sense
        while above and above.hypernyms and len(names) < levels:
            above = self.get(above.hypernyms[0])
            names += [above.lemmas[0]] if above else []
        return ", ".join(names)

    def _line_at(self, start: int) -> Sense:
        return _parse(self.table[start : self.table.find(b"\n", start)].decode())


def _line(sense: Sense) -> str:
    names = "|".join(f"{lemma}#{rank}" for lemma, rank in zip(sense.lemmas, sense.ranks, strict=True))
    return "\t".join((sense.id, names, sense.gloss, ",".join(sense.hypernyms)))


def _parse(line: str) -> Sense:
    sense_id, names, gloss, hypernyms = line.split("\t")
    pairs = [name.rsplit("#", 1) for name in names.split("|")]
    return Sense(
        id=sense_id,
        lemmas=tuple(lemma for lemma, _ in pairs),
        ranks=tuple(int(rank) for _, rank in pairs),
        gloss=gloss,
        hypernyms=tuple(hypernyms.split(",")) if hypernyms else (),
    )
