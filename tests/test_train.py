"""Training: the smoke recipe on drawn pictures, interrupted and resumed, on the embedded CLIP and on another."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import COLOURS, Result, interrupted

Tina = Callable[..., Result]


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_generator_of_ones_own(tina: Tina, trained: Path, pictures: Path, tmp_path: Path) -> None:
    info = tina("inspect", trained, "--json").json
    names = {name for name, _ in info["concepts"]}
    assert set(COLOURS) - {name for name, *_ in info["heldout"]} <= names
    assert {"cat", "tabby cat", "minivan"} & names  # it builds on what the embedded generator knows
    out = tmp_path / "m.safetensors"
    assert tina("generate", "tomatoes, limes and coal", "--weights", trained, "-o", out, "-q").code == 0
    found = tina("evaluate", out, "--data", pictures, "--weights", trained, "--json")
    assert found.code == 0 and "left out" in found.err
    assert found.json["schema"] == "tina/evaluate-model/1" and found.json["n"] == 30
    assert found.json["accuracy"] >= 0.6  # blobs of three colours, chance is a third
    log = [json.loads(line) for line in (trained.with_name("tiny.work") / "log.jsonl").read_text().splitlines()]
    assert {"features", "conditions", "generic rows", "zoo", "diffusion"} <= {line["stage"] for line in log}


def test_a_finished_run_is_a_no_op_and_another_is_refused(tina: Tina, trained: Path, pictures: Path) -> None:
    again = ["train", "--data", pictures, "--out", trained, "--recipe", "smoke"]
    before = files(trained)
    assert "--resume" in tina(*again).err
    done = tina(*again, "--resume", "--json")
    assert done.code == 0 and done.json["new"] is False
    assert files(trained) == before
    assert "holds another training" in tina(*again, "--resume", "--seed", "1").err
    elsewhere = tina("train", "--data", pictures, "--out", trained, "--recipe", "smoke", "--work", trained.parent / "w2")
    assert elsewhere.code == 2 and "holds a generator" in elsewhere.err


@pytest.mark.parametrize("stage", ["features", "zoo", "diffusion"])
def test_killed_and_resumed_is_never_killed(tina: Tina, trained: Path, pictures: Path, tmp_path: Path, stage: str) -> None:
    """Kill the process when a stage has begun, go on, and compare every byte with the uninterrupted run's."""
    out = tmp_path / "tiny"
    arguments = ["train", "--data", pictures, "--out", out, "--recipe", "smoke", "--device", "cpu"]
    command = [sys.executable, "-m", "tina_cli", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "tiny.work" / "log.jsonl"
    begun = {"features": "features", "zoo": "generic rows", "diffusion": "diffusion"}[stage]
    try:
        while process.poll() is None and not (log.exists() and f'"{begun}"' in log.read_text()):
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    assert not (tmp_path / "tiny.work" / "done.json").exists()
    assert tina(*arguments, "--resume", "-q").code == 0
    assert files(out) == files(trained)


def test_stage_by_stage_is_all_at_once(tina: Tina, trained: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiny"
    for stage in ("clip", "features", "zoo", "all"):
        arguments = ["train", "--data", pictures, "--out", out, "--recipe", "smoke", "--stage", stage, "--resume", "-q"]
        assert tina(*arguments).code == 0
        assert (out / "generator.json").exists() == (stage == "all")
    assert files(out) == files(trained)


def test_another_clip(tina: Tina, tiny_clip: Path, pictures: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "g", tmp_path / "m.safetensors"
    source = Path(shutil.copytree(tiny_clip, tmp_path / "clip"))
    clip = f"local-dir:{source}"
    assert tina("train", "--data", pictures, "--out", out, "--recipe", "smoke", "--clip", clip, "-q").code == 0
    shutil.rmtree(source)  # the generator holds its own copy
    assert tina("generate", "tomatoes or limes", "--weights", out, "-o", model, "-q").code == 0
    info = tina("inspect", model, "--json").json
    assert info["tensors"] == {"bias": [2], "weight": [2, 32]} and info["backbone"]["preprocess"]["size"] == 32
    assert tina("predict", model, pictures / "lime", "--weights", out).code == 0
    assert "made for another backbone" in tina("predict", model, pictures / "lime").err
    bundled = tina("generate", "tomatoes or limes", "--weights", out, "--bundle", "-f", "-o", model)
    assert bundled.code == 2 and "cannot be bundled" in bundled.err


def test_dry_run(tina: Tina, pictures: Path, tmp_path: Path) -> None:
    found = tina("train", "--data", pictures, "--out", tmp_path / "g", "--dry-run")
    assert found.code == 0 and "60 pictures of 6 classes in 1 set" in found.err
    assert list(tmp_path.iterdir()) == []


def test_a_trunk_of_ones_own(tina: Tina, pictures: Path, tmp_path: Path) -> None:
    """A ResNet-20 trained on the pictures, interrupted behind every second file that it writes."""
    whole, model = tmp_path / "whole", tmp_path / "m.safetensors"
    arguments = ["train", "--data", pictures, "--recipe", "smoke", "--backbone", "resnet20", "--device", "cpu", "-q"]
    assert tina(*arguments, "--out", whole).code == 0
    broken = tmp_path / "broken"
    codes = interrupted(lambda: tina(*arguments, "--out", broken, "--resume").code, times=6)
    assert 130 in codes and codes[-1] == 0
    again, first = files(broken), files(whole)
    assert again.pop("generator.json") and first.pop("generator.json")  # they differ in the generator's name
    assert again == first
    assert tina("generate", "tomatoes, limes and coal", "--weights", whole, "--bundle", "-o", model, "-q").code == 0
    assert tina("inspect", model, "--json").json["backbone"]["arch"] == "tina:resnet20"
    assert tina("predict", model, pictures / "lime").code == 0  # the trunk is inside
    shots = tina("generate", "--image", f"a={pictures / 'lime'}", "--image", f"b={pictures / 'coal'}", "--weights", whole,
                 "-o", model, "-f", "--json")  # fmt: skip
    assert shots.code == 0, shots.err
    assert "ImageNet" in tina(*arguments, "--out", tmp_path / "x", "--recipe", "tina-mini").err
