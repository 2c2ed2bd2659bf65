"""`tina export`: a model file -> one ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tina_cli import options
from tina_cli.console import result, result_json
from tina_cli.errors import UsageError
from tina_cli.files import check_writable, write_atomic


def export(
    model: Annotated[Path, typer.Argument(help="A model file, as `tina generate` writes it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The ONNX file to write.")] = Path("model.onnx"),
    weights: options.Weights = None,
    force: options.Force = False,
    json: options.Json = False,
) -> None:
    """Export a model with its backbone as one ONNX file: RGB pictures from 0 to 1 in, probabilities out."""
    if output.suffix != ".onnx":
        raise UsageError(f"{output} does not end in .onnx")
    check_writable(output, force)
    from tina_cli.modelfile import read_info

    read_info(model)
    from tina_cli.export import to_onnx
    from tina_cli.prediction import load_classifier

    classifier = load_classifier(model, weights, "cpu")
    data = to_onnx(classifier)
    write_atomic(output, data)
    if json:
        result_json({"schema": "tina/export/1", "output": str(output), "bytes": len(data)})
    else:
        result(f"{output}: {len(data) / 1e6:.1f} MB")
