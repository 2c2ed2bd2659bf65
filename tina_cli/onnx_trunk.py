"""ONNX TRUNK: a frozen trunk run by onnxruntime, on a CPU more than twice as fast as torch runs it.

The file is made once for a trunk and kept in the user's cache directory under the trunk's hash.
"""

from __future__ import annotations

import importlib.util
import logging
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from torch import Tensor

from tina_cli.backbone import Backbone
from tina_cli.errors import DataError
from tina_cli.files import write_atomic

NEEDED = ("onnx", "onnxscript")
MANY = 500  # pictures that are worth the half minute in which onnxruntime's file is made, once


class OnnxTrunk:
    """A trunk as a session of onnxruntime: pictures [n, 3, s, s] -> features [n, D]."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def __call__(self, pictures: Tensor) -> Tensor:
        """Return the features."""
        [features] = self.session.run(None, {"pictures": pictures.contiguous().numpy()})
        return torch.from_numpy(features)


def can_run() -> bool:
    """Say whether the packages for it are installed."""
    return all(importlib.util.find_spec(name) for name in (*NEEDED, "onnxruntime"))


def fastest(backbone: Backbone, pictures: int) -> Backbone:
    """Return the trunk run in the fastest way for so many pictures; features agree to five digits."""
    slow = backbone.device.type == "cpu" and backbone.dtype == torch.float32
    return with_onnx(backbone) if pictures >= MANY and slow and can_run() else backbone


def with_onnx(backbone: Backbone) -> Backbone:
    """Return the same trunk, run by onnxruntime."""
    path = user_cache_path("tina") / "onnx" / f"{backbone.spec.sha256}.onnx"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        model = to_onnx_model(backbone.module, backbone.spec.preprocess.size, "features")
        write_atomic(path, model.SerializeToString())
    return replace(backbone, module=OnnxTrunk(path), layout=torch.contiguous_format)  # type: ignore[arg-type]


def to_onnx_model(module: Any, size: int, output: str) -> Any:
    """Return a module of pictures [n, 3, size, size] as an ONNX model; raises `DataError` where the packages are missing."""
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise DataError(f"export needs {' and '.join(missing)}", hint='pip install "tina-cli[export]"')
    import onnx

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            module.eval(),
            (torch.zeros(2, 3, size, size),),
            path,
            input_names=["pictures"],
            output_names=[output],
            dynamic_shapes=({0: torch.export.Dim("n")},),
            external_data=False,
            verbose=False,
            dynamo=True,
        )
        return onnx.load(path)
