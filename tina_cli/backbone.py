"""BACKBONE: pictures -> unit features [n, D], by a frozen image trunk."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import normalize

from tina_cli.config import Preprocess, from_dict
from tina_cli.device import knows_bfloat16, prepare_torchvision, quiet_logging
from tina_cli.errors import GeneratorError, ModelFileError
from tina_cli.files import read_json, sha256
from tina_cli.images import batches
from tina_cli.resnet import ResNet20

TRUNK_PREFIX = "visual.trunk."
PROJECTION = "visual.head.proj.weight"
LOCAL = "open_clip-folder"  # a tower that only its folder can rebuild


@dataclass(frozen=True)
class BackboneSpec:
    """What a head needs to know of the backbone it was made for."""

    arch: str  # "timm:NAME", "open_clip:NAME" or "tina:resnet20"
    sha256: str
    dim: int
    preprocess: Preprocess

    def to_json(self) -> dict[str, Any]:
        """Return the spec as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Any) -> BackboneSpec:
        """Read a spec from JSON values; raises `ModelFileError`."""
        try:
            how = from_dict(Preprocess, values["preprocess"], "the backbone's preprocessing")
            return cls(str(values["arch"]), str(values["sha256"]), int(values["dim"]), how)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"the backbone's description is damaged: {error!r}") from error


@dataclass(frozen=True)
class Backbone:
    """A frozen trunk on a device."""

    spec: BackboneSpec
    module: nn.Module
    device: torch.device
    own: Mapping[str, Tensor] | None = None  # its weights, where no CLIP holds them
    dtype: torch.dtype = torch.float32
    layout: torch.memory_format = torch.channels_last  # which the module is the fastest on

    @torch.inference_mode()
    def features(self, pictures: Tensor) -> Tensor:
        """Return the unit features of preprocessed pictures [n, 3, s, s]: [n, D], float32, on the CPU."""
        batch = pictures.to(self.device, self.dtype, memory_format=self.layout)
        return normalize(self.module(batch).float(), dim=-1).cpu()

    def at(self, precision: str) -> Backbone:
        """Return the same trunk at another precision: `float32`, or `bfloat16` where the device is the faster for it."""
        if precision == "float32" or not knows_bfloat16(self.device):
            return self
        return replace(self, module=copy.deepcopy(self.module).to(torch.bfloat16), dtype=torch.bfloat16)

    def read(self, paths: Sequence[Path], batch: int = 16, tick: Callable[[int], None] | None = None) -> Tensor:
        """Return the unit features of picture files, [n, D]; raises `ImageError`."""
        out = []
        for pictures in batches(paths, self.spec.preprocess, batch, workers=os.cpu_count() or 1):
            out.append(self.features(pictures))
            if tick:
                tick(len(pictures))
        return torch.cat(out) if out else torch.zeros(0, self.spec.dim)


def weights_sha256(state: dict[str, Tensor]) -> str:
    """Return a hash of tensors that does not depend on the file they are kept in."""
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        total.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def build_trunk(arch: str) -> Any:
    """Build an untrained trunk by its name; raises `ModelFileError` where no library knows it."""
    prepare_torchvision()
    library, _, name = arch.partition(":")
    try:
        if library == "timm":
            import timm

            trunk = timm.create_model(name, pretrained=False)
            trunk.reset_classifier(0)
            return trunk
        if library == "open_clip":
            import open_clip

            return open_clip.create_model(name, pretrained=None).visual
        if arch == "tina:resnet20":
            return ResNet20()
    except RuntimeError as error:
        raise ModelFileError(f"unknown backbone {arch!r}: {error}") from error
    raise ModelFileError(f"the backbone {arch!r} cannot be built from its name", hint="use the generator it came from")


def with_weights(spec: BackboneSpec, state: dict[str, Tensor], device: torch.device, where: str) -> Backbone:
    """Build the backbone of a spec with its weights; raises `ModelFileError` where they are not the spec's."""
    if weights_sha256(state) != spec.sha256:
        raise ModelFileError(f"the backbone in {where} is damaged or another one", hint="its SHA-256 does not match")
    module = build_trunk(spec.arch)
    module.load_state_dict(state)
    module = fold_batch_norms(module.float().eval()).to(device)
    return Backbone(spec, module.to(memory_format=torch.channels_last), device)


def fold_batch_norms(module: Any) -> Any:
    """Fold every batch norm into the convolution registered just before it, in place: the same function, 1.4 times as fast.

    What timm's normalisation layers do besides, dropping and activating, stays where it was.
    """
    for parent in list(module.modules()):
        before: tuple[str, nn.Conv2d] | None = None
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and before and before[1].out_channels == child.num_features:
                setattr(parent, before[0], nn.utils.fuse_conv_bn_eval(before[1], child))
                setattr(parent, name, nn.Sequential(*(part for part in child.children() if not isinstance(part, nn.Identity))))
            before = (name, child) if isinstance(child, nn.Conv2d) else None
    return module


def clip_weights(folder: Path) -> Path:
    """Return the weight file of an open_clip folder; raises `GeneratorError` where there is none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files or not (folder / "open_clip_config.json").is_file():
        raise GeneratorError(f"{folder} is no open_clip folder", hint="it needs open_clip_config.json and a .safetensors file")
    return files[0]


def clip_tensors(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Return the tensors of an open_clip folder whose names start so, without the prefix; raises `GeneratorError`."""
    path = clip_weights(folder)
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name.removeprefix(prefix): file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise GeneratorError(f"cannot read {path}: {error}", hint="is the generator complete?") from error


def has_linear_head(folder: Path) -> bool:
    """Say whether a CLIP's image tower is a timm trunk and a matrix; heads are then made for the trunk's features."""
    config = read_json(folder / "open_clip_config.json")["model_cfg"]["vision_cfg"]
    return "timm_model_name" in config and config.get("timm_proj") == "linear"


def clip_projection(folder: Path) -> Tensor | None:
    """Return the matrix [d, D] from features to the CLIP's vectors; None where features are these vectors."""
    return clip_tensors(folder, PROJECTION)[""].float() if has_linear_head(folder) else None


def clip_backbone(folder: Path, device: torch.device) -> Backbone:
    """Load the image tower of an open_clip folder; raises `GeneratorError`."""
    weights = clip_weights(folder)
    if not has_linear_head(folder):
        prepare_torchvision()
        import open_clip

        with quiet_logging():
            model = open_clip.create_model(f"local-dir:{folder}")
        return tower_backbone(f"{LOCAL}:{sha256(weights)[:12]}", model.visual, device)
    config = read_json(folder / "open_clip_config.json")
    values = config["preprocess_cfg"]
    how = Preprocess(
        size=int(config["model_cfg"]["vision_cfg"]["image_size"]),
        mean=tuple(values["mean"]),
        std=tuple(values["std"]),
        interpolation=values["interpolation"],
        sharpen_below=int(config.get("tina", {}).get("sharpen_below", 0)),  # open_clip knows no such thing
    )
    arch = f"timm:{config['model_cfg']['vision_cfg']['timm_model_name']}"
    state = clip_tensors(folder, TRUNK_PREFIX)
    spec = BackboneSpec(arch, weights_sha256(state), int(build_trunk(arch).num_features), how)
    return with_weights(spec, state, device, str(folder))


def tower_backbone(arch: str, visual: Any, device: torch.device) -> Backbone:
    """Return an open_clip image tower as a backbone; its features are the CLIP's own image vectors."""
    values = visual.preprocess_cfg
    size = values["size"] if isinstance(values["size"], int) else values["size"][0]
    how = Preprocess(int(size), tuple(values["mean"]), tuple(values["std"]), values["interpolation"])
    spec = BackboneSpec(arch, weights_sha256(visual.state_dict()), int(visual.output_dim), how)
    return Backbone(spec, visual.eval().to(device), device)
