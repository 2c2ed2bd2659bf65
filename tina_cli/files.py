"""Bytes on disk: atomic writes that honour umask and links, hashes, canonical JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

from tina_cli.errors import DataError, OutputError


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old bytes or the new ones, never a part; raises `OutputError`.

    The new file gets the mode that umask asks for (`tempfile` alone leaves 0600), and a link is written through. What is
    there and no file, such as a pipe or /dev/null, is written into.
    """
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise OutputError(f"cannot write to {path.parent}: {error.strerror}", hint="choose another place with -o") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        os.replace(name, target)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise OutputError(f"cannot write {path}: {error.strerror}", hint="choose another place with -o") from error
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_writable(path: Path, force: bool) -> None:
    """Raise `OutputError` where a result could not be written to `path`, before any work is done for it."""
    try:
        there = path.stat()
    except FileNotFoundError:
        there = None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise OutputError(f"cannot write to {path}: {reason}", hint="choose another place with -o") from error
    if there and stat.S_ISDIR(there.st_mode):
        raise OutputError(f"{path} is a folder", hint="name a file with -o")
    if there and stat.S_ISREG(there.st_mode) and not force:
        raise OutputError(f"{path} exists", hint="add --force to overwrite it, or name another file with -o")
    if not path.parent.is_dir():
        raise OutputError(f"there is no folder {path.parent}", hint="create it first, or name another file with -o")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} cannot be written to", hint="choose another place with -o")


def make_folder(folder: Path) -> None:
    """Make a folder for results, where it is not there; raises `OutputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}", hint="choose another place with -o") from error


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file; raises `DataError` where it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


def finite(value: Any) -> Any:
    """Return a JSON value with every NaN and infinity as null."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def canonical_json(value: Any) -> str:
    """Return one line of JSON: the same value, the same bytes."""
    return json.dumps(finite(value), ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def pretty_json(value: Any) -> str:
    """Return indented JSON for files that people read."""
    return json.dumps(finite(value), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file; raises `DataError` where it is missing or no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error


def digest(value: Any) -> str:
    """Return a short hash of a JSON value: the name of what is made from it."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]
