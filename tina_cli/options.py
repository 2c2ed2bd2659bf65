"""The options that several commands share: one spelling, one help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on standard error but errors.")]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")]
Seed = Annotated[int, typer.Option(help="Seed of all randomness: the same seed gives the same bytes.", envvar="TINA_SEED")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", envvar="TINA_DEVICE")]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Generator: a folder, or hf-hub:OWNER/NAME.", show_default="the embedded tina-mini", envvar="TINA_WEIGHTS"
    ),
]
Clip = Annotated[
    str | None,
    typer.Option(
        help="Another CLIP in the generator's text space, by its open_clip name (ViT-B-32:openai) or local-dir:PATH.",
        show_default="the generator's own",
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache", help="Neither use nor keep vectors of words in the user's cache directory.", envvar="TINA_NO_CACHE"
    ),
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write; - is standard output.")]
