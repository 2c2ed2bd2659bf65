"""Pictures: finding them, opening them safely, and the preprocessing that every backbone gets."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageFile, ImageFilter, ImageOps, UnidentifiedImageError
from torch import Tensor
from torch.nn.functional import interpolate

from tina_cli.config import Preprocess
from tina_cli.errors import DataError, ImageError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm"})
MAX_PIXELS = 100_000_000
SHARPEN = ImageFilter.UnsharpMask(radius=3, percent=80, threshold=0)  # of those tried on 32 px training pictures the best

DAMAGE = (struct.error, TypeError, LookupError, ArithmeticError)  # what Pillow lets through of damaged metadata

Image.MAX_IMAGE_PIXELS = None  # our own limit, below, is an error and not a warning
ImageFile.LOAD_TRUNCATED_IMAGES = False


def open_image(source: Path | BinaryIO, draft: int = 0) -> Image.Image:
    """Open a picture as upright RGB, transparency on white; raises `ImageError`.

    `draft` is a shorter side in pixels that is enough: large JPEGs are then decoded smaller, which is much faster.
    """
    name = source if isinstance(source, Path) else "standard input"
    try:
        with Image.open(source, formats=FORMATS) as file:
            if file.width * file.height > MAX_PIXELS:
                size = f"{file.width} x {file.height} pixels"
                raise ImageError(f"{name} has {size}", hint=f"at most {MAX_PIXELS // 10**6} million")
            if draft and file.format == "JPEG":
                file.draft("RGB", (2 * draft, 2 * draft))
            return to_rgb(upright(file))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is no picture", hint=f"known formats: {', '.join(FORMATS)}") from None
    except (OSError, SyntaxError, ValueError, EOFError, *DAMAGE) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ImageError(f"cannot read the picture {name}: {reason}") from error


def upright(image: Image.Image) -> Image.Image:
    """Return a picture turned as its EXIF data say; as it is where they are damaged."""
    try:
        return ImageOps.exif_transpose(image)
    except DAMAGE:
        return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a picture of any mode as RGB, transparency on white; greys of unknown depth are scaled to their largest value."""
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        values = np.asarray(image, dtype=np.float32)
        white = 65535.0 if image.mode.startswith("I;16") else max(1.0, float(values.max()))
        image = Image.fromarray((values / white * 255).astype(np.uint8))
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return image.convert("RGB")


def preprocess(image: Image.Image, how: Preprocess) -> Tensor:
    """Resize the shorter side to `how.size`, sharpen what was tiny, crop the middle, normalise: [3, size, size], float32."""
    size, shorter = how.size, min(image.size)
    scale = size / shorter
    wide, high = (max(size, round(side * scale)) for side in image.size)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # [3, H, W]
    # What Pillow's resize gives, but for a level or two of 255, in a third of the time.
    pixels = interpolate(pixels[None], (high, wide), mode=how.interpolation, antialias=True)[0]
    if shorter < how.sharpen_below:
        sharp = Image.fromarray(pixels.permute(1, 2, 0).numpy()).filter(SHARPEN)
        pixels = torch.from_numpy(np.array(sharp)).permute(2, 0, 1)
    left, top = (wide - size) // 2, (high - size) // 2
    middle = pixels[:, top : top + size, left : left + size].contiguous()  # while it is bytes: what follows is faster then
    mean, std = (torch.tensor(values)[:, None, None] for values in (how.mean, how.std))
    return middle.float().mul_(1 / (255 * std)).sub_(mean / std)


def load_image(source: Path | BinaryIO, how: Preprocess) -> Tensor:
    """Open and preprocess one picture: [3, size, size]; raises `ImageError`."""
    return preprocess(open_image(source, draft=how.size), how)


def load_bytes(data: bytes, how: Preprocess) -> Tensor:
    """Open and preprocess a picture given as bytes; raises `ImageError`."""
    return load_image(io.BytesIO(data), how)


def batches(paths: Sequence[Path], how: Preprocess, size: int, workers: int) -> Iterator[Tensor]:
    """Yield pictures in batches [<= size, 3, s, s] in order, decoded ahead by threads; raises `ImageError`."""
    with ThreadPoolExecutor(workers) as pool:
        pending = iter(paths)
        ahead = [pool.submit(load_image, path, how) for path in islice(pending, 3 * size)]
        while ahead:
            now, ahead = ahead[:size], ahead[size:]
            ahead += [pool.submit(load_image, path, how) for path in islice(pending, size)]
            yield torch.stack([future.result() for future in now])


def is_image_name(path: Path) -> bool:
    """Say whether a file's name is that of a picture."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """Return the pictures directly in a folder or below it, sorted."""
    found = (Path(root, name) for root, _, names in os.walk(folder) for name in names)
    return sorted(path for path in found if is_image_name(path))


def expand(paths: Iterable[Path]) -> list[Path]:
    """Return files as they are and folders as the pictures in them; raises `ImageError` where there is none."""
    out: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = list_images(path)
            if not inside:
                raise ImageError(f"there is no picture in {path}")
            out += inside
        elif path.exists():
            out.append(path)
        else:
            raise ImageError(f"there is no file {path}")
    return out


def read_classes(folder: Path) -> dict[str, list[Path]]:
    """Read a folder of classes, one subfolder each: name -> pictures. Raises `DataError` where there is none."""
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}")
    classes = {sub.name: list_images(sub) for sub in sorted(folder.iterdir()) if sub.is_dir() and sub.name[0] != "."}
    classes = {name: pictures for name, pictures in classes.items() if pictures}
    if not classes:
        raise DataError(f"{folder} has no subfolders with pictures", hint="expected FOLDER/<class name>/*.jpg")
    return classes
