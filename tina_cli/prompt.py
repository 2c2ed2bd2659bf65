"""PROMPT: a sentence or a list -> class names, by fixed rules.

1. A text of several lines is a list, one class a line: bullets ("-", "*", "+", "•") and numbers ("1.", "2)") are dropped,
   as are empty lines, a first line that ends with ":", and one above bullets that has none. Quotes around a line keep it as
   it is. Lines that go on with "and", or begin with a request, are one sentence.
2. In a sentence "quoted names" are taken as they are, and what is in parentheses stays together.
3. A leading request is dropped ("classify", "tell apart", "is it", "sort my photos into", "a classifier for", "what is the
   difference between", ...), and what it is about, up to a ":"; so are "please", "apart", "etc." at the end.
4. What is left is split at commas, semicolons, "/", "|", "&", "and", "or", "as well as", "vs.", "versus"; after "tell",
   "distinguish", "separate", "differentiate" and "discriminate" also at "from".
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
BRACKETS = re.compile(r"\([^()]*\)")
HELD = re.compile(r"\x00(\d+)\x00")  # where something was taken out, to be put back
MARKER = re.compile(r"^\s*(?:[-*+•‣–]\s+|\(?\d+[.)]\s+)")
COURTESY = re.compile(
    r"^(?:please|kindly|hi|hello|hey|(?:can|could|would|will) you|i(?:'d| would) like(?: you)?(?: to)?|i want(?: you)?(?: to)?|"
    r"i need(?: you)?(?: to)?|help me(?: to)?|let(?:'s| us))\b[\s,]*",
    re.I,
)
THE = r"(?:the|this|that|these|those|my|our|your|all|any|some|each|every|an?)"
PICTURES = r"(?:photos?|pictures?|images?|pics?|photographs?|snapshots?)"
MAKE = re.compile(
    r"^(?:(?:build|make|create|generate|train|give me|write)\s+(?:me\s+)?)?(?:an?\s+|the\s+)?(?:image\s+|photo\s+)?"
    r"(?:classifier|model|network|detector)\s+(?:for|of|to|(?:that|which)(?:\s+can)?)\s+",
    re.I,
)
SORTS = (
    r"classif(?:y|ies)|sorts?|labels?|categori[sz]es?|identif(?:y|ies)|separates?|divides?"  # pictures into, or as, something
)
REQUEST = re.compile(
    # What is asked for, but not where it is itself in the list: "label, price tag and barcode".
    rf"^(?:(?P<splits>tells?|distinguish(?:es)?|separates?|differentiates?|discriminates?)|{SORTS}|recogni[sz]es?|detects?|knows?|"
    rf"(?:is|are)\s+(?:{THE}\s+\w+(?=\s+(?:an?|the|some)\s)|it|this|that|there|these|those|they)|"
    rf"wh(?:at|ich)(?:\s+\w+){{0,4}}?\s+(?:is|are)\s+(?:it|this|that|these|those|in\s+{THE}\s+{PICTURES})|"
    rf"what(?:'s|\s+is|\s+are)\s+the\s+differences?)(?![\w-])(?!\s*[,;/|&]|\s+(?:and|or|vs\.?|versus)\s)"
    # What it is asked of.
    rf"(?:\s+(?:me|us))?(?:\s+(?:the\s+)?differences?)?"
    rf"(?:\s+(?:(?:if|whether)\s+)?(?:it|this|that|there|these|those|they|{THE}\s+\w+)\s+(?:is|are|shows?|contains?))?"
    rf"(?:\s+(?:{THE}\s+)*{PICTURES}\s+(?:of|with|showing|into|as|by)\b)?"
    rf"(?:[\s:,]+(?:between|among|apart|as(?!\s+well\b)|into)\b)*",
    re.I,
)
INTO = re.compile(  # "these animals into", after what sorts
    r"^(?:(?!(?:and|or|vs|versus|from|as)\b)[^\s,;/|&:]+\s+){1,4}?(?:into|as(?!\s+well\b))\s+", re.I
)
UP_TO_COLON = re.compile(r"^[^,;/|&:?\x00]*(?::(?!\d)|\?\s)\s*(?=\S)")
SEPARATOR = re.compile(r"\s+and\s*/\s*or\s+|\s*[,;/|&\n]\s*|\s+(?:and|or|vs\.?|versus|against|as\s+well\s+as)\s+", re.I)
FROM = re.compile(r"\s+from\s+", re.I)
LEADING_WORD = re.compile(r"^(?:and|or|vs\.?|versus)\s+", re.I)
ARTICLE = re.compile(
    rf"^(?:(?:an?|the|some|any|all|either|both|my|your|our|different|various)\s+|{PICTURES}\s+(?:of|with|showing)\s+)", re.I
)
TRAILING = " \t.?!:…"
ENDING = re.compile(
    rf"(?:[\s,]+(?:(?:and\s+)?(?:please|thanks|thank\s+you|for\s+me|etc|so\s+on|apart)|in\s+{THE}\s+{PICTURES})[{TRAILING}]*)+$",
    re.I,
)
NOT_A_CLASS = frozenset(
    ("not", "neither", "none", "none of these", "none of them", "nothing", "other", "others", "something else", "anything else")
)


def parse_prompt(text: str, singular: Callable[[str], str] = lambda name: name) -> list[str]:
    """Return the class names of a prompt, in order; raises `PromptError` for fewer than two or for repeated ones.

    `singular` maps a name to its singular where it knows one.
    """
    text = _plain(text).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) > 1 and not MARKER.match(lines[0]) and (lines[0].endswith(":") or MARKER.match(lines[1])):
        lines = lines[1:]
    sentence = _joined(lines)
    names = [_line(line, singular) for line in lines] if sentence is None else _sentence(sentence, singular)
    names = [name for name in names if name]
    if empty := [name for name in names if name.casefold() in NOT_A_CLASS]:
        raise PromptError(
            f"{empty[0]!r} says nothing of what a picture shows",
            hint="name what else there may be; pictures that seem to be of none of the classes are marked anyway",
        )
    return check_classes(names)


def check_classes(names: Iterable[str]) -> list[str]:
    """Return class names with single spaces; raises `PromptError` where they do not make a task."""
    out = [" ".join(_plain(name).split()) for name in names]
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


def check_text(text: str) -> None:
    """Raise `PromptError` for what is no Unicode text, such as arguments in another encoding."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PromptError(f"{text!r} is no UTF-8", hint="is the terminal, or the file, in another encoding?")


def _plain(text: str) -> str:
    """Return a text in one normal form, without control characters; raises `PromptError` where it is no text."""
    check_text(text)
    text = unicodedata.normalize("NFC", text)
    return "".join(letter for letter in text if letter.isspace() or unicodedata.category(letter) != "Cc")


def _joined(lines: list[str]) -> str | None:
    """Return the sentence that lines are: a single one, a request that was wrapped, or lines that go on with "and".

    None where they are a list.
    """
    if len(lines) > 1 and any(map(MARKER.match, lines)):
        return None
    if lines and _request(lines[0])[0]:
        return " ".join(lines)
    return "\n".join(lines) if len(lines) < 2 or any(map(LEADING_WORD.match, lines[1:])) else None


def _line(line: str, singular: Callable[[str], str]) -> str:
    line = MARKER.sub("", line).strip().rstrip(",;")
    quoted = QUOTED.fullmatch(line)
    return next(filter(None, quoted.groups())).strip() if quoted else _clean(line, singular)


def _request(text: str) -> tuple[bool, str, bool]:
    """Return whether a text, but for its courtesies, begins with a request; what follows it; and whether "from" splits that."""
    while (shorter := COURTESY.sub("", text)) != text:
        text = shorter
    made = MAKE.match(text)
    text = text[made.end() :] if made else text
    asked = REQUEST.match(text)
    if not asked:
        return bool(made and text), text, False
    rest = text[asked.end() :].lstrip(" \t,:")
    if re.match(rf"(?:{SORTS})\b", text, re.I):
        rest = INTO.sub("", rest)
    return bool(rest), rest, bool(asked["splits"])


def _sentence(text: str, singular: Callable[[str], str]) -> list[str]:
    held: list[str] = []

    def hold(match: re.Match[str]) -> str:
        held.append(next(filter(None, match.groups()), match[0]).strip())
        return f"\x00{len(held) - 1}\x00"

    def put_back(part: str) -> str:
        while HELD.search(part):  # quotes may be in parentheses
            part = HELD.sub(lambda found: held[int(found[1])], part)
        return part

    text = MARKER.sub("", QUOTED.sub(hold, text))
    quotes = len(held)
    text = ENDING.sub("", BRACKETS.sub(hold, text))
    requested, text, splits = _request(text)
    about = UP_TO_COLON.match(text)
    if about and not SEPARATOR.search(about[0]) and (requested or ":" in about[0]):
        text = text[about.end() :]
    names = []
    for part in SEPARATOR.split(FROM.sub(", ", text) if splits else text):
        part = _strip(MARKER.sub("", part))
        whole = HELD.fullmatch(part)
        if whole and int(whole[1]) < quotes:
            names.append(held[int(whole[1])])
        elif part:
            names.append(_clean(put_back(part), singular))
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
    return name if name[-2:].isupper() else singular(name)  # "NES" is no plural
