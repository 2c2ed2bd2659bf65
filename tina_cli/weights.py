"""WEIGHTS: where a generator directory is, and what its description says. Loads no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tina_cli.errors import DataError, GeneratorError
from tina_cli.files import read_json, sha256

FORMAT = 1
INFO = "generator.json"
TRUNK = "trunk.safetensors"  # an image trunk that is no CLIP's


def embedded_weights() -> Path:
    """Return the folder of the generator that comes with the package."""
    inside = Path(__file__).parent / "embedded" / "tina-mini"  # in a wheel
    return inside if inside.is_dir() else Path(__file__).parent.parent / "weights" / "tina-mini"


def find_generator(weights: str | None) -> Path:
    """Return the folder for `None` (the embedded one), a path, or `hf-hub:OWNER/NAME`; raises `GeneratorError`."""
    if weights is None:
        return embedded_weights()
    if weights.startswith("hf-hub:"):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

        try:
            return Path(snapshot_download(weights.removeprefix("hf-hub:")))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise GeneratorError(
                f"cannot fetch {weights}: {reason}", hint="is the network there, and the name right?"
            ) from error
    return Path(weights)


def read_generator_info(folder: Path) -> dict[str, Any]:
    """Read a generator's description; raises `GeneratorError`."""
    try:
        info = read_json(folder / INFO)
    except DataError as error:
        raise GeneratorError(error.message, hint="is the generator complete?") from error
    if not isinstance(info, dict) or info.get("format") != FORMAT:
        raise GeneratorError(f"{folder / INFO} is of another format", hint="upgrade tina, or train the generator again")
    return info


def check_files(folder: Path, info: dict[str, Any]) -> None:
    """Check the hash of every file of a generator; raises `GeneratorError`."""
    for name, wanted in info["files"].items():
        try:
            found = sha256(folder / name)
        except DataError as error:
            raise GeneratorError(f"the generator {folder} lacks {name}", hint="copy or fetch it again") from error
        if found != wanted:
            raise GeneratorError(f"{folder / name} is damaged: its SHA-256 is not the recorded one", hint="fetch it again")
