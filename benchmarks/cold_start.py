"""Cold start: how long `tina` takes from the shell, beside importing what it cannot do without."""

from __future__ import annotations

import sys
import tempfile
from functools import partial
from pathlib import Path

from record import TINA, in_turn, record, run, seconds

ROUNDS = 7
OPEN_CLIP = "from tina_cli.device import prepare_torchvision; prepare_torchvision(); import torch, open_clip"
NEW = 'tell a "red panda plush toy" from a "blue panda plush toy"'  # no known words: the text tower reads them


def main() -> None:
    """Measure, and record."""
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model.safetensors"
        generate = [*TINA, "generate", "-q", "--force", "-o", model]
        run([*generate, "classify cats, dogs and trucks"])
        python = [sys.executable, "-c"]
        variants = {
            "import torch": [*python, "import torch"],
            "import torch, open_clip": [*python, OPEN_CLIP],
            "tina generate, words read by the text tower": [*generate, NEW, "--no-cache"],
            "tina generate, known words": [*generate, "classify cats, dogs and trucks", "--no-cache"],
            "tina generate, words met before": [*generate, NEW],
            "tina --version": [*TINA, "--version"],
            "tina --help": [*TINA, "--help"],
            "tina inspect": [*TINA, "inspect", model],
        }
        took = in_turn({title: partial(run, command) for title, command in variants.items()}, ROUNDS)
    beside = {"words read": "import torch, open_clip", "known words": "import torch", "met before": "import torch"}
    rows = []
    for title, value in took.items():
        other = next((base for part, base in beside.items() if part in title), None)
        rows.append([title, seconds(value), f"{value / took[other]:.2f} x {other}" if other else ""])
    record("cold_start", "Cold start", f"Medians of {ROUNDS} processes each.", ["from the shell", "time", "ratio"], rows)


if __name__ == "__main__":
    main()
