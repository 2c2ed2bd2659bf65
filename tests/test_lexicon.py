"""Names -> senses, with the embedded lexicon."""

from __future__ import annotations

import itertools

import pytest

from tina_cli.lexicon import Lexicon, Sense
from tina_cli.senses import choose_senses, likeness
from tina_cli.weights import embedded_weights


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon.read(embedded_weights() / "lexicon.gz")


@pytest.mark.parametrize(
    ("name", "other", "word"),
    [
        ("crane", "heron", "bird"),
        ("crane", "bulldozer", "lifts"),
        ("bat", "owl", "nocturnal"),
        ("bat", "baseball glove", "club"),
        ("jaguar", "leopard", "feline"),
        ("seal", "walrus", "marine"),
        ("bass (fish)", "guitar", "fish"),
        ("hedgehog", "lamp", "spines"),
    ],
)
def test_the_company_chooses_the_sense(lexicon: Lexicon, name: str, other: str, word: str) -> None:
    sense = choose_senses(lexicon, [name, other])[0]
    assert sense is not None
    assert word in sense.gloss + lexicon.kind(sense, 12)


def test_an_unknown_name_is_a_kind_of_its_last_word(lexicon: Lexicon) -> None:
    for name in ("cabin fan", "harbour signs", "garfield (cartoon cat)"):
        sense = choose_senses(lexicon, [name, "lamp"])[0]
        assert sense is not None and sense.id == "" and sense.gloss == ""
    kind = choose_senses(lexicon, ["cabin fan", "lamp"])[0]
    assert kind is not None and lexicon.kind(kind).startswith("fan, device")


def test_order_does_not_matter(lexicon: Lexicon) -> None:
    names = ["crane", "heron", "bat", "mouse"]
    wanted = dict(zip(names, choose_senses(lexicon, names), strict=True))
    for order in itertools.permutations(names):
        assert dict(zip(order, choose_senses(lexicon, list(order)), strict=True)) == wanted


def test_likeness_is_the_share_of_common_hypernyms(lexicon: Lexicon) -> None:
    senses = [sense for sense in choose_senses(lexicon, ["crane", "heron", "cabin fan", "bat"]) if sense is not None]
    assert len(senses) == 4
    above = [lexicon.above(sense) for sense in senses]
    assert likeness(lexicon, senses).tolist() == [[len(a & b) / len(a | b) for b in above] for a in above]


@pytest.mark.parametrize(("a", "b"), [("automobile", "car"), ("puppies", "puppy"), ("t-shirt", "T-shirt"), ("SOFA", "couch")])
def test_one_meaning_many_names(lexicon: Lexicon, a: str, b: str) -> None:
    first, second = choose_senses(lexicon, [a])[0], choose_senses(lexicon, [b])[0]
    assert first is not None and second is not None
    assert first.id == second.id


@pytest.mark.parametrize("name", ["", "#", "|", "qwrtzp", "\t", "q\nw", "~", "猫"])
def test_unknown_names_have_no_sense(lexicon: Lexicon, name: str) -> None:
    assert choose_senses(lexicon, [name]) == [None]


def test_round_trip() -> None:
    senses = [
        Sense("n1", ("entity",), (1,), "what there is", ()),
        Sense("n2", ("Thing", "odd thing"), (1, 2), "a thing; some thing", ("n1",)),
    ]
    table = Lexicon.from_senses(senses, {"thingses": "thing"})
    again = Lexicon(table.table)
    assert list(again) == senses
    assert again.get("n2") == senses[1]
    assert again.senses("ODD thing") == [senses[1]]
    assert again.singular("thingses") == "thing"
    assert again.ancestors("n2") == {"n1", "n2"}
    assert table.dump() == Lexicon(table.table).dump()


def test_further_names_are_those_that_nothing_has() -> None:
    thing = Sense("n1", ("entity",), (1,), "", ())
    shoe, person = Sense("n2", ("sneaker",), (2,), "a shoe", ("n1",)), Sense("n3", ("trainer",), (1,), "a person", ("n1",))
    lexicon = Lexicon.from_senses([thing, shoe, person], {"feet": "foot"})
    more = lexicon.with_names({"n2": ("gym shoe", "trainers", "Sneaker"), "n9": ("nothing",)})
    assert [sense.gloss for sense in more.candidates("gym shoes")] == ["a shoe"]
    assert [sense.gloss for sense in more.candidates("trainers")] == ["a person"]
    assert more.get("n2") == Sense("n2", ("sneaker", "gym shoe"), (2, 1), "a shoe", ("n1",))
    assert more.singular("feet") == lexicon.singular("feet") and lexicon.with_names({}).table == lexicon.table
