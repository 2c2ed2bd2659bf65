"""torch on this machine: importing torchvision safely, choosing a device."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from tina_cli.errors import DeviceError

_libraries: list[torch.library.Library] = []


def prepare_torchvision() -> bool:
    """Make `import torchvision` work beside a torch it was not built for; say whether its own operators loaded.

    torchvision's wheels expect a CUDA torch: beside a CPU build their extension does not load and the import ends with
    "operator torchvision::nms does not exist". Its Python transforms need only the operators' names.
    """
    if _libraries:
        return False
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return False
    for location in spec.submodule_search_locations:
        for extension in sorted(Path(location).glob("_C*.*")):
            try:
                torch.ops.load_library(extension)
                return True
            except OSError:
                continue
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _libraries.append(library)  # the definitions live as long as this object
    return False


def knows_bfloat16(device: torch.device) -> bool:
    """Say whether a device is faster in bfloat16 than in single precision: a processor without AVX-512 is 10 times slower."""
    return device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")


@contextmanager
def quiet_logging() -> Iterator[None]:
    """Keep libraries that log their doings to the root logger from writing on a user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def choose_device(name: str = "auto") -> torch.device:
    """Return the device for `auto`, `cpu`, `cuda[:n]` or `mps`; raises `DeviceError` where it is not there."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"unknown device {name!r}", hint="one of auto, cpu, cuda, cuda:N, mps") from None
    counts = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= counts.get(device.type, 0):
        raise DeviceError(f"there is no device {name!r} here", hint="use --device auto or --device cpu")
    return device
