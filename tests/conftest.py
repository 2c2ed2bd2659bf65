"""What the tests share: drawn pictures, a tiny trained generator, the embedded one, and a command line in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # the Hub client reads it when it is imported

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"  # pictures for measuring, beside a developer's checkout; users have none
COLOURS = {"tomato": "red", "lime": "lime", "plum": "purple", "lemon": "yellow", "coal": "black", "snow": "white"}


@dataclass
class Result:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache and settings out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        for name in ("TINA_SEED", "TINA_DEVICE", "TINA_WEIGHTS", "TINA_NO_CACHE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture
def tina(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run `tina` in this process."""
    from tina_cli.cli import run

    def call(*arguments: object) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        caught = capsys.readouterr()
        return Result(code, caught.out, caught.err)

    return call


def shell(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run `python -m tina_cli` in a process of its own."""
    command = [sys.executable, "-m", "tina_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=240, **options)


def interrupted(call: Callable[[], int], times: int) -> list[int]:
    """Call again and again, interrupted behind every second file that is written, `times` times in all; return the codes."""
    codes, writes, real = [], 0, os.replace

    def replace(*names: Any) -> None:
        nonlocal writes
        writes += 1
        real(*names)
        if writes % 2 and writes < 2 * times:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", replace)
        while not codes or codes[-1] == 130:
            codes.append(call())
    return codes


def draw(path: Path, colour: str, number: int, size: int = 96) -> None:
    """Draw a blob of a colour, each number another one."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (size, size), (90 + 9 * (number % 9), 120, 140 - 7 * (number % 9)))
    left, top = 8 + 5 * (number % 5), 10 + 3 * (number % 7)
    ImageDraw.Draw(image).ellipse((left, top, left + 50, top + 44), fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes of ten drawn pictures."""
    folder = tmp_path_factory.mktemp("drawn") / "blobs"
    for name, colour in COLOURS.items():
        for number in range(10):
            draw(folder / name / f"{number}.png", colour, number)
    return folder


@pytest.fixture(scope="session")
def trained(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator trained on the drawn pictures by the smoke recipe."""
    from tina_cli.cli import run

    out = tmp_path_factory.mktemp("trained") / "tiny"
    assert run(["train", "--data", str(pictures), "--out", str(out), "--recipe", "smoke", "--device", "cpu", "-q"]) == 0
    return out


@pytest.fixture(scope="session")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of three classes by the embedded generator."""
    from tina_cli.cli import run

    path = tmp_path_factory.mktemp("models") / "pets.safetensors"
    assert run(["generate", "classify cats, dogs and trucks", "-o", str(path), "--device", "cpu", "-q"]) == 0
    return path


@pytest.fixture(scope="session")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Unpack one of the evaluation's picture sets; skips where they are not there."""
    folder = tmp_path_factory.mktemp("real")

    def unpack(name: str) -> Path:
        archive = SHARED / "eval" / f"{name}.tar.gz"
        if not archive.exists():
            pytest.skip("the evaluation pictures are not here")
        if not (folder / name).exists():
            with tarfile.open(archive) as file:
                file.extractall(folder / name, filter="data")
        inside = [path for path in (folder / name).iterdir() if path.is_dir()]
        return inside[0] if len(inside) == 1 else folder / name

    yield unpack


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP of the usual kind (vision transformer), random weights, saved as an open_clip folder."""
    import torch
    from safetensors.torch import save_file

    from tina_cli.device import prepare_torchvision

    prepare_torchvision()
    import open_clip

    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    folder = tmp_path_factory.mktemp("clip")
    how = {"mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": how}))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    return folder
