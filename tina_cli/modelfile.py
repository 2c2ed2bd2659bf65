"""MODEL FILE: a generated classifier as one safetensors file, read with every check that safetensors leaves out."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tina_cli.errors import ModelFileError
from tina_cli.files import canonical_json

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
KEY = "tina"
MAX_HEADER = 4 * 1024 * 1024
MAX_FILE = 2 * 1024**3
REQUIRED = ("format", "classes", "backbone", "generator", "seed", "sampler", "steps", "temperature", "threshold")
NOT_OURS = "expected a file written by `tina generate`"


@dataclass(frozen=True)
class Model:
    """A classifier: `weight [K, D]` and `bias [K]` over unit features, its description, and perhaps its backbone."""

    weight: Tensor
    bias: Tensor
    info: dict[str, Any]
    backbone: dict[str, Tensor] = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Return the class names, in the order of the rows."""
        return [entry["name"] for entry in self.info["classes"]]


def dump_model(model: Model) -> bytes:
    """Return the bytes of a model file: the same model, the same bytes (one metadata key, canonical JSON)."""
    from safetensors.torch import save

    tensors = {"weight": model.weight.contiguous(), "bias": model.bias.contiguous()}
    tensors |= {f"backbone.{name}": value.contiguous() for name, value in model.backbone.items()}
    return save(tensors, metadata={KEY: canonical_json(model.info)})


def read_info(path: Path) -> dict[str, Any]:
    """Read a model file's description and the shapes of its tensors, without torch; raises `ModelFileError`."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise ModelFileError(f"{path} is no model file, or is cut short", hint=NOT_OURS)
            header = json.loads(file.read(length), object_pairs_hook=_unique)
    except FileNotFoundError:
        raise ModelFileError(f"there is no file {path}") from None
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ModelFileError(f"{path} is no model file", hint=NOT_OURS) from None
    except _Repeated as error:
        raise ModelFileError(f"{path} names {error} twice", hint="the file is damaged") from None
    if not isinstance(header, dict):
        raise ModelFileError(f"{path} is no model file", hint=NOT_OURS)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not isinstance(metadata.get(KEY), str):
        raise ModelFileError(f"{path} was not written by tina", hint=NOT_OURS)
    try:
        info = json.loads(metadata[KEY], object_pairs_hook=_unique)
    except (json.JSONDecodeError, RecursionError, _Repeated):
        raise ModelFileError(f"the description in {path} is damaged") from None
    _check_info(info, path)
    end = _check_tensors(header, info, path)
    if 8 + length + end != size:
        raise ModelFileError(f"{path} is cut short or has more bytes than it says", hint="write or fetch it again")
    return {**info, "tensors": {name: entry["shape"] for name, entry in sorted(header.items())}}


def is_bundled(info: dict[str, Any]) -> bool:
    """Say whether a model file has its backbone inside, by what `read_info` found."""
    return any(name.startswith("backbone.") for name in info["tensors"])


def read_model(path: Path) -> Model:
    """Read a model file with all its checks; raises `ModelFileError`."""
    info = read_info(path)
    if path.stat().st_size > MAX_FILE:
        raise ModelFileError(f"{path} is larger than {MAX_FILE} bytes")
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"cannot read {path}: {error}") from error
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelFileError(f"{name!r} in {path} has numbers that are not finite")
    info.pop("tensors")
    backbone = {n.removeprefix("backbone."): v for n, v in tensors.items() if n.startswith("backbone.")}
    return Model(tensors["weight"], tensors["bias"], info, backbone)


class _Repeated(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in pairs:
        if key in out:
            raise _Repeated(repr(key))
        out[key] = value
    return out


def _check_info(info: Any, path: Path) -> None:
    if not isinstance(info, dict) or "format" not in info:
        raise ModelFileError(f"the description in {path} is damaged")
    if info["format"] != FORMAT:
        raise ModelFileError(f"{path} has format {info['format']}, this tina reads {FORMAT}", hint="upgrade tina")
    missing = [key for key in REQUIRED if key not in info]
    if missing:
        raise ModelFileError(f"the description in {path} lacks {', '.join(missing)}")
    classes = info["classes"]
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in classes] if isinstance(classes, list) else []
    if len(names) < 2 or not all(isinstance(name, str) and name for name in names) or len(set(names)) != len(names):
        raise ModelFileError(f"the class names in {path} are damaged")
    temperature = info["temperature"]
    if type(temperature) not in (int, float) or not temperature > 0:
        raise ModelFileError(f"the temperature in {path} is not above zero")
    if not isinstance(info["backbone"], dict) or type(info["backbone"].get("dim")) is not int:
        raise ModelFileError(f"the backbone's description in {path} is damaged")


def _check_tensors(header: dict[str, Any], info: dict[str, Any], path: Path) -> int:
    """Check names, dtypes and shapes; return where the last tensor ends."""
    count, dim = len(info["classes"]), info["backbone"]["dim"]
    wanted = {"weight": [count, dim], "bias": [count]}
    end = 0
    for name, entry in header.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ModelFileError(f"the tensor {name!r} in {path} is damaged")
        if name not in wanted and not re.fullmatch(r"backbone\.[\w.]+", name):
            raise ModelFileError(f"{path} has an unexpected tensor {name!r}")
        if name in wanted and (entry["dtype"] != "F32" or entry["shape"] != wanted[name]):
            raise ModelFileError(
                f"{name!r} in {path} is {entry['dtype']} {entry['shape']}, not F32 {wanted[name]}",
                hint="the head does not fit its classes and backbone",
            )
        offsets = entry["data_offsets"]
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(place) is int for place in offsets):
            raise ModelFileError(f"the tensor {name!r} in {path} is damaged")
        end = max(end, offsets[1])
    if missing := sorted(set(wanted) - set(header)):
        raise ModelFileError(f"{path} lacks the tensor {', '.join(missing)}")
    return end
