"""Configuration: frozen dataclasses read from TOML recipes, unknown keys refused."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from tina_cli.errors import UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Preprocess:
    """What is done to a picture before a backbone sees it."""

    size: int = 224
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    interpolation: str = "bicubic"
    sharpen_below: int = 0  # pictures whose shorter side has fewer pixels than this are sharpened once they are enlarged


@dataclass(frozen=True)
class ClipStage:
    """The small CLIP's text tower, and how it is trained."""

    width: int = 192
    layers: int = 4
    heads: int = 6
    context_length: int = 32
    batch: int = 256
    steps: int = 0  # 0 takes the embedded CLIP
    cycles: int = 1  # of the learning rate
    lr: float = 2e-3
    teacher_gamma: float = 2.0
    teacher_noise: float = 0.03
    view_weights: tuple[float, ...] = (0.2, 0.2, 0.2, 0.15, 0.1, 0.5)
    described_share: float = 0.5  # of a batch: nouns with a description, the commonest
    projection_noise: float = 0.001


@dataclass(frozen=True)
class TrunkStage:
    """The ResNet-20 of `--backbone resnet20`, trained on the run's own pictures."""

    size: int = 32
    steps: int = 2000
    batch: int = 128
    lr: float = 3e-3


@dataclass(frozen=True)
class FeatureStage:
    """Which pictures become features, in which portions."""

    max_per_class: int = 500
    test_share: float = 0.2
    tune_share: float = 0.25  # of the rest: pictures that no row is fitted on, for what is learned about rows
    shard: int = 1024
    batch: int = 16
    precision: str = "float32"  # or "bfloat16", taken where the device is the faster for it


@dataclass(frozen=True)
class ZooStage:
    """The generic rows, the held-out classes, and the p-Models fine-tuned on tasks."""

    tasks: int = 2000
    heldout_tasks: int = 200
    min_classes: int = 2
    max_classes: int = 50
    heldout_share: float = 0.0  # of the classes with pictures: kept out of everything, to measure unseen classes
    heldout_kinds: tuple[str, ...] = ()
    kinds: int = 0  # known words with so many classes below them or more become concepts too; 0 for none
    imagenet: bool = False
    generic_steps: int = 300
    pictures: int = 12
    min_pictures: int = 4
    steps: int = 30
    lr: float = 0.02
    pull: float = 1.0
    scale: float = 16.0
    shard: int = 250


@dataclass(frozen=True)
class DenoiserStage:
    """The denoiser's shape, its diffusion and its training."""

    width: int = 256
    layers: int = 3
    heads: int = 4
    timesteps: int = 1000
    gamma: float = 3.0
    noise: float = 0.15  # of rows known before: the trunk's own, or the embedded generator's
    fitted_noise: float = 0.2  # of rows fitted on the run's pictures
    kinds_noise: float = 1.0  # of the rows of kinds
    own: float = 0.65  # share of these noises that is no error, but what a class has to itself
    steps: int = 3000
    batch: int = 24
    lr: float = 1e-3
    pictures: int = 3
    distance: float = 0.05
    condition_noise: float = 0.5  # its length, beside conditions of length 1
    groups: int = 120
    calibration_tasks: int = 600
    sample_steps: int = 4
    strength: float = 0.3


@dataclass(frozen=True)
class Recipe:
    """Every number of a training run."""

    name: str = "default"
    seed: int = 0
    clip: ClipStage = field(default_factory=ClipStage)
    trunk: TrunkStage = field(default_factory=TrunkStage)
    features: FeatureStage = field(default_factory=FeatureStage)
    zoo: ZooStage = field(default_factory=ZooStage)
    denoiser: DenoiserStage = field(default_factory=DenoiserStage)


def from_dict(kind: type[T], values: dict[str, Any], where: str) -> T:
    """Build a config dataclass from a dict; raises `UsageError` for unknown keys and wrong types."""
    known = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    built: dict[str, Any] = {}
    defaults = kind()
    for key, value in values.items():
        if key not in known:
            raise UsageError(f"unknown key {key!r} in {where}", hint=f"known: {', '.join(known)}")
        default = getattr(defaults, key)
        if dataclasses.is_dataclass(default):
            if not isinstance(value, dict):
                raise UsageError(f"{key!r} in {where} must be a table")
            built[key] = from_dict(type(default), value, f"[{key}] of {where}")
            continue
        if isinstance(default, tuple) and isinstance(value, list):
            value = tuple(value)
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise UsageError(f"{key!r} in {where} must be of type {type(default).__name__}, not {value!r}")
        built[key] = value
    return kind(**built)


def load_recipe(name: str) -> Recipe:
    """Load a training's recipe shipped under `recipes/` by its name, or a TOML file by its path; raises `UsageError`."""
    return read_recipe(Recipe, name, "recipes")


def read_recipe(kind: type[T], name: str, folder: str) -> T:
    """Read a recipe of any kind, shipped in a folder of the package, by name, or a TOML file; raises `UsageError`."""
    inside = resources.files("tina_cli") / folder
    path = Path(name)
    source: Any = path if path.suffix == ".toml" else inside / f"{name}.toml"
    if not source.is_file():
        names = sorted(p.name.removesuffix(".toml") for p in inside.iterdir())
        raise UsageError(f"there is no recipe {name}", hint=f"a .toml file, or one of {', '.join(names)}")
    try:
        values = tomllib.loads(source.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the recipe {name} is not TOML: {error}") from error
    return from_dict(kind, values, f"the recipe {name}")
