"""The wheel: the embedded generator is inside, and it works outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT


def test_a_wheel_works_outside_the_checkout(tmp_path: Path, pets: Path) -> None:
    pytest.importorskip("hatchling")
    build = f"from hatchling.build import build_wheel; build_wheel({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert (tmp_path / "site" / "tina_cli" / "embedded" / "tina-mini" / "generator.json").exists()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tina_cli", "generate", "classify cats, dogs and trucks", "-o", "m.safetensors"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "m.safetensors").read_bytes() == pets.read_bytes()
