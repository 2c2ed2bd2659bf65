"""`tina predict`: a model and pictures -> labels."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tina_cli import options
from tina_cli.console import fail, result, result_line
from tina_cli.errors import ImageError, TinaError


def predict(
    model: Annotated[Path, typer.Argument(help="A model file, as `tina generate` writes it.")],
    image: Annotated[list[Path], typer.Argument(help="Pictures, folders of pictures, or - for one on standard input.")],
    weights: options.Weights = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Classify pictures: the label and its probability, one line each; "?" marks what may be none of the classes."""
    from tina_cli.modelfile import read_info

    read_info(model)  # before torch is loaded
    from tina_cli.images import expand
    from tina_cli.prediction import load_classifier

    paths: list[tuple[Path, ImageError | None]] = []
    for path in image:
        try:
            paths += [(part, None) for part in ([path] if str(path) == "-" else expand([path]))]
        except ImageError as error:  # it costs the others nothing
            paths.append((path, error))
    files = [path for path, missing in paths if str(path) != "-" and not missing]
    classifier = load_classifier(model, weights, device).fast(len(files))
    failed = 0
    outcomes = classifier.each(files)
    for path, missing in paths:
        try:
            outcome = missing or (classifier(sys.stdin.buffer.read()) if str(path) == "-" else next(outcomes))
            if isinstance(outcome, ImageError):
                raise outcome
        except ImageError as error:
            failed += 1
            fail(error.message, error.hint)
            if json:
                result_line({"image": str(path), "error": error.message})
            continue
        if json:
            result_line(asdict(outcome))
        else:
            doubt = "  ?" if outcome.unsure else ""
            result(f"{outcome.image}\t{outcome.label}\t{outcome.probabilities[outcome.label]:.3f}{doubt}")
    if failed:
        raise TinaError(f"{failed} of {len(paths)} pictures could not be read")
