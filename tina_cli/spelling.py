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

SHORTEST = 5  # shorter words are like too many others
LIKENESS = 0.8  # difflib's ratio
TRIES = 3


def respell(name: str, lexicon: Lexicon) -> str | None:
    """Return a name with the unknown words in it replaced by the likest known ones; None where nothing is like it.

    A word keeps its first letter, and the outcome must be something that a picture can show. Words with a capital are proper
    names, and words that CLIP's vocabulary has in one piece are common enough to be right: both stay as they are.
    For names without a sense.
    """
    known = lexicon.words
    words = re.split(r"([\s-]+)", name.strip())
    options = [likest(word, known) if mistaken(word, known) else [word] for word in words]
    if not all(options):
        return None
    for number in range(TRIES):
        found = normalise("".join(option[min(number, len(option) - 1)] for option in options))
        sense = lexicon.choose([found])[0]
        if found != normalise(name) and sense and PHYSICAL in lexicon.above(sense):
            return found
    return None


def mistaken(word: str, known: frozenset[str]) -> bool:
    """Say whether a word is none: in lower case, in no name of the lexicon, and not in CLIP's vocabulary."""
    return word.isalpha() and word.islower() and word not in known and word not in clip_words()


@lru_cache(maxsize=256)  # a request is understood more than once, and a class is asked for in many tasks
def likest(word: str, known: frozenset[str]) -> Sequence[str]:
    """Return the known words most like a word, the likest first."""
    if len(word) < SHORTEST:
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
