"""PROMPT: a sentence or a list -> class names, by fixed rules.

1. A text of several lines is a list, one class a line: bullets ("-", "*", "+", "•") and numbers ("1.", "2)") are dropped,
   as are empty lines and a first line that ends with ":". Quotes around a line keep it as it is.
2. Otherwise "quoted names" are taken as they are, commas and all.
3. A leading request ("classify", "tell apart", "is it", "a classifier for", ...) is dropped.
4. What is left is split at commas, semicolons, "/", "|", "&", "and", "or", "vs.", "versus"; after "tell", "distinguish",
   "separate", "differentiate" and "discriminate" also at "from".
5. Articles, "photos of" and the like, and closing punctuation are dropped; plurals become singulars where the lexicon
   knows the singular and not the plural ("trucks", but "scissors").

Upper and lower case are kept. Nothing is guessed beyond this, and what was understood is always shown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

from tina_cli.errors import PromptError

QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|„([^“”]+)[“”]|«([^»]+)»|(?<!\w)‘([^’]+)’(?!\w)|(?<!\w)\'([^\']+)\'(?!\w)')
MARKER = re.compile(r"^\s*(?:[-*+•‣–]\s+|\(?\d+[.)]\s+)")
COURTESY = re.compile(r"^(?:please|kindly|can you|could you|i want to|i need to|i want|i need|help me)\b[\s,]*", re.I)
MAKE = (
    r"(?:(?:build|make|create|generate|train|give me|write)\s+(?:me\s+)?)?(?:an?\s+|the\s+)?(?:image\s+|photo\s+)?"
    r"(?:classifier|model|network|detector)\s+(?:for|of|that\s+(?:can\s+)?(?:classif(?:y|ies)|recogni[sz]es?|detects?|"
    r"distinguish(?:es)?|knows?|tells?(?:\s+apart)?))"
)
SPLITTERS = r"tell(?:\s+apart)?|distinguish|separate|differentiate|discriminate"
REQUEST = re.compile(
    rf"^(?:{MAKE}|(?P<splits>{SPLITTERS})|classify|recogni[sz]e|identify|detect|sort(?:\s+into)?|label|categori[sz]e|"
    r"is\s+(?:it|this|that|there)|are\s+(?:these|those|they)|what\s+is\s+(?:it|this|that)|which\s+is\s+it)\b[\s:,]*"
    r"(?:(?:between|among|apart|whether\s+it\s+is|as|into|images?\s+as|photos?\s+as|pictures?\s+as)\b[\s:,]*)*",
    re.I,
)
SEPARATOR = re.compile(r"\s*[,;/|&\n]\s*|\s+(?:and|or|vs\.?|versus|against)\s+", re.I)
FROM = re.compile(r"\s+from\s+", re.I)
LEADING_WORD = re.compile(r"^(?:and|or|vs\.?|versus)\s+", re.I)
ARTICLE = re.compile(
    r"^(?:(?:an?|the|some|any|all|either|both|my|your|our|different|various)\s+|"
    r"(?:photos?|pictures?|images?|pics?|photographs?)\s+(?:of|with|showing)\s+)",
    re.I,
)
TRAILING = " \t.?!:…"


def parse_prompt(text: str, singular: Callable[[str], str] = lambda name: name) -> list[str]:
    """Return the class names of a prompt, in order; raises `PromptError` for fewer than two or for repeated ones.

    `singular` maps a name to its singular where it knows one.
    """
    text = unicodedata.normalize("NFC", text).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1:
        if lines[0].endswith(":"):
            lines = lines[1:]
        names = [_line(line, singular) for line in lines]
    else:
        names = _sentence(text, singular)
    return check_classes([name for name in names if name], text)


def check_classes(names: Iterable[str], text: str = "") -> list[str]:
    """Return class names with single spaces; raises `PromptError` where they do not make a task."""
    out = [" ".join(unicodedata.normalize("NFC", name).split()) for name in names]
    if not out or not all(out):
        raise PromptError("the prompt names no class", hint='for example: tina generate "classify cats, dogs and trucks"')
    if len(out) == 1:
        raise PromptError(
            f"only one class was understood: {out[0]!r}", hint="name at least two, separated by commas; quote odd names"
        )
    seen: dict[str, str] = {}
    for name in out:
        key = name.casefold()
        if key in seen:
            raise PromptError(f"the class {name!r} is named twice", hint="every class must be named once")
        seen[key] = name
    return out


def read_class_list(text: str) -> list[str]:
    """Return the names of a file with one exact class name a line; empty lines and lines after "#" are left out."""
    lines = (line.strip() for line in text.splitlines())
    return check_classes(line for line in lines if line and not line.startswith("#"))


def _line(line: str, singular: Callable[[str], str]) -> str:
    line = MARKER.sub("", line).strip().rstrip(",;")
    quoted = QUOTED.fullmatch(line)
    return next(filter(None, quoted.groups())).strip() if quoted else _clean(line, singular)


def _sentence(text: str, singular: Callable[[str], str]) -> list[str]:
    quotes: list[str] = []

    def keep(match: re.Match[str]) -> str:
        quotes.append(next(filter(None, match.groups())).strip())
        return f"\x00{len(quotes) - 1}\x00"

    text = MARKER.sub("", QUOTED.sub(keep, text))
    while (shorter := COURTESY.sub("", text)) != text:
        text = shorter
    request = REQUEST.match(text)
    if request:
        text = text[request.end() :]
        if request["splits"]:
            text = FROM.sub(", ", text)
    elif ":" in text and not quotes:
        text = text.split(":", 1)[1]
    names = []
    for part in SEPARATOR.split(text):
        part = _strip(part)
        held = re.fullmatch(r"\x00(\d+)\x00", part)
        if held:
            names.append(quotes[int(held[1])])
        elif part:
            part = re.sub(r"\x00(\d+)\x00", lambda m: quotes[int(m[1])], part)
            names.append(_clean(part, singular))
    return names


def bare_name(text: str) -> str:
    """Return what a text says is in a picture, without articles, "a photo of" and closing punctuation.

    A text that is nothing else stays: "The" is a name too.
    """
    return _strip(text) or text


def _strip(part: str) -> str:
    part = part.strip(TRAILING)
    while (shorter := ARTICLE.sub("", LEADING_WORD.sub("", part))) != part:
        part = shorter
    return part.strip(TRAILING)


def _clean(part: str, singular: Callable[[str], str]) -> str:
    name = " ".join(_strip(part).split())
    return singular(name) if name else ""
