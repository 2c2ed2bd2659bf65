"""Prompts -> class names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tina_cli.errors import PromptError
from tina_cli.lexicon import Lexicon
from tina_cli.prompt import check_classes, parse_prompt, read_class_list
from tina_cli.weights import embedded_weights


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon.read(embedded_weights() / "lexicon.gz")


@pytest.mark.parametrize(
    ("prompt", "names"),
    [
        ("classify cats, dogs and trucks", ["cat", "dog", "truck"]),
        ("tell apart a Siamese cat from a Persian cat", ["Siamese cat", "Persian cat"]),
        ("cats vs. dogs", ["cat", "dog"]),
        ("cats versus dogs", ["cat", "dog"]),
        ("is it a muffin or a chihuahua?", ["muffin", "chihuahua"]),
        ("Please distinguish between apples, oranges, and pears.", ["apple", "orange", "pear"]),
        ("a classifier for roses and tulips", ["rose", "tulip"]),
        ("build me an image classifier that recognizes mice, geese & wolves", ["mouse", "goose", "wolf"]),
        ("- cats\n- dogs\n- fish", ["cat", "dog", "fish"]),
        ("1. oak\n2) maple\n3. birch", ["oak", "maple", "birch"]),
        ("Classify these:\n* cats\n* dogs", ["cat", "dog"]),
        ('classify "black and white cat" and "dog, wet"', ["black and white cat", "dog, wet"]),
        ("photos of cars, pictures of bicycles", ["car", "bicycle"]),
        ("cat/dog/bird", ["cat", "dog", "bird"]),
        ("scissors, glasses and trousers", ["scissors", "glasses", "trousers"]),
        ("crème brûlée or cannoli", ["crème brûlée", "cannoli"]),
        ("sort into ripe bananas, green bananas", ["ripe banana", "green banana"]),
        ("猫, 犬", ["猫", "犬"]),
        ("fruits: apples, pears", ["apple", "pear"]),
        ("T-shirts | wheelie bins", ["T-shirt", "wheelie bin"]),
        ("sort my photos into beaches, mountains and city streets", ["beach", "mountain", "city street"]),
        ("classify images into cats, dogs", ["cat", "dog"]),
        ("classify my photos as cats or dogs", ["cat", "dog"]),
        ("separate these animals into cats and dogs", ["cat", "dog"]),
        ("classify the following: cats, dogs and trucks", ["cat", "dog", "truck"]),
        ("classify shoes by type: boots, sandals", ["boot", "sandal"]),
        ("tell cats and dogs apart", ["cat", "dog"]),
        ("can you tell me if this is a cat or a dog?", ["cat", "dog"]),
        ("recognise whether the photo shows a cat or a dog", ["cat", "dog"]),
        ("is the animal a cat or a dog?", ["cat", "dog"]),
        ("which animal is this? a cat, dog or bird", ["cat", "dog", "bird"]),
        ("what's the difference between a crow and a raven?", ["crow", "raven"]),
        ("tell the difference between crows and ravens", ["crow", "raven"]),
        ("a model to distinguish cats from dogs", ["cat", "dog"]),
        ("make a classifier that tells cats from dogs", ["cat", "dog"]),
        ("I'd like to classify cats as well as dogs, please!", ["cat", "dog"]),
        ("cats and/or dogs, etc.", ["cat", "dog"]),
        ("cats and dogs in my photos", ["cat", "dog"]),
        ("label, price tag and barcode", ["label", "price tag", "barcode"]),
        ("model trains, sorting hats", ["model train", "sorting hat"]),
        ("bass (fish, freshwater), guitar", ["bass (fish, freshwater)", "guitar"]),
        ("16:9 screens, 4:3 screens", ["16:9 screen", "4:3 screen"]),
        ("NES, SNES", ["NES", "SNES"]),
        ("1) cats, 2) dogs", ["cat", "dog"]),
        ("classify cats, dogs\nand trucks", ["cat", "dog", "truck"]),
        ("cats\ndogs\nand trucks", ["cat", "dog", "truck"]),
        ("Classify:\ncats, dogs", ["cat", "dog"]),
        ("classify these\n- cats\n- dogs", ["cat", "dog"]),
        ("\x005\x00 or cats", ["5", "cat"]),
    ],
)
def test_examples(lexicon: Lexicon, prompt: str, names: list[str]) -> None:
    assert parse_prompt(prompt, lexicon.singular) == names


@pytest.mark.parametrize(
    ("prompt", "reason"),
    [
        ("", "names no class"),
        ("   \n ", "names no class"),
        ("classify", "names no class"),
        ("classify cats", "only one class"),
        ("cats, dogs and cats", "named twice"),
        ("Cat or cat", "named twice"),
        ("is this a hot dog or not?", "'not' says nothing of what a picture shows"),
        ("cats, dogs or something else", "'something else' says nothing"),
        ("caf\udce9s or dogs", "no UTF-8"),
    ],
)
def test_unusable(lexicon: Lexicon, prompt: str, reason: str) -> None:
    with pytest.raises(PromptError, match=reason):
        parse_prompt(prompt, lexicon.singular)


WORD = st.text("bcdfgklmpqrtvwxz", min_size=3, max_size=9)  # no vowels: never an article, "and" or "or"
NAMES = st.lists(WORD, min_size=2, max_size=12, unique=True)


@given(NAMES, st.sampled_from([", ", "; ", " and ", " or ", " vs. ", " / ", "\n", ",", " | "]))
def test_any_separator_gives_the_names(names: list[str], separator: str) -> None:
    assert parse_prompt(separator.join(names)) == names


@given(NAMES, st.sampled_from(["classify {}", "is it {}?", "Tell apart {}.", "please recognise a {}", "a model for {}"]))
def test_any_request_gives_the_names(names: list[str], request: str) -> None:
    assert parse_prompt(request.format(", ".join(names))) == names


@given(NAMES, st.sampled_from(["- {}", "{}", "* {}", "• {}"]))
def test_lists_give_the_names(names: list[str], form: str) -> None:
    assert parse_prompt("\n".join(form.format(name) for name in names)) == names


@given(st.lists(st.text("ab,;and /|-x ", min_size=1).filter(str.strip), min_size=2, max_size=6))
def test_quoted_names_are_kept_whole(texts: list[str]) -> None:
    names = list(dict.fromkeys(" ".join(text.split()) for text in texts))
    if len({name.casefold() for name in names}) >= 2:
        assert parse_prompt("classify " + " and ".join(f'"{name}"' for name in names)) == names


@given(st.text(max_size=80))
def test_no_text_breaks_it(text: str) -> None:
    try:
        names = parse_prompt(text)
    except PromptError as error:
        assert error.message
    else:
        assert check_classes(names) == names


def test_class_list() -> None:
    assert read_class_list("# pets\ncats\n\ndogs, wet \n") == ["cats", "dogs, wet"]
