"""The `clip` stage in miniature: its whole path, on a WordNet of a dozen nouns and a sentence encoder of letters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import COLOURS, Result, interrupted
from torch import Tensor
from torch.nn.functional import normalize

from tina_cli import small_clip, student
from tina_cli.lexicon import Lexicon, Sense
from tina_cli.phrases import exchanged, phrase
from tina_cli.rng import torch_rng
from tina_cli.teacher import Noun, SentenceEncoder
from tina_cli.words import Words

Tina = Callable[..., Result]

RECIPE = """
name = "miniature"

[clip]
width = 24
layers = 1
heads = 2
steps = 4
batch = 8

[zoo]
tasks = 12
heldout_tasks = 4
heldout_kinds = ["coal"]
kinds = 2
max_classes = 3
generic_steps = 5
pictures = 3
steps = 2

[denoiser]
width = 16
layers = 1
heads = 2
steps = 2
batch = 2
groups = 3
calibration_tasks = 4
"""


class Letters(SentenceEncoder):
    """Stands in for a sentence encoder: every word has a direction of its own."""

    def __init__(self, name: str | None = None) -> None:
        self.network: Any = None

    def encode(self, texts: Any, batch: int = 64) -> Tensor:
        rows = [[torch.randn(48, generator=torch_rng(0, word)) for word in f"{text} .".lower().split()] for text in texts]
        return normalize(torch.stack([torch.stack(row).mean(0) for row in rows]), dim=-1)


def random_trunk() -> dict[str, Tensor]:
    import timm

    torch.manual_seed(0)
    return dict(timm.create_model(student.TRUNK).state_dict())


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """WordNet's files with the drawn classes, descriptions of some of them, vectors; the trunk is a random one."""
    monkeypatch.setattr(small_clip, "SentenceEncoder", Letters)
    monkeypatch.setattr(student, "imagenet_weights", random_trunk)
    wordnet = tmp_path / "wordnet"
    wordnet.mkdir()
    data, index = ["  1 a licence", "00001930 03 n 01 physical_entity 0 000 | what a photo can show"], []
    data.append("00001931 03 n 01 blob 0 001 @ 00001930 n 0000 | what all of these are")
    for number, name in enumerate(COLOURS, 1):
        offset = f"{10_000_000 + number}"
        data.append(f'{offset} 13 n 02 {name} 0 {name}_thing 0 001 @ 00001931 n 0000 | something {COLOURS[name]}; "a {name}"')
        index += [f"{name} n 1 1 @ 1 1 {offset}", f"{name}_thing n 1 1 @ 1 0 {offset}"]
    (wordnet / "data.noun").write_text("\n".join(data) + "\n")
    (wordnet / "index.noun").write_text(
        "\n".join([*index, "blob n 1 1 @ 1 0 00001931", "physical_entity n 1 1 @ 1 0 00001930"]) + "\n"
    )
    (wordnet / "noun.exc").write_text("tomatoes tomato\n")
    table = [
        f"{name}\tn{10_000_001 + i}\ta {COLOURS[name]} blob\tball, disc\tround{1 + i % 3}\ttomato\t{name} ball\t"
        for i, name in enumerate(COLOURS)
        if i % 3
    ]
    table.append("blob\tn00001931\ta round spot\tball\tround2\ttomato\t\t")
    (tmp_path / "descriptions.tsv").write_text("\n".join(table) + "\n")
    vectors = normalize(torch.randn(len(COLOURS), 32, generator=torch_rng(0, "genuine")) + 0.5, dim=-1)
    np.savez(tmp_path / "vectors.npz", names=np.array(list(COLOURS)), emb=vectors.numpy().astype(np.float16))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return {"wordnet": wordnet, "descriptions": tmp_path / "descriptions.tsv", "vectors": tmp_path / "vectors.npz"}


def test_a_small_clip_from_words_and_pictures(tina: Tina, sources: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "mini"
    arguments = ["train", "--data", pictures, "--recipe", tmp_path / "recipe.toml", "--device", "cpu"]
    without = tina(*arguments, "--out", tmp_path / "x", "--wordnet", sources["wordnet"], "--vectors", sources["vectors"])
    assert without.code == 2 and "--descriptions" in without.err
    arguments += ["--out", out]
    for name, path in sources.items():
        arguments += [f"--{name}", path]
    assert tina(*arguments, "--stage", "clip", "--resume").code == 0
    assert not out.exists()
    done = tina(*arguments, "--resume")
    assert done.code == 0, done.err
    words = Words(out / "words.safetensors")
    described = {f"n{10_000_001 + i}" for i, name in enumerate(COLOURS) if i % 3 and name != "coal"} | {"n00001931"}
    assert len(words) == len(described) and all(words.get(key) is not None for key in described)  # held-out coal is not known
    model = tmp_path / "m.safetensors"
    found = tina("generate", "lime balls, plums and coal", "--weights", out, "-o", model, "--json")
    assert found.code == 0 and found.json["classes"][0]["sense"] == "n10000002"
    assert tina("predict", model, pictures / "lime", "--weights", out, "--json").code == 0
    info = tina("inspect", out, "--json").json
    assert [name for name, *_ in info["heldout"]] == ["coal"]
    assert ["blob", "n00001931"] in info["concepts"]  # a kind of what there are pictures of


def test_phrases_never_name_what_they_are_of() -> None:
    gun = Sense("n2", ("gun", "firearm"), (1, 1), "", ("n3",))
    lexicon = Lexicon.from_senses([gun, Sense("n3", ("weapon",), (1,), "", ())])
    noun = Noun(
        "air rifle", "a gun that propels a projectile by compressed air", "gun, weapon", "air rifle", "n1",
        "slim air rifle with thin barrel and small scope, lying on a table", tags="wood3 brown1 plainbackground1",
    )  # fmt: skip
    said = [phrase(noun, lexicon, np.random.default_rng(seed)) for seed in range(300)]
    assert said == [phrase(noun, lexicon, np.random.default_rng(seed)) for seed in range(300)]
    assert len(set(said)) > 150 and all(said) and not any("air rifle" in text for text in said)
    wood, brown, gun_like = (sum(word in text for text in said) for word in ("wood", "brown", "firearm"))
    assert wood > 2 * brown > 0 and gun_like > 0  # the weightier tag is said more often
    assert {exchanged("gun,", lexicon, np.random.default_rng(seed)) for seed in range(20)} == {"firearm,", "weapon,"}
    assert exchanged("thin", lexicon, np.random.default_rng(0)) == "thin"
    bare = Noun("rose", description="rose")  # nothing but its name is known
    assert {phrase(bare, lexicon, np.random.default_rng(seed)).removeprefix("a ") for seed in range(40)} == {"thing"}


def test_killed_and_resumed_is_never_killed(tina: Tina, sources: dict[str, Path], pictures: Path, tmp_path: Path) -> None:
    arguments = ["train", "--data", pictures, "--recipe", tmp_path / "recipe.toml", "--device", "cpu", "--stage", "clip", "-q"]
    for name, path in sources.items():
        arguments += [f"--{name}", path]
    assert tina(*arguments, "--out", tmp_path / "whole").code == 0
    codes = interrupted(lambda: tina(*arguments, "--out", tmp_path / "broken", "--resume").code, times=12)
    assert codes.count(130) >= 8 and codes[-1] == 0
    for name in ("clip/open_clip_model.safetensors", "words.safetensors", "lexicon.gz"):
        assert (tmp_path / "broken.work" / name).read_bytes() == (tmp_path / "whole.work" / name).read_bytes()
