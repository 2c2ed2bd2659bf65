"""Vectors of words kept between runs: never other numbers, never in the way."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import Result

from tina_cli import generate
from tina_cli import generator as generators
from tina_cli.conditions import Conditions, read_entry, write_entry
from tina_cli.errors import GeneratorError

Tina = Callable[..., Result]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of the test's own."""
    monkeypatch.setattr(generators, "user_cache_path", lambda _: tmp_path / "cache")
    return tmp_path / "cache" / "conditions"


def entries(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.is_file())


def no_clip(*_: object) -> None:
    raise GeneratorError("the CLIP was asked for")


def test_kept_vectors_give_the_same_model_without_a_clip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = generate("margays and tayras", cache=False)
    assert not cache.exists()
    first = generate("margays and tayras")
    assert len(entries(cache)) == 2
    monkeypatch.setattr(generators, "load_clip", no_clip)
    again = generate("a tayra, a margay")
    assert torch.equal(first.weight, fresh.weight)
    assert torch.equal(again.weight, fresh.weight[[1, 0]])
    with pytest.raises(GeneratorError, match="asked for"):
        generate("margays and gerenuks")
    with pytest.raises(GeneratorError, match="asked for"):
        generate("margays and tayras", cache=False)


def test_a_warm_start_imports_no_open_clip(tmp_path: Path) -> None:
    code = "import sys; from tina_cli import generate; generate('margays and tayras'); print('open_clip' in sys.modules)"
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    seen = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=240)
        seen.append(done.stdout.strip())
    assert seen == ["True", "False"]


def test_damaged_entries_are_made_again(cache: Path) -> None:
    first = generate("margays and tayras")
    for path, damage in zip(entries(cache), (b"", b"x" * 500), strict=True):
        path.write_bytes(damage)
        assert read_entry(path) is None
    assert torch.equal(generate("margays and tayras").weight, first.weight)
    assert all(read_entry(path) is not None for path in entries(cache))


def test_an_unwritable_cache_is_no_error(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert generate("margays and tayras").classes == ["margay", "tayra"]


def test_no_cache_leaves_nothing(tina: Tina, cache: Path, tmp_path: Path) -> None:
    assert tina("generate", "margays and tayras", "-o", tmp_path / "m.safetensors", "--no-cache").code == 0
    assert not cache.exists()


def test_another_clip_or_device_has_entries_of_its_own(cache: Path, tiny_clip: Path) -> None:
    generate("margays and tayras")
    with pytest.raises(GeneratorError, match="vectors of 32 numbers"):
        generate("margays and tayras", clip=f"local-dir:{tiny_clip}")
    assert len(entries(cache)) == 2


def test_an_unknown_source_is_not_kept(tmp_path: Path) -> None:
    class Fake:
        def encode_text(self, texts: list[str]) -> torch.Tensor:
            return torch.ones(len(texts), 4)

    for source, count in ((None, 0), ("told", 1)):
        conditions = Conditions(Fake, source, tmp_path)  # type: ignore[arg-type]
        assert conditions.of(["a"]) is conditions.of(["a"])
        assert len(entries(tmp_path)) == count


def test_many_writers_and_readers_of_one_entry(tmp_path: Path) -> None:
    path, vector = tmp_path / "ab" / "entry", torch.randn(512)

    def work(number: int) -> bool:
        if number % 2:
            write_entry(path, vector)
        found = read_entry(path)
        return found is None or torch.equal(found, vector)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["entry"]
