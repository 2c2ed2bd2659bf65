"""What words mean before any picture: descriptions, the teacher, known words, spelling."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from conftest import Result
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from tina_cli.descriptions import Descriptions
from tina_cli.errors import DataError
from tina_cli.lexicon import Lexicon, Sense
from tina_cli.looks import NEIGHBOUR_WEIGHT, tag_vectors, toward_neighbours, with_tags
from tina_cli.rng import torch_rng
from tina_cli.spelling import respell
from tina_cli.teacher import Noun, concrete_nouns, means_of_kinds, moved, teach
from tina_cli.weights import embedded_weights
from tina_cli.words import Words, write_words
from tina_cli.zoo.concepts import Concept, collect

Tina = Callable[..., Result]
ROWS = (
    "crane\tn2\ttall grey bird with long legs in shallows\theron, stork\tgrey3 wings2\tlava lamp\tmarsh bird, lava-lamps\t\n"
    "lava lamp\t\tglowing glass bottle with floating coloured blobs\tlantern, bottle\tglass3 red2\t\tblob lamp\t\n"
    "crane fly\t\tthin insect with very long legs\tmosquito\tlegs3\t\tdaddy longlegs, mosquito hawk, hoist\tn00001930\n"
)


def senses() -> list[Sense]:
    thing = "n00001930"
    return [
        Sense(thing, ("physical entity",), (1,), "what a photo can show", ()),
        Sense("n1", ("crane", "hoist"), (1, 1), "lifts heavy things", (thing,)),
        Sense("n2", ("crane", "Grus"), (2, 1), "a wading bird", (thing,)),
        Sense("n3", ("idea",), (1,), "what one thinks", ()),
    ]


@pytest.fixture
def descriptions(tmp_path: Path) -> Descriptions:
    path = tmp_path / "descriptions.tsv.gz"
    path.write_bytes(gzip.compress(ROWS.encode()))
    return Descriptions.read(path)


def test_descriptions_are_found_by_sense_or_by_name(descriptions: Descriptions) -> None:
    hoist, bird = senses()[1:3]
    found = descriptions.find("anything", bird)
    assert found and found.lookalikes == ("heron", "stork") and found.neighbours == ("lava lamp",)
    assert descriptions.find("crane", hoist) is None  # another sense of a described name
    assert descriptions.find("Lava  lamp", None) is descriptions.rows[1]


def test_a_lexicon_learns_things_and_names_from_descriptions(descriptions: Descriptions) -> None:
    lexicon = descriptions.extended(Lexicon.from_senses(senses()))
    assert lexicon.candidates("marsh birds") == [lexicon.get("n2")]
    assert not lexicon.candidates("blob lamp")  # of what has no sense
    assert not lexicon.candidates("lava-lamps")  # a thing of its own, and no name of a crane
    [fly] = lexicon.candidates("crane-fly")
    assert fly.id.startswith("x") and fly.gloss == "thin insect with very long legs" and lexicon.kind(fly) == "physical entity"
    assert lexicon.candidates("mosquito hawks") == [fly] and lexicon.candidates("hoist") == [lexicon.get("n1")]
    found = descriptions.find("whatever", fly)
    assert found is not None and found.name == "crane fly"


@pytest.mark.parametrize("text", ["one field\n", "a\tb\tc\td\n", "\tn1\ttext\tlooks\t\t\t\t\n", "name\tn1\t\tlooks\t\t\t\t\n"])
def test_a_broken_table_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.tsv"
    path.write_text(text)
    with pytest.raises(DataError, match=r"broken\.tsv:1"):
        Descriptions.read(path)
    with pytest.raises(DataError, match="cannot read"):
        Descriptions.read(tmp_path / "absent.tsv")
    (tmp_path / "broken.tsv.gz").write_bytes(gzip.compress(text.encode())[:-9])
    with pytest.raises(DataError, match="cannot read"):
        Descriptions.read(tmp_path / "broken.tsv.gz")


def by_letters(texts: Sequence[str]) -> Tensor:
    """Stand in for a sentence encoder: every word has a direction of its own."""
    words = [[torch.randn(64, generator=torch_rng(0, word.strip(".,:"))) for word in text.lower().split()] for text in texts]
    return normalize(torch.stack([torch.stack(some).mean(0) for some in words]), dim=-1)


def test_the_teacher_reads_descriptions_and_gives_synonyms_one_vector(descriptions: Descriptions) -> None:
    nouns = concrete_nouns(Lexicon.from_senses(senses()), ["lava lamp"], descriptions)
    names = [(noun.name, noun.sense, bool(noun.description)) for noun in nouns]
    assert ("crane", "n1", False) in names and ("crane", "n2", True) in names and ("lava lamp", "", True) in names
    assert not any(sense == "n3" for _, sense, _ in names)  # nothing that a photo can show
    genuine = [
        Noun(f"thing {i}", description=f"blob {i % 5} of colour {i % 7}", lookalikes=(f"blob {i % 3}",)) for i in range(40)
    ]
    vectors = normalize(torch.randn(40, 16, generator=torch_rng(0, "genuine")) + 1, dim=-1)
    lexicon = Lexicon.from_senses(senses())
    targets, teacher = teach(nouns, genuine, vectors, by_letters, 2.0, 0.03, lexicon)
    assert targets.shape == (len(nouns), 16) and torch.allclose(targets.norm(dim=-1), torch.ones(len(nouns)), atol=1e-5)
    place = {(noun.name, noun.sense): i for i, noun in enumerate(nouns)}
    assert torch.equal(targets[place["crane", "n2"]], targets[place["Grus", "n2"]])
    back, _ = teach(genuine, genuine, vectors, by_letters, 2.0, 0.03, lexicon)
    centred = normalize(vectors - vectors.mean(0), dim=-1)
    assert cosine_similarity(back, centred).mean() > 0.9  # what it was fitted on comes back
    assert teacher(["a word"]).shape == (1, 16)


def test_a_noun_is_moved_towards_what_it_resembles() -> None:
    start = normalize(torch.randn(4, 16, generator=torch_rng(0, "looks")), dim=-1)
    names = ["ram", "Ram", "ewe", "cup"]
    out = toward_neighbours(start, names, [["ewe", "no such thing"], [], ["ram (adult male sheep)", "ewe"], ["ram", "ewe"]])
    assert torch.allclose(out[1], start[1], atol=1e-6)  # nothing is said of it
    assert torch.allclose(out[0], normalize(start[0] + NEIGHBOUR_WEIGHT * start[2], dim=-1), atol=1e-6)
    assert torch.allclose(out[2], normalize(start[2] + NEIGHBOUR_WEIGHT * start[0], dim=-1), atol=1e-6)  # the first of the rams
    towards = out[3] - (out[3] @ start[3]) * start[3]
    assert towards @ start[0] > towards @ start[2]  # the likest first


def test_tags_tell_likes_from_unlikes_and_take_nothing_from_what_is_said() -> None:
    genuine = torch.randn(300, 32, generator=torch_rng(0, "genuine")) * torch.logspace(0, -3, 32)
    said = normalize(genuine[:1].expand(4, -1) - genuine.mean(0), dim=-1)
    tags = ["fur3 brown2", "fur3 brown1", "metal3 wheels3", ""]
    told = tag_vectors(tags)
    assert told.shape == (4, 4) and not told[3].any()
    assert torch.allclose(told[:3].norm(dim=-1), torch.ones(3), atol=1e-6)
    out = with_tags(said, tags, genuine - genuine.mean(0))
    likeness = out @ out.T
    assert likeness[0, 1] > 0.95 > likeness[0, 2] and likeness[0, 3] > likeness[0, 2]
    used = torch.linalg.eigh((genuine.T @ genuine).double())[1][:, -16:].float()
    for row in out:  # what CLIP says is still said, in the same proportions
        assert cosine_similarity(row @ used, said[0] @ used, dim=0) > 0.999
    assert torch.allclose(with_tags(said, ["", "", "", ""], genuine), said, atol=1e-6)


def test_a_noun_of_many_kinds_is_amid_them() -> None:
    def sense(name: str, *above: str) -> Sense:
        return Sense(name, (name,), (1,), "", above)

    lexicon = Lexicon.from_senses(
        [sense("dog"), sense("cat"), sense("toy", "dog"), sense("hound", "dog"), sense("tabby", "cat")]
        + [sense(name, "hound") for name in ("beagle", "borzoi", "whippet")]
    )
    names = ("dog", "cat", "toy", "tabby", "beagle", "borzoi", "whippet")
    vectors = {name: normalize(torch.randn(8, generator=torch_rng(0, name)), dim=-1) for name in names}
    kinds = means_of_kinds(vectors, lexicon)
    assert set(kinds) == {"dog", "hound"}  # one kind alone says little
    hounds = normalize(vectors["beagle"] + vectors["borzoi"] + vectors["whippet"], dim=-1)
    assert torch.allclose(kinds["hound"], hounds, atol=1e-6)
    assert torch.allclose(kinds["dog"], normalize(vectors["toy"] + hounds, dim=-1), atol=1e-6)  # three hounds, one voice
    nouns = [Noun("dog", sense="dog"), Noun("cat", sense="cat")]
    found = moved(nouns, torch.stack([vectors["dog"], vectors["cat"]]), [0, 1], kinds)
    assert found[0] @ kinds["dog"] > 0.8 and torch.equal(found[1], vectors["cat"])


def test_known_words_come_back_to_the_digit(tmp_path: Path) -> None:
    mean = torch.randn(32, generator=torch_rng(0, "mean")) / 8
    vectors = {f"k{i}": normalize(mean + torch.randn(32, generator=torch_rng(0, "word", i)) / 8, dim=-1) for i in range(9)}
    write_words(tmp_path / "a", vectors, mean)
    write_words(tmp_path / "b", vectors, mean)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    words = Words(tmp_path / "a")
    assert len(words) == 9 and words.get("absent") is None
    for key, vector in vectors.items():
        found = words.get(key)
        assert found is not None and float(found @ vector) > 0.9999
    assert len(Words(tmp_path / "absent")) == 0 and Words(tmp_path / "absent").get("k1") is None


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon.read(embedded_weights() / "lexicon.gz")


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("elefant", "elephant"),
        ("zebrra", "zebra"),
        ("girafe", "giraffe"),
        ("motorcyle", "motorcycle"),
        ("snowbord", "snowboard"),
        ("lalma", "llama"),  # letters swapped: likelier than one left out
        ("ocrkscrew", "corkscrew"),
        ("bagl", "bagel"),
        ("fox qsuirrel", "fox squirrel"),
        ("xqzwv", None),  # like nothing
        ("Volvo", None),  # a proper name
        ("hoodie", None),  # a common word, though no dictionary's
        ("matcha", None),
    ],
)
def test_spelling(lexicon: Lexicon, wrong: str, right: str | None) -> None:
    assert respell(wrong, lexicon) == right


def test_a_misspelled_name_is_taken_for_the_right_one(tina: Tina, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right.safetensors", tmp_path / "wrong.safetensors"
    tina("generate", "elephants or giraffes", "-o", right)
    said = tina("generate", "--class", "elefant", "--class", "giraffe", "-o", wrong, "--json")
    assert 'elefant: taken for "elephant"' in said.err
    assert said.json["classes"][0]["taken_for"] == "elephant"
    from tina_cli.modelfile import read_model

    # The noise of a class depends on its name, so that the two are close, not the same.
    assert cosine_similarity(read_model(right).weight, read_model(wrong).weight).min() > 0.99


def test_a_photo_of_a_thing_is_the_thing(tina: Tina, tmp_path: Path) -> None:
    names, phrases, told = (tmp_path / f"{name}.safetensors" for name in ("names", "phrases", "told"))
    tina("generate", "--class", "elephant", "--class", "giraffe", "-o", names)
    said = tina("generate", "--class", "a photo of an elephant", "--class", "The giraffe!", "-o", phrases, "--json")
    assert [note["taken_for"] for note in said.json["classes"]] == ["elephant", "giraffe"]
    described = ["--describe", "elephant=A picture of an elephant.", "--describe", "giraffe=giraffe"]
    tina("generate", "--class", "elephant", "--class", "giraffe", *described, "-o", told)
    from tina_cli.modelfile import read_model

    want = read_model(names).weight
    assert cosine_similarity(read_model(phrases).weight, want).min() > 0.99  # the noise depends on the names as given
    assert cosine_similarity(read_model(told).weight, want).min() > 0.9999
    both = tina("generate", "--class", "giraffe", "--class", "a giraffe", "-o", tmp_path / "both.safetensors", "--json")
    assert all("taken_for" not in note for note in both.json["classes"])  # two classes do not become one


def test_classes_of_a_trunk_keep_their_senses() -> None:
    lexicon = Lexicon.from_senses(senses())
    first = [Concept("crane (bird)", "n2", trunk_row=0)]
    concepts, places = collect({"photos": {"crane": 12, "idea": 12}}, lexicon, first, 0.0, (), 0)
    assert concepts[places["photos"][0]].sense == "n2"  # not the hoist, though that is the commoner sense
