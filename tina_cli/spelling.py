"""SPELLING: a name that no word of the lexicon explains -> the name that was probably meant."""

from __future__ import annotations

import gzip
import importlib.util
import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from tina_cli.lexicon import PHYSICAL, Lexicon, normalise
from tina_cli.senses import sense_of

SHORTEST = 4  # shorter words are like too many others
SHORTEST_ALIKE = 5  # the same where more than one slip was made
LIKENESS = 0.8  # difflib's ratio
TRIES = 5
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def respell(name: str, lexicon: Lexicon) -> str | None:
    """Return a name with the unknown words in it replaced by the likest known ones; None where nothing is like it.

    The outcome must be something that a picture can show. Words with a capital are proper names, and words that CLIP's
    vocabulary has in one piece are common enough to be right: both stay as they are. For names without a sense.
    """
    known = lexicon.words
    words = re.split(r"([\s-]+)", name.strip())
    for likest in (one_slip_away, alike):
        options = [likest(word, known) if mistaken(word, known) else [word] for word in words]
        for number in range(TRIES if all(options) else 0):
            found = normalise("".join(option[min(number, len(option) - 1)] for option in options))
            sense = sense_of(lexicon, found, None)
            if found != normalise(name) and sense and PHYSICAL in lexicon.above(sense):
                return found
    return None


def mistaken(word: str, known: frozenset[str]) -> bool:
    """Say whether a word is none: in lower case, in no name of the lexicon, and not in CLIP's vocabulary."""
    return word.isalpha() and word.islower() and word not in known and word not in clip_words()


def one_slip_away(word: str, known: frozenset[str]) -> Sequence[str]:
    """Return the known words one slip away, common ones first: two letters swapped, one doubled, left out, added or mistaken.

    Source: Damerau 1964, A technique for computer detection and correction of spelling errors.
    """
    if len(word) < SHORTEST:
        return []
    cuts = [(word[:i], word[i:]) for i in range(len(word) + 1)]
    swapped = [a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1]
    doubled = [a + b[1:] for a, b in cuts if b and a[-1:] == b[0]]
    left_out = [a + letter + b for a, b in cuts for letter in LETTERS]
    added = [a + b[1:] for a, b in cuts if b]
    wrong = [a + letter + b[1:] for a, b in cuts if b for letter in LETTERS]
    slips = [other for other in dict.fromkeys([*swapped, *doubled, *left_out, *added, *wrong]) if other in known]
    return sorted(slips, key=lambda other: other not in clip_words())[:TRIES]


@lru_cache(maxsize=256)  # a request is understood more than once, and a class is asked for in many tasks
def alike(word: str, known: frozenset[str]) -> Sequence[str]:
    """Return the known words that share most of a word's letters, and its first, the likest first."""
    if len(word) < SHORTEST_ALIKE:
        return []
    near = sorted(other for other in known if other[:1] == word[:1] and abs(len(other) - len(word)) <= 2)
    return get_close_matches(word, near, TRIES, LIKENESS)


@lru_cache(maxsize=1)
def clip_words() -> frozenset[str]:
    """Return the words that CLIP's tokenizer has in one piece, from open_clip's table of merges, without importing it."""
    spec = importlib.util.find_spec("open_clip")
    places = list(spec.submodule_search_locations or ()) if spec else []
    tables = [path for place in places for path in Path(place).glob("bpe_simple_vocab*.txt.gz")]
    if not tables:
        return frozenset()
    pairs = gzip.decompress(tables[0].read_bytes()).decode("utf-8").splitlines()[1:48_895]  # as CLIP's tokenizer reads it
    return frozenset(pair.replace(" ", "").removesuffix("</w>") for pair in pairs if pair.endswith("</w>"))
