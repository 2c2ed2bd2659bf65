"""The README's Python runs as it stands there, and its commands exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, Result, draw

from tina_cli.cli import run

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_blocks_run(
    pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.S)
    assert len(blocks) == 2
    draw(tmp_path / "cat.jpg", "red", 1)
    assert run(["generate", "classify cats, dogs and trucks", "--bundle", "-o", "model.safetensors", "-q"]) == 0
    capsys.readouterr()
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    shown = capsys.readouterr().out.split()
    assert shown.count("cat") + shown.count("dog") + shown.count("truck") >= 2
    assert len({word for word in shown if word in ("cat", "dog", "truck")}) == 1  # both ways say the same


def test_every_option_shown_exists(tina: Callable[..., Result]) -> None:
    lines = [line.strip() for line in README.splitlines() if line.startswith(("    tina ", "    $ tina "))]
    assert len(lines) >= 10
    for line in lines:
        words = shlex.split(line.removeprefix("$ ").split(" | ")[0], comments=True)
        helped = tina(words[1], "--help").out
        for word in words[2:]:
            if word.startswith("-") and len(word) > 1:
                assert re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", helped), f"{word} in: {line}"


def test_every_file_of_the_tree_exists() -> None:
    tree = README.split("```text\n")[1].split("```")[0]
    folder = ROOT
    for line in tree.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = ROOT / name if name.endswith("/") else ROOT
            assert (ROOT / name).exists(), name
        else:
            assert (folder / name).exists(), name
