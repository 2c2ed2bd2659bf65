"""The command line: what it loads, what it says, how it fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result, draw
from safetensors.torch import load_file, save_file

from tina_cli import __version__
from tina_cli.weights import embedded_weights

Tina = Callable[..., Result]
HEAVY = ("torch", "numpy", "PIL", "open_clip", "rich", "timm", "scipy")


@pytest.mark.parametrize(
    "code",
    [
        "import tina_cli",
        "from tina_cli.cli import run; run(['--help'])",
        "from tina_cli.cli import run; run(['--version'])",
        "from tina_cli.cli import run; run(['generate', '--help'])",
        "from tina_cli.cli import run; run(['generate', '--no-such-option'])",
        "from tina_cli.cli import run; run(['generate'])",
        "from tina_cli.cli import run; run(['inspect', {model!r}, '--json'])",
        "from tina_cli.cli import run; run(['inspect', {generator!r}])",
        "from tina_cli.cli import run; run(['predict', 'missing.safetensors', 'x.jpg'])",
    ],
)
def test_nothing_heavy_is_loaded(code: str, pets: Path) -> None:
    code = code.format(model=str(pets), generator=str(embedded_weights()))
    check = f"import sys; {code}; print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, timeout=60)
    assert done.stderr.decode().splitlines()[-1] == "[]"


def test_help_and_version(tina: Tina) -> None:
    assert tina("--version").out == f"tina {__version__}\n"
    for command in ("generate", "predict", "evaluate", "inspect", "export", "train"):
        assert command in tina("--help").out
        assert tina(command, "--help").code == 0


def test_usage_errors_are_one_line_and_a_hint(tina: Tina) -> None:
    for arguments in (["generate", "--sedd", "1"], ["nonsense"], ["predict"], ["generate", "a or b", "--seed", "x"]):
        found = tina(*arguments)
        assert found.code == 2 and found.out == ""
        assert found.err.startswith("error: ") and found.err.splitlines()[1].startswith("hint: ")


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["generate", ""], 2, "names no class"),
        (["generate"], 2, "no prompt"),
        (["generate", "classify cats"], 2, "only one class"),
        (["generate", "cats, dogs, cats"], 2, "named twice"),
        (["generate", "--class", "cat"], 2, "only one class"),
        (["generate", "--class", "cat", "--class", "Cat"], 2, "named twice"),
        (["generate", "cats or dogs", "--class", "cow"], 2, "exclude each other"),
        (["generate", "cats or dogs", "--steps", "0"], 2, "--steps must be"),
        (["generate", "cats or dogs", "--samples", "0"], 2, "--samples must be"),
        (["generate", "cats or dogs", "--sampler", "magic"], 2, "unknown sampler"),
        (["generate", "cats or dogs", "--describe", "cow=a big one"], 2, "is no class here"),
        (["generate", "cats or dogs", "--describe", "cow"], 2, "is not NAME=VALUE"),
        (["generate", "cats or dogs", "--image", "cat=missing.jpg"], 1, "no file missing.jpg"),
        (["generate", "cats or dogs", "--image", "cat=text.jpg"], 1, "is no picture"),
        (["generate", "cats or dogs", "--device", "cuda:99"], 1, "no device"),
        (["generate", "cats or dogs", "--weights", "nowhere"], 1, "no generator"),
        (["generate", "cats or dogs", "--weights", "hf-hub:nobody/nothing"], 1, "cannot fetch"),
        (["generate", "cats or dogs", "--clip", "ViT-B-32:openai"], 1, "cannot load the CLIP"),
        (["generate", "cats or dogs", "--clip", "No-Such:thing"], 1, "knows no model"),
        (["generate", "cats or dogs", "--clip", "local-dir:nowhere"], 1, "no open_clip folder"),
        (["generate", "cats or dogs", "-o", "no/such/folder/m.safetensors"], 1, "no folder"),
        (["generate", "cats or dogs", "-o", "."], 1, "is a folder"),
        (["generate", "cats or dogs", "-o", "text.jpg"], 1, "exists"),
        (["generate", "cats or dogs", "-o", "-", "--json"], 2, "leave one of them out"),
        (["generate", "--classes-file", "missing.txt"], 1, "cannot read missing.txt"),
        (["generate", "--batch", "missing.jsonl", "-o", "out"], 1, "cannot read missing.jsonl"),
        (["generate", "--batch", "text.jpg"], 2, "-o is a folder"),
        (["generate", "cats or dogs", "--batch", "text.jpg", "-o", "out"], 2, "from the file alone"),
        (["predict", "missing.safetensors", "text.jpg"], 1, "no file missing.safetensors"),
        (["predict", "text.jpg", "text.jpg"], 1, "no model file"),
        (["evaluate", "missing.safetensors", "--data", "."], 1, "no file missing.safetensors"),
        (["evaluate", "text.jpg", "--data", "."], 1, "no model file"),
        (["inspect", "."], 1, "generator.json"),
        (["inspect", "missing"], 1, "no file missing"),
        (["export", "text.jpg"], 1, "no model file"),
        (["export", "text.jpg", "-o", "x.txt"], 2, "does not end in .onnx"),
        (["train", "--data", "missing", "--out", "g"], 1, "no folder missing"),
        (["train", "--data", ".", "--out", "g"], 1, "no subfolders"),
        (["train", "--data", ".", "--out", "g", "--recipe", "nothing"], 2, "no recipe"),
        (["train", "--data", ".", "--out", "g", "--stage", "nothing"], 2, "unknown stage"),
        (["generate", "caf\udce9s or dogs"], 2, "no UTF-8"),
        (["generate", "cats or dogs", "--describe", "cat=caf\udce9"], 2, "no UTF-8"),
        (["generate", "cats or dogs", "-o", "x" * 300], 1, "too long"),
        (["generate", "sofas or couches", "--strict"], 2, "mean the same"),
        (["evaluate", "--suite", "paper", "--smoke", "--min-accuracy", "0.5"], 2, "not for a study"),
        (["evaluate", "--data", ".", "--classes", "²"], 2, "a number from 2 up"),
        (["import", "text.jpg"], 1, "cannot read text.jpg as a checkpoint"),
    ],
)
def test_bad_input(
    tina: Tina, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.jpg").write_text("no picture")
    found = tina(*arguments)
    assert found.code == code
    assert reason in found.err and sum(line.startswith("error: ") for line in found.err.splitlines()) == 1
    assert found.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["text.jpg"]


def test_errors_of_one_picture_cost_no_other(tina: Tina, pets: Path, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", "red", 1)
    (tmp_path / "b.png").write_text("broken")
    draw(tmp_path / "c.png", "blue", 2)
    found = tina("predict", pets, tmp_path, tmp_path / "absent.png")
    assert found.code == 1 and len(found.out.splitlines()) == 2
    assert "no file" in found.err and "2 of 4 pictures" in found.err
    found = tina("predict", pets, tmp_path)
    assert "b.png is no picture" in found.err and "1 of 3 pictures" in found.err
    rows = tina("predict", pets, tmp_path, "--json").lines
    assert [sorted(row) for row in rows] == [
        ["image", "label", "probabilities", "unsure"],
        ["error", "image"],
        ["image", "label", "probabilities", "unsure"],
    ]
    assert sum(rows[0]["probabilities"].values()) == pytest.approx(1)


def test_inspect(tina: Tina, pets: Path) -> None:
    info = tina("inspect", pets, "--json").json
    assert info["schema"] == "tina/inspect-model/1" and [c["name"] for c in info["classes"]] == ["cat", "dog", "truck"]
    assert "feline" in tina("inspect", pets).out
    info = tina("inspect", embedded_weights(), "--json").json
    assert info["schema"] == "tina/inspect-generator/1" and info["name"] == "tina-mini"
    assert "concepts" in tina("inspect", embedded_weights()).out


@pytest.mark.parametrize(
    "name", ["denoiser.safetensors", "known.safetensors", "lexicon.gz", "clip/open_clip_model.safetensors"]
)
def test_a_flipped_byte_in_a_weight_file(tina: Tina, trained: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    found = tina("generate", "limes or plums", "--weights", folder, "-o", tmp_path / "m.safetensors")
    assert found.code == 1 and f"{name} is damaged" in found.err
    (folder / name).unlink()
    found = tina("generate", "limes or plums", "--weights", folder, "-o", tmp_path / "m.safetensors")
    assert found.code == 1 and f"lacks {name}" in found.err
    assert not (tmp_path / "m.safetensors").exists()


def test_a_head_for_another_backbone(tina: Tina, pets: Path, tmp_path: Path) -> None:
    draw(tmp_path / "a.png", "red", 1)
    tensors = load_file(pets)
    info = tina("inspect", pets, "--json").json
    del info["schema"], info["tensors"]
    info["backbone"]["sha256"] = "0" * 64
    other = tmp_path / "other.safetensors"
    save_file(tensors, other, metadata={"tina": json.dumps(info)})
    found = tina("predict", other, tmp_path / "a.png")
    assert found.code == 1 and "made for another backbone" in found.err and "hint: " in found.err


def test_interrupt(tina: Tina, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import tina_cli.generation

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tina_cli.generation, "sample_plan", stop)
    found = tina("generate", "cats or dogs", "-o", tmp_path / "m.safetensors")
    assert found.code == 130 and "interrupted" in found.err
