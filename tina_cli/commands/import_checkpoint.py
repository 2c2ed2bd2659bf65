"""`tina import`: a checkpoint of the paper's authors -> a generator directory."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tina_cli import options
from tina_cli.console import result, result_json


def import_(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint of the paper's code: a dict with G, and perhaps G_ema.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The generator directory to make.")] = Path("imported"),
    raw: Annotated[
        bool, typer.Option("--raw", help="Take the weights themselves (G), not their moving average (G_ema).")
    ] = False,
    json: options.Json = False,
) -> None:
    """Import a checkpoint of the paper's own network; widths, classes and layers are told from its tensors."""
    from tina_cli.paper_generator import import_checkpoint

    info = import_checkpoint(checkpoint, output, not raw).info
    if json:
        result_json({"schema": "tina/import/1", "output": str(output), **info})
    else:
        shape = info["denoiser"]
        result(f"{output}: {info['source']['weights']}, {sum(shape['chunks']):,} parameters for {shape['classes']} classes")
