"""The paper's network: beside an implementation written independently from its description, and its checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Result
from torch import Tensor

from tina_cli.errors import DataError, GeneratorError
from tina_cli.paper_denoiser import PaperDenoiser, chunks_of, paper_denoiser
from tina_cli.paper_generator import open_paper_generator

Tina = Callable[..., Result]

LAYERS = [432, 4608, 320, 10]  # of the CNN with 5,370 parameters


def checkpoint(
    width: int, blocks: int, classes: int, chunks: list[int], told: int = 512, frequencies: int = 128
) -> dict[str, Tensor]:
    """Return random tensors by the names and shapes of the authors' checkpoints."""
    rng = torch.Generator().manual_seed(width + blocks)

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng) / math.sqrt(shape[-1])

    inputs = [*chunks, *[told] * classes, 2 * frequencies + 1]
    state = {"decoder.pos_emb": some(1, len(inputs), width), "decoder.clip_model.text_projection": some(3, 3)}
    for place, size in enumerate(inputs):
        state[f"decoder.input_parameter_projections.{place}.0.weight"] = some(width, size)
    for place, size in enumerate(chunks):
        state[f"decoder.output_parameter_projections.{place}.0.weight"] = some(size, width)
    for name in ("decoder.ln_in", "decoder.ln_f", *(f"decoder.blocks.{b}.ln{i}" for b in range(blocks) for i in (1, 2))):
        state |= {f"{name}.weight": 1 + some(width), f"{name}.bias": some(width)}
    for b in range(blocks):
        for name, wide, narrow in (
            ("attn.key", width, width), ("attn.query", width, width), ("attn.value", width, width),
            ("attn.proj", width, width), ("mlp.0", 4 * width, width), ("mlp.2", width, 4 * width),
        ):  # fmt: skip
            state |= {f"decoder.blocks.{b}.{name}.weight": some(wide, narrow), f"decoder.blocks.{b}.{name}.bias": some(wide)}
    state["scalar_embedder.frequencies"] = 2 ** torch.linspace(0, 14, frequencies)
    return state


def reference(
    state: dict[str, Tensor], x: Tensor, t: Tensor, classes: Tensor, chunks: list[int], blocks: int, heads: int
) -> Tensor:
    """Compute the paper's network token by token and head by head, in double precision, straight from the tensors."""
    p = {name: value.double() for name, value in state.items()}

    def norm(v: Tensor, name: str) -> Tensor:
        centred = v - v.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"] + p[f"{name}.bias"]

    def affine(v: Tensor, name: str) -> Tensor:
        return v @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    rows = []
    for number in range(len(x)):
        pieces, start = [], 0
        for size in chunks:
            pieces.append(x[number, start : start + size].double())
            start += size
        pieces += [vector.double() for vector in classes[number]]
        angle = p["scalar_embedder.frequencies"] * float(t[number])
        pieces.append(torch.cat([angle.float().sin().double(), angle.float().cos().double(), t[number].double().reshape(1)]))
        h = torch.stack([p[f"decoder.input_parameter_projections.{i}.0.weight"] @ piece for i, piece in enumerate(pieces)])
        h = norm(h, "decoder.ln_in") + p["decoder.pos_emb"][0]
        for b in range(blocks):
            block = f"decoder.blocks.{b}"
            inner = norm(h, f"{block}.ln1")
            q, k, v = (affine(inner, f"{block}.attn.{name}") for name in ("query", "key", "value"))
            size = q.shape[1] // heads
            mixed = []
            for head in range(heads):
                own = slice(head * size, (head + 1) * size)
                weights = (q[:, own] @ k[:, own].T / math.sqrt(size)).exp()
                mixed.append(weights / weights.sum(1, keepdim=True) @ v[:, own])
            h = h + affine(torch.cat(mixed, 1), f"{block}.attn.proj")
            inner = affine(norm(h, f"{block}.ln2"), f"{block}.mlp.0")
            h = h + affine(inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2))), f"{block}.mlp.2")
        h = norm(h, "decoder.ln_f")
        rows.append(torch.cat([p[f"decoder.output_parameter_projections.{i}.0.weight"] @ h[i] for i in range(len(chunks))]))
    return torch.stack(rows)


def test_tokens_of_the_papers_cnn() -> None:
    assert chunks_of(LAYERS) == [432, *[576] * 8, 320, 10]
    network = PaperDenoiser(chunks_of(LAYERS), 10, width=32, layers=1)
    assert len(network.position) == 22


@pytest.mark.parametrize(("width", "blocks", "classes", "layers"), [(64, 2, 10, LAYERS), (32, 1, 5, [144, 600, 160, 5])])
def test_same_weights_and_noise_same_output(width: int, blocks: int, classes: int, layers: list[int]) -> None:
    chunks = chunks_of(layers)
    state = checkpoint(width, blocks, classes, chunks)
    network = paper_denoiser(state)
    assert (network.classes, network.chunks, len(network.blocks)) == (classes, chunks, blocks)
    rng = torch.Generator().manual_seed(5)
    x, told = torch.randn(2, sum(layers), generator=rng), torch.randn(2, classes, 512, generator=rng)
    t = torch.tensor([3, 871])
    with torch.no_grad():
        found = network(x, t, told)
    want = reference(state, x, t, told, chunks, blocks, 16)
    assert (found.double() - want).abs().max() < 1e-5 * want.abs().max()


def test_fewer_classes_are_padded_with_zeros() -> None:
    network = PaperDenoiser([6, 4], 3, 8, 16, 1, 2).eval()
    x, t, told = torch.randn(2, 10), torch.tensor([1, 2]), torch.randn(2, 2, 8)
    with torch.no_grad():
        assert torch.equal(network(x, t, told), network(x, t, torch.cat([told, torch.zeros(2, 1, 8)], 1)))


@pytest.mark.parametrize("damage", ["missing", "stranger", "shape", "empty"])
def test_other_checkpoints_are_refused(damage: str, tmp_path: Path) -> None:
    state = checkpoint(32, 1, 2, [6, 4], 8, 4)
    if damage == "missing":
        del state["decoder.blocks.0.mlp.2.weight"]
    elif damage == "stranger":
        state["decoder.something"] = torch.zeros(2)
    elif damage == "shape":
        state["decoder.output_parameter_projections.1.0.weight"] = torch.zeros(5, 32)
    else:
        state = {}
    with pytest.raises(DataError):
        paper_denoiser(state)


def test_a_checkpoint_becomes_a_generator_directory(tina: Tina, tmp_path: Path) -> None:
    chunks = [6, 4]
    state = {"G": checkpoint(32, 1, 2, chunks, 8, 4), "G_ema": checkpoint(32, 1, 2, chunks, 8, 4), "optim": {"state": {}}}
    state["G_ema"]["decoder.pos_emb"] += 1.0
    torch.save(state, tmp_path / "best.pt")
    done = tina("import", tmp_path / "best.pt", "-o", tmp_path / "g", "--json")
    assert done.code == 0 and done.json["source"]["weights"] == "G_ema" and done.json["denoiser"]["classes"] == 2
    opened = open_paper_generator(tmp_path / "g")
    assert torch.equal(opened.network.position, state["G_ema"]["decoder.pos_emb"][0])
    assert tina("import", tmp_path / "best.pt", "-o", tmp_path / "raw", "--raw").code == 0
    raw = open_paper_generator(tmp_path / "raw")
    told = torch.randn(3, 2, 8)
    assert torch.equal(raw.sample(told, steps=5), raw.sample(told, steps=5))
    assert not torch.equal(raw.sample(told, steps=5), raw.sample(told, seed=1, steps=5))
    assert "10 parameters for 2 classes" in tina("inspect", tmp_path / "g").out
    again = tina("import", tmp_path / "best.pt", "-o", tmp_path / "g")
    assert again.code == 1 and "holds a generator" in again.err
    refused = tina("generate", "cats and dogs", "--weights", tmp_path / "g", "-o", tmp_path / "m.safetensors")
    assert refused.code == 1 and "imported checkpoint" in refused.err
    (tmp_path / "g" / "denoiser.safetensors").write_bytes(b"")
    with pytest.raises(GeneratorError, match="damaged"):
        open_paper_generator(tmp_path / "g")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize("content", [b"", b"no checkpoint", {"G": {"a": Evil()}}, {"other": {}}, {"G": {"a": 1}}, [1]])
def test_files_that_are_no_checkpoints(tina: Tina, content: object, tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    failed = tina("import", path, "-o", tmp_path / "g")
    assert failed.code == 1 and failed.err.startswith("error: "), failed.err
    assert not (tmp_path / "g").exists()
    assert tina("import", tmp_path / "absent.pt", "-o", tmp_path / "g").code == 1
