"""The README's example and its variations, with the embedded generator."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Result, draw, shell
from safetensors.torch import load_file

from tina_cli import generate, load_classifier
from tina_cli.modelfile import dump_model, read_model
from tina_cli.weights import embedded_weights

Tina = Callable[..., Result]
PROMPT = "classify cats, dogs and trucks"


def test_readme_example(tina: Tina, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = tina("generate", PROMPT)
    assert found.code == 0
    assert found.out.startswith("model.safetensors: 3 classes, expected accuracy 0.")
    assert [line.split(":")[0].strip() for line in found.err.splitlines()] == ["cat", "dog", "truck"]
    model = read_model(tmp_path / "model.safetensors")
    assert model.classes == ["cat", "dog", "truck"] and model.weight.shape == (3, 1280)
    assert tina("generate", PROMPT).code == 1  # it is there now
    assert tina("generate", PROMPT, "--force").code == 0


def test_same_seed_same_bytes_in_every_process(pets: Path) -> None:
    for hash_seed, no_cache in (("1", "1"), ("2", "0")):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "TINA_NO_CACHE": no_cache}
        done = shell("generate", PROMPT, "-o", "-", "-q", env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout == pets.read_bytes()


def test_order_permutes_the_rows(pets: Path) -> None:
    first, other = read_model(pets), generate("trucks, cats and dogs")
    assert torch.equal(first.weight[[2, 0, 1]], other.weight) and torch.equal(first.bias[[2, 0, 1]], other.bias)
    assert not torch.equal(generate("trucks, cats and dogs", seed=1).weight, other.weight)


def test_ways_to_name_the_classes(tina: Tina, pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, names = tmp_path / "m.safetensors", tmp_path / "names.txt"
    names.write_text("cat\ndog\ntruck\n")
    ways: list[list[object]] = [
        ["--class", "cat", "--class", "dog", "--class", "truck"],
        ["--classes-file", names],
        ["-"],
    ]
    for way in ways:
        monkeypatch.setattr("sys.stdin", io.StringIO("- cats\n- dogs\n- trucks\n"))
        assert tina("generate", *way, "-o", out, "-f", "-q").code == 0
        assert out.read_bytes() == pets.read_bytes()


def test_dry_run_writes_nothing(tina: Tina, tmp_path: Path) -> None:
    found = tina("generate", "cranes, herons", "--dry-run", "--json", "-o", tmp_path / "m.safetensors")
    assert "bird" in found.json["classes"][0]["gloss"]
    assert list(tmp_path.iterdir()) == []


def test_words_describe_and_pictures_show(tina: Tina, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    draw(tmp_path / "shown" / "1.png", "red", 1)
    draw(tmp_path / "shown" / "2.png", "red", 2)
    found = tina(
        "generate", "zorbs, quibbles or cats", "--describe", "zorb=a large round fruit with a green rind",
        "--image", f"quibble={tmp_path / 'shown'}", "-o", out, "--json",
    )  # fmt: skip
    assert found.code == 0, found.err
    notes = found.json["classes"]
    assert (
        notes[0] == {"name": "zorb", "descriptions": ["a large round fruit with a green rind"]} or "zorbs" in notes[0]["name"]
    )
    assert notes[1]["pictures"] == 2 and "feline" in notes[2]["gloss"]
    other = tina("generate", "--class", "cat", "--image", f"quibble={tmp_path / 'shown'}", "-o", out, "-f", "--json").json
    assert [note["name"] for note in other["classes"]] == ["cat", "quibble"]


def test_more_samples_expect_no_less(pets: Path) -> None:
    one, many = read_model(pets), generate(PROMPT, samples=4)
    assert many.info["expected_accuracy"] >= one.info["expected_accuracy"]
    again = generate(PROMPT, seed=many.info["seed"])
    assert torch.equal(again.weight, many.weight)


def test_batch(tina: Tina, pets: Path, tmp_path: Path) -> None:
    lines = [
        json.dumps({"prompt": PROMPT}),
        "",
        "{broken",
        json.dumps({"classes": ["cat", "dog"], "name": "pair", "seed": 3}),
        json.dumps({"prompt": "cats"}),
        json.dumps({"prompt": "cats or dogs", "colour": 1}),
        json.dumps({"prompt": "cats or dogs", "name": "../out"}),
        json.dumps({"classes": "cat"}),
    ]
    file, folder = tmp_path / "prompts.jsonl", tmp_path / "models"
    file.write_text("\n".join(lines))
    found = tina("generate", "--batch", file, "-o", folder)
    assert found.code == 1 and "5 of 7 requests failed" in found.err
    assert [("error" in row, row["line"]) for row in found.lines] == [
        (False, 1), (True, 3), (False, 4), (True, 5), (True, 6), (True, 7), (True, 8),
    ]  # fmt: skip
    assert sorted(path.name for path in folder.iterdir()) == ["000001.safetensors", "pair.safetensors"]
    assert (folder / "000001.safetensors").read_bytes() == pets.read_bytes()
    assert (folder / "pair.safetensors").read_bytes() == dump_model(generate(classes=["cat", "dog"], seed=3))


def test_names_far_from_all_that_is_known_are_said(tina: Tina, tmp_path: Path) -> None:
    out, names = tmp_path / "x.safetensors", ["--class", "blorple", "--class", "cat"]
    found = tina("generate", *names, "-o", out)
    assert "warning: 'blorple' is far from all that is known; nearest are " in found.err and "'cat'" not in found.err
    notes = read_model(out).info["classes"]
    assert len(notes[0]["nearest_known"]) == 3 and "nearest_known" not in notes[1]
    strict = tina("generate", *names, "--strict", "-o", tmp_path / "y.safetensors")
    assert strict.code == 2 and "'blorple' is far from all that is known" in strict.err and "--describe" in strict.err
    assert not (tmp_path / "y.safetensors").exists()
    assert "far from" not in tina("generate", PROMPT, "--strict", "-o", tmp_path / "z.safetensors").err


def test_classes_that_mean_the_same_are_said(tina: Tina, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    found = tina("generate", "sofas, couches or lamps", "-o", out)
    assert "warning: 'couch' means the same as 'sofa'" in found.err
    info = read_model(out).info
    assert [entry.get("same_as") for entry in info["classes"]] == [None, "sofa", None] and info["expected_accuracy"] >= 1 / 3
    told = tina("generate", "sofas or couches", "--describe", "couch=a long seat", "--strict", "-o", tmp_path / "y.safetensors")
    assert told.code == 0 and "means the same" not in told.err


def test_resuming_makes_what_was_asked_for_otherwise(tina: Tina, tmp_path: Path) -> None:
    file, folder = tmp_path / "prompts.jsonl", tmp_path / "models"

    def kept(text: str, *more: str) -> bool:
        file.write_text(json.dumps({"classes": ["zorb", "cat"], "describe": {"zorb": [text]}}))
        return bool(tina("generate", "--batch", file, "-o", folder, "--resume", "-f", *more).lines[0].get("kept"))

    assert [kept("a green fruit"), kept("a green fruit"), kept("a red car")] == [False, True, False]
    assert [kept("a red car", "--steps", "3"), kept("a red car", "--steps", "3")] == [False, True]
    assert not kept("a red car", "--steps", "3", "--bundle")
    file.write_text('{"classes": ["a\\ud800", "cat"]}\n{"classes": ["dog", "cat"], "name": "%s"}' % ("x" * 300))
    assert ["error" in row for row in tina("generate", "--batch", file, "-o", folder).lines] == [True, True]


def test_a_batch_goes_on_where_it_stopped(tina: Tina, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tina_cli.batch.WINDOW", 2)
    lines = [json.dumps({"classes": ["cat", "dog", *"abcdefg"[:n]], "seed": n}) for n in (0, 1, 0, 7, 1)]
    lines += [json.dumps({"classes": ["cat", "dog"], "name": "000001"})]
    file, whole, cut = tmp_path / "prompts.jsonl", tmp_path / "whole", tmp_path / "cut"
    file.write_text("\n".join(lines))
    assert [row.get("error") for row in tina("generate", "--batch", file, "-o", whole).lines] == [
        *[None] * 5,
        "line 1 writes '000001' too",
    ]
    models = {path.name: path.read_bytes() for path in whole.iterdir()}
    assert len(models) == 5

    cut.mkdir()
    (cut / "000002.safetensors").write_bytes(models["000002.safetensors"])
    (cut / "000003.safetensors").write_bytes(models["000002.safetensors"])  # another request's
    again = tina("generate", "--batch", file, "-o", cut, "--resume")
    assert [row.get("kept", False) for row in again.lines] == [False, True, False, False, False, False]
    assert "exists" in again.lines[2]["error"] and again.code == 1
    assert tina("generate", "--batch", file, "-o", cut, "--resume", "--force").lines[0]["kept"]
    assert {path.name: path.read_bytes() for path in cut.iterdir()} == models
    assert tina("generate", PROMPT, "--resume", "-o", tmp_path / "x.safetensors").code == 2


def test_a_bundle_needs_nothing_else(tina: Tina, pets: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "whole.safetensors", tmp_path / "a.png"
    draw(picture, "red", 1)
    assert tina("generate", PROMPT, "--bundle", "-o", out, "-q").code == 0
    alone = tina("predict", out, picture, "--weights", tmp_path / "nowhere", "--json").json
    assert alone == tina("predict", pets, picture, "--json").json
    assert load_file(out)["weight"].shape == (3, 1280)


def test_python_side(pets: Path, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", "red", 1)
    classifier = load_classifier(pets)
    by_path, by_bytes = classifier(tmp_path / "a.png"), classifier((tmp_path / "a.png").read_bytes())
    assert by_path.probabilities == by_bytes.probabilities
    assert by_path.label in ("cat", "dog", "truck")


def test_a_clip_of_another_width_is_refused(tina: Tina, tiny_clip: Path, tmp_path: Path) -> None:
    found = tina("generate", PROMPT, "--clip", f"local-dir:{tiny_clip}", "-o", tmp_path / "m.safetensors")
    assert found.code == 1 and "vectors of 32 numbers" in found.err


def test_another_clip_of_the_same_space(tina: Tina, pets: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    assert tina("generate", PROMPT, "--clip", f"local-dir:{embedded_weights() / 'clip'}", "-o", out, "-q").code == 0
    # The text tower reads the words that the generator's own table knows: nearly the same rows.
    assert torch.cosine_similarity(read_model(out).weight, read_model(pets).weight).min() > 0.8


def test_export_is_the_same_model(tina: Tina, pets: Path, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from tina_cli.config import Preprocess
    from tina_cli.images import load_image

    out = tmp_path / "model.onnx"
    found = tina("export", pets, "-o", out, "--json")
    assert found.code == 0 and found.json["bytes"] == out.stat().st_size
    classifier = load_classifier(pets)
    size = classifier.backbone.spec.preprocess.size
    for number, colour in enumerate(("red", "blue", "gold")):
        draw(tmp_path / f"{number}.png", colour, number)
    raw = Preprocess(size, (0.0,) * 3, (1.0,) * 3)
    pictures = torch.stack([load_image(tmp_path / f"{number}.png", raw) for number in range(3)])
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    found_probabilities = session.run(None, {"pictures": pictures.numpy()})[0]
    wanted = [list(classifier(tmp_path / f"{number}.png").probabilities.values()) for number in range(3)]
    assert torch.allclose(torch.tensor(found_probabilities), torch.tensor(wanted), atol=1e-4)
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["cat", "dog", "truck"]


def test_onnxruntime_is_a_faster_way_to_the_same(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    from tina_cli import onnx_trunk, prediction

    monkeypatch.setattr(onnx_trunk, "MANY", 3)
    monkeypatch.setattr(prediction, "PORTION", 4)
    slow = load_classifier(pets)
    assert slow.fast(2).backbone is slow.backbone
    fast = slow.fast(3)
    assert fast.backbone is not slow.backbone
    colours = ("red", "blue", "gold", "lime", "gray", "black")
    for number, colour in enumerate(colours):
        draw(tmp_path / f"{number}.png", colour, number)
    (tmp_path / "broken.png").write_text("no picture")
    paths = [tmp_path / f"{name}.png" for name in (0, 1, "broken", 2, 3, 4, 5)]
    one, other = list(slow.each(paths, 2)), list(fast.each(paths, 2))
    assert [isinstance(found, prediction.Prediction) for found in one] == [True, True, False, True, True, True, True]
    for a, b in zip(one, other, strict=True):
        if isinstance(a, prediction.Prediction) and isinstance(b, prediction.Prediction):
            assert (a.image, a.label, a.unsure) == (b.image, b.label, b.unsure)
            assert b.probabilities == pytest.approx(a.probabilities, abs=1e-5)
        else:
            assert str(a) == str(b)
