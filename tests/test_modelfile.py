"""The model file, and attacks on its reader."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from tina_cli.errors import ModelFileError
from tina_cli.modelfile import Model, dump_model, read_info, read_model

INFO: dict[str, Any] = {
    "format": 1,
    "classes": [{"name": "cat", "sense": None}, {"name": "dog", "sense": None}],
    "backbone": {"arch": "timm:none", "sha256": "0" * 64, "dim": 4, "preprocess": {}},
    "generator": {"name": "test", "sha256": "0" * 64},
    "seed": 0,
    "sampler": "ddim",
    "steps": 4,
    "temperature": 0.1,
    "threshold": 0.0,
    "expected_accuracy": 0.9,
}


def model(**changes: Any) -> Model:
    return Model(torch.arange(8.0).reshape(2, 4), torch.ones(2), INFO | changes)


def raw(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tensor(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


META = {"tina": json.dumps(INFO)}
GOOD = {"__metadata__": META, "bias": tensor([2], 0, 8), "weight": tensor([2, 4], 8, 40)}


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(dump_model(model()))
    again = read_model(path)
    assert torch.equal(again.weight, model().weight) and torch.equal(again.bias, model().bias)
    assert again.info == INFO and again.classes == ["cat", "dog"]
    assert read_info(path)["tensors"] == {"bias": [2], "weight": [2, 4]}
    assert dump_model(again) == dump_model(model())


def test_plain_safetensors_reads_it(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "m.safetensors"
    path.write_bytes(dump_model(model()))
    with safe_open(path, "pt") as file:
        assert list(file.metadata()) == ["tina"]
        assert torch.equal(file.get_tensor("weight"), model().weight)


def attacks() -> dict[str, tuple[bytes, str]]:
    good = dump_model(model())
    nan = torch.full((2, 4), float("nan"))
    duplicate = b'{"__metadata__":{"tina":"{}"},"bias":1,"bias":2}'
    return {
        "empty": (b"", "no model file"),
        "text": (b"this is no model, whatever its name says", "no model file"),
        "pickle": (pickle.dumps({"weight": [1.0]}), "no model file"),
        "header too long": (struct.pack("<Q", 1 << 60) + b"{}", "no model file"),
        "header is a list": (raw([]), "no model file"),
        "deep header": (raw(b"[" * 100_000), "no model file"),
        "cut short": (good[:-3], "cut short"),
        "cut in the header": (good[:40], "cut short"),
        "longer": (good + b"x", "more bytes"),
        "duplicate tensors": (raw(duplicate), "twice"),
        "not ours": (save({"weight": torch.ones(2, 4)}), "not written by tina"),
        "another format": (dump_model(model(format=2)), "format 2"),
        "description no JSON": (raw({**GOOD, "__metadata__": {"tina": "{"}}, bytes(40)), "damaged"),
        "lacks a key": (raw({**GOOD, "__metadata__": {"tina": '{"format":1}'}}, bytes(40)), "lacks classes"),
        "one class": (dump_model(model(classes=INFO["classes"][:1])), "class names"),
        "the same class twice": (dump_model(model(classes=[INFO["classes"][0]] * 2)), "class names"),
        "temperature": (dump_model(model(temperature=0)), "temperature"),
        "another backbone's width": (dump_model(model(backbone={**INFO["backbone"], "dim": 5})), "does not|not F32"),
        "NaN": (dump_model(Model(nan, torch.ones(2), INFO)), "not finite"),
        "infinity": (dump_model(Model(torch.ones(2, 4), torch.tensor([1.0, float("inf")]), INFO)), "not finite"),
        "half precision": (dump_model(Model(torch.ones(2, 4).half(), torch.ones(2), INFO)), "not F32"),
        "no bias": (raw({"__metadata__": META, "weight": tensor([2, 4], 0, 32)}, bytes(32)), "lacks the tensor bias"),
        "an odd tensor": (raw({**GOOD, "extra": tensor([0], 40, 40)}, bytes(40)), "unexpected tensor"),
        "overlapping tensors": (raw({**GOOD, "weight": tensor([2, 4], 0, 32)}, bytes(32)), "cannot read"),
        "a hole": (raw({**GOOD, "weight": tensor([2, 4], 12, 44)}, bytes(44)), "cannot read"),
        "odd entry": (raw({**GOOD, "bias": {"shape": [2]}}, bytes(40)), "damaged"),
        "odd offsets": (raw({**GOOD, "bias": {**tensor([2], 0, 8), "data_offsets": "ab"}}, bytes(40)), "damaged"),
    }


@pytest.mark.parametrize("name", attacks())
def test_attacks(name: str, tmp_path: Path) -> None:
    data, reason = attacks()[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=reason):
        read_model(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no file"):
        read_info(tmp_path / "none.safetensors")
    with pytest.raises(ModelFileError, match="cannot read"):
        read_info(tmp_path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(place: int, value: int, tmp_path: Path) -> None:
    data = bytearray(dump_model(model()))
    data[place % len(data)] = value
    path = tmp_path / "changed.safetensors"
    path.write_bytes(data)
    try:
        found = read_model(path)
    except ModelFileError as error:
        assert error.message
    else:
        assert found.weight.shape == (2, 4) and torch.isfinite(found.weight).all()
