"""GENERATOR WRITER: what a training made -> a generator directory (training only)."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from tina_cli.calibration import Calibration
from tina_cli.codec import Spread
from tina_cli.files import pretty_json, sha256, write_atomic
from tina_cli.lexicon import Lexicon
from tina_cli.ridge import KernelRidge
from tina_cli.weights import FORMAT, INFO, TRUNK
from tina_cli.words import FILE as WORDS


@dataclass(frozen=True)
class Own:
    """An image trunk that no CLIP came with: its weights, and the matrix [d, D] from its features to text conditions."""

    trunk: Mapping[str, Tensor]
    projection: Tensor


def write_generator(
    folder: Path,
    info: dict[str, Any],
    prior: KernelRidge,
    spread: Spread,
    feature_mean: Tensor,
    denoiser_state: dict[str, Tensor],
    calibration: Calibration,
    lexicon: Lexicon,
    clip_folder: Path | None,
    words: Path | None,
    own: Own | None = None,
) -> None:
    """Write a generator directory; its description, with the hashes of all else, is written last."""
    folder.mkdir(parents=True, exist_ok=True)
    known = {
        "prior.mean": prior.mean,
        "prior.keys": prior.keys.half(),
        "prior.dual": prior.dual.half(),
        "prior.noise": prior.noise,
        "spread.basis": spread.basis.half(),
        "spread.floor": torch.tensor(spread.floor),
        "feature_mean": feature_mean,
    }
    if own is not None:
        known["projection"] = own.projection.half()
        write_atomic(folder / TRUNK, save(dict(own.trunk)))
    write_atomic(folder / "known.safetensors", save({k: v.contiguous() for k, v in known.items()}))
    halves = {name: value.cpu().half().contiguous() for name, value in denoiser_state.items()}
    write_atomic(folder / "denoiser.safetensors", save(halves))
    write_atomic(folder / "lexicon.gz", lexicon.dump())
    if words is not None and words.resolve() != (folder / WORDS).resolve():
        shutil.copyfile(words, folder / WORDS)
    if clip_folder is not None and clip_folder.resolve() != (folder / "clip").resolve():
        (folder / "clip").mkdir(exist_ok=True)
        for path in sorted(clip_folder.iterdir()):
            shutil.copyfile(path, folder / "clip" / path.name)
    names: Sequence[Path] = [p for p in folder.rglob("*") if p.suffix in (".safetensors", ".gz") or "clip" in p.parts[:-1]]
    names = sorted(p for p in names if p.is_file())
    files = {path.relative_to(folder).as_posix(): sha256(path) for path in names}
    whole = {"format": FORMAT, **info, "calibration": asdict(calibration), "files": files}
    write_atomic(folder / INFO, pretty_json(whole).encode())
