"""Evaluation: on drawn pictures always, on real photographs where they are there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Result

from tina_cli.weights import embedded_weights

Tina = Callable[..., Result]
Real = Callable[[str], Path]


def test_folders_match_by_meaning(tina: Tina, pictures: Path, pets: Path, tmp_path: Path) -> None:
    for folder, source in {"Cats": "lime", "domestic_dog": "plum", "lorries": "coal", "violins": "snow"}.items():
        shutil.copytree(pictures / source, tmp_path / "data" / folder)
    found = tina("evaluate", pets, "--data", tmp_path / "data", "--json")
    assert "left out, no class of the model: violins" in found.err
    assert "counted: domestic_dog as dog, lorries as truck" in found.err
    assert list(found.json["per_class"]) == ["cat", "dog", "truck"] and found.json["n"] == 30
    assert sum(map(sum, found.json["confusion"])) == 30
    (tmp_path / "split" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "data").rename(tmp_path / "split" / "test")
    shutil.copy(next(pictures.rglob("*.png")), tmp_path / "split" / "train" / "cat")
    assert tina("evaluate", pets, "--data", tmp_path / "split", "--json").json["n"] == 30
    (tmp_path / "split" / "test").rename(tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "lorries")
    missing = tina("evaluate", pets, "--data", tmp_path / "data")
    assert missing.code == 1 and "no folder for truck" in missing.err
    assert tina("evaluate", pets, "--data", tmp_path / "data", "--allow-missing").code == 0


def test_the_gate(tina: Tina, pictures: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.safetensors"
    assert tina("generate", "--class", "tomato", "--class", "lime", "--weights", trained, "-o", out, "-q").code == 0
    arguments = ["evaluate", out, "--data", pictures, "--weights", trained, "-q"]
    assert tina(*arguments, "--min-accuracy", "0").code == 0
    missed = tina(*arguments, "--min-accuracy", "1")
    exact = tina(*arguments, "--json").json["accuracy"] == 1
    assert missed.code == (0 if exact else 3)


def test_methods_side_by_side(tina: Tina, trained: Path, pictures: Path) -> None:
    arguments = ["evaluate", trained, "--data", pictures, "--tasks", "3", "--classes", "3"]
    found = tina(*arguments, "--json", "-q").json
    rows = {row["method"]: row for row in found["rows"]}
    assert {"tina", "ridge", "nearest", "zero-shot", "oracle"} <= set(rows)
    assert all(row["n_tasks"] == 3 and row["classes"] == 3 for row in rows.values())
    assert rows["oracle"]["accuracy"] > 0.9 and found["chance"] == pytest.approx(1 / 3)
    assert tina(*arguments, "--json", "-q").json == found  # deterministic
    assert "95 % interval" in tina(*arguments, "-q").out
    shots = tina(*arguments, "--shots", "5", "--json", "-q").json
    assert {row["method"]: row["accuracy"] for row in shots["rows"]}["tina"] > 0.9
    for wrong, reason in [("7", "cannot be drawn"), ("1", "--classes must be"), ("x", "--classes must be")]:
        refused = tina("evaluate", trained, "--data", pictures, "--classes", wrong)
        assert refused.code == 2 and reason in refused.err
    assert "no more than 10 pictures" in tina("evaluate", trained, "--data", pictures, "--shots", "10").err


def test_the_oracle_may_have_training_pictures(tina: Tina, trained: Path, pictures: Path, tmp_path: Path) -> None:
    for part, places in {"train": range(5), "test": range(5, 10)}.items():
        for name in ("tomato", "lime", "coal"):
            (tmp_path / part / name).mkdir(parents=True)
            for place in places:
                shutil.copy(pictures / name / f"{place}.png", tmp_path / part / name)
    found = tina("evaluate", trained, "--data", tmp_path, "--classes", "all", "--json", "-q").json
    assert found["n"] == 15 and {r["method"]: r["accuracy"] for r in found["rows"]}["oracle"] > 0.9


def accuracies(tina: Tina, data: Path, *options: object) -> dict[str, float]:
    found: Any = tina("evaluate", embedded_weights(), "--data", data, "--json", "-q", *options)
    assert found.code == 0, found.err
    return {row["method"]: row["accuracy"] for row in found.json["rows"]}


def test_cats_dogs_and_trucks(tina: Tina, real: Real, pets: Path) -> None:
    found = tina("evaluate", pets, "--data", real("everyday3"), "--json", "-q", "--min-accuracy", "0.95")
    assert found.code == 0 and found.json["n"] >= 150


def test_swapped_names_swap_the_predictions(tina: Tina, real: Real, tmp_path: Path) -> None:
    data, out = real("everyday3"), tmp_path / "m.safetensors"
    swapped = ["--class", "cat", "--class", "dog", "--describe", "cat=a photo of a dog.", "--describe", "dog=a photo of a cat."]
    assert tina("generate", *swapped, "-o", out, "-q").code == 0
    found = tina("evaluate", out, "--data", data, "--json", "-q").json
    assert found["accuracy"] < 0.1


def test_names_alone_on_new_photographs(tina: Tina, real: Real) -> None:
    found = accuracies(tina, real("imagenette"), "--classes", "all")
    assert found["tina"] >= 0.95
    assert found["tina"] >= found["ridge"] - 0.01 and found["tina"] > found["zero-shot"]
    shuffled = accuracies(tina, real("imagenette"), "--classes", "5", "--tasks", "60", "--shuffle-names")
    assert abs(shuffled["tina"] - 0.2) < 0.1


def test_animals_by_name_and_by_pictures(tina: Tina, real: Real) -> None:
    animals = real("popular-animals")
    assert accuracies(tina, animals, "--classes", "all")["tina"] >= 0.81
    assert accuracies(tina, animals, "--tasks", "40")["tina"] >= 0.935
    assert accuracies(tina, animals, "--tasks", "40", "--shots", "5")["tina"] >= 0.94
