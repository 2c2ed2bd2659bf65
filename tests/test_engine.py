"""Work spread over processes: on a local Ray cluster the same bytes as in one, also when a worker is killed; by torchrun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import Result
from safetensors.torch import load_file

from tina_cli import batch, engine
from tina_cli.batch import Output
from tina_cli.weights import embedded_weights

Tina = Callable[..., Result]
ANIMALS = ("cat", "dog", "horse", "cow", "sheep", "pig", "goat", "duck")


def requests(count: int) -> list[str]:
    lines = []
    for number in range(count):
        names = [ANIMALS[(number + i * (1 + number % 3)) % 8] for i in range(2 + number % 3)]
        lines.append(json.dumps({"classes": list(dict.fromkeys([*names, "truck"])), "seed": number}))
    return lines


def models(folder: Path) -> dict[str, bytes]:
    """Return all files but the unfinished ones, whose writer was killed."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name[0] != "."}


@pytest.fixture
def _cluster(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    ray = pytest.importorskip("ray")
    start = ray.init
    monkeypatch.setattr(ray, "init", lambda *a, **k: start(*a, **k, num_cpus=2, object_store_memory=80 * 1024**2))
    monkeypatch.setattr(batch, "WINDOW", 4)
    yield
    ray.shutdown()


@pytest.mark.enable_socket
@pytest.mark.usefixtures("_cluster")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(600)
def test_a_cluster_gives_the_bytes_of_one_process_and_loses_nothing(tina: Tina, tmp_path: Path) -> None:
    lines = requests(24)
    lines[5] = '{"classes": ["cat"]}'
    lines[9] = '{"classes": ["cat", "dog"], "name": "000003"}'
    lines[11] = "no json"
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(lines) + "\n")
    local = tina("generate", "--batch", file, "-o", tmp_path / "local", "-q")
    killed: list[int] = []
    watch = threading.Thread(target=kill_one, args=(tmp_path / "ray", killed))
    watch.start()
    spread = tina("generate", "--batch", file, "-o", tmp_path / "ray", "--engine", "ray", "-q")
    watch.join()
    assert killed, "no worker was there to be killed"
    assert spread.code == local.code == 1
    assert [line["line"] for line in spread.lines] == list(range(1, 25))
    for one, other in zip(local.lines, spread.lines, strict=True):
        assert one | {"output": None} == other | {"output": None}
    assert models(tmp_path / "ray") == models(tmp_path / "local")

    (tmp_path / "ray" / "000002.safetensors").unlink()
    kept = tina("generate", "--batch", file, "-o", tmp_path / "ray", "--engine", "ray", "--resume", "-q")
    assert [line.get("kept") for line in kept.lines[:4]] == [True, None, True, True]
    assert models(tmp_path / "ray") == models(tmp_path / "local")


@pytest.mark.enable_socket
@pytest.mark.usefixtures("_cluster")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.timeout(600)
def test_a_training_on_a_cluster_ends_with_the_same_bytes(tina: Tina, trained: Path, pictures: Path, tmp_path: Path) -> None:
    done = tina("train", "--data", pictures, "--out", tmp_path / trained.name, "--recipe", "smoke", "--engine", "ray", "-q")
    assert done.code == 0, done.err
    for name in ("denoiser.safetensors", "known.safetensors", "generator.json"):
        assert (tmp_path / trained.name / name).read_bytes() == (trained / name).read_bytes(), name


def kill_one(folder: Path, killed: list[int]) -> None:
    """Kill a worker when the first models are there."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if folder.is_dir() and len(list(folder.iterdir())) >= 2:
            for process in Path("/proc").iterdir():
                if process.name.isdigit() and name_of(process).startswith(b"ray::run_window"):
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(int(process.name))
                    return
        time.sleep(0.005)


def name_of(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def test_names_are_claimed_once(tmp_path: Path) -> None:
    (tmp_path / "old.safetensors").write_bytes(b"")
    output = Output(tmp_path)
    first = engine.claimed([(1, '{"name": "a"}'), (2, '{"name": "old"}'), (3, "[]"), (4, "{")], output)
    assert first.free == {"a", "000003", "000004"} and not first.taken
    second = engine.claimed([(5, '{"name": "a"}'), (6, '{"name": 7}'), (7, '{"name": "../x"}')], output)
    assert second.taken == {"a": 1} and not second.free


def test_wrong_engines(tina: Tina, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(requests(2)))
    unknown = tina("generate", "--batch", file, "-o", tmp_path / "m", "--engine", "spark")
    assert unknown.code == 2 and "unknown engine" in unknown.err
    assert "belongs to --batch" in tina("generate", "cats or dogs", "--engine", "ray").err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    missing = tina("generate", "--batch", file, "-o", tmp_path / "m", "--engine", "ray")
    assert missing.code == 2 and "tina-cli[ray]" in missing.err
    assert embedded_weights().is_dir() and not (tmp_path / "m").exists()


def test_a_team_of_two_trains_as_one_process_does(trained: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / trained.name
    command = ["-m", "tina_cli", "train", "--data", pictures, "--out", out, "--recipe", "smoke", "--device", "cpu"]
    team = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}  # torchrun's own choice is one
    done = subprocess.run([*team, *map(str, command)], env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}: trained\n"  # one voice
    for name in ("known.safetensors", "lexicon.gz"):
        assert (out / name).read_bytes() == (trained / name).read_bytes()
    alone, together = (load_file(folder / "denoiser.safetensors") for folder in (trained, out))
    for name, value in alone.items():
        assert torch.allclose(together[name].float(), value.float(), atol=2e-3), name  # rounding, through 12 steps of Adam
    steps = [json.loads(line) for line in (out.parent / f"{out.name}.work" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if row.get("stage") == "diffusion"] == [12]
