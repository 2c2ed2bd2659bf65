"""`tina inspect`: what a model file or a generator directory is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tina_cli import options
from tina_cli.console import result, result_json


def inspect(
    path: Annotated[Path, typer.Argument(help="A model file, or a generator directory.")], json: options.Json = False
) -> None:
    """Show what a model file or a generator directory is, without loading torch."""
    if path.is_dir():
        from tina_cli.weights import read_generator_info

        info = read_generator_info(path)
        if json:
            result_json({"schema": "tina/inspect-generator/1", **info})
        else:
            (show_import if "kind" in info else show_generator)(info)
        return
    from tina_cli.modelfile import read_info

    info = read_info(path)
    if json:
        result_json({"schema": "tina/inspect-model/1", **info})
    else:
        show_model(info)


def show_model(info: dict[str, Any]) -> None:
    """Print a model's description."""
    from tina_cli.modelfile import is_bundled

    result(f"a classifier of {len(info['classes'])} classes")
    for entry in info["classes"]:
        result(f"  {entry['name']}: {meaning_of(entry)}")
    backbone = info["backbone"]
    inside = "in the file" if is_bundled(info) else "not in the file"
    result(f"backbone     {backbone['arch']} at {backbone['preprocess']['size']} px, {inside}")
    result(f"generator    {info['generator']['name']} ({info['generator']['sha256'][:12]})")
    result(f"sampled      {info['sampler']}, {info['steps']} steps, seed {info['seed']}")
    result(f"expected accuracy  {info.get('expected_accuracy')}")


def meaning_of(entry: dict[str, Any]) -> str:
    """Return in a few words where a class's meaning came from."""
    parts = [f'"{text}"' for text in entry.get("descriptions", ())]
    parts += [f"{entry['pictures']} pictures"] if "pictures" in entry else []
    return " and ".join(parts) or entry.get("gloss") or "the name alone"


def show_generator(info: dict[str, Any]) -> None:
    """Print a generator's description."""
    shape = info["denoiser"]
    result(f"generator    {info['name']}")
    result(f"backbone     {info['backbone']['arch']}, features of {info['backbone']['dim']} numbers")
    result(f"clip         {info['clip'].get('name', 'inside')}, conditions of {shape['condition_dim']} numbers")
    result(f"denoiser     {shape['layers']} layers of width {shape['width']}, rows of {shape['row_dim']} numbers")
    result(f"sampler      {info['sampling']['sampler']}, {info['sampling']['steps']} steps")
    result(f"concepts     {len(info['concepts'])} known, {len(info['heldout'])} held out")
    result(f"data         {', '.join(f'{name} ({count})' for name, count in info['data'].items())}")


def show_import(info: dict[str, Any]) -> None:
    """Print the description of an imported checkpoint of the paper's network."""
    shape = info["denoiser"]
    result(f"generator    {info['name']}, the paper's network ({info['source']['weights']})")
    result(f"denoiser     {shape['layers']} layers of width {shape['width']}, {len(shape['chunks'])} chunks of parameters")
    result(f"generates    {sum(shape['chunks']):,} parameters for {shape['classes']} classes")
