"""Growth: time and memory of a batch against the number of its models."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bulk import LEAST, MOST, bulk, requests
from record import record, seconds

MODELS = (1, 10, 100, 1_000, 10_000)


def main() -> None:
    """Measure, and record."""
    rows = []
    for count in MODELS:
        with tempfile.TemporaryDirectory() as name:
            taken, memory = bulk(requests(count), Path(name))
        rows.append([f"{count:,}", seconds(taken), seconds(taken / count), f"{memory:.0f}"])
    note = f"Models of {LEAST} to {MOST} classes, written to disk by one `tina generate --batch`, start and all."
    record("growth_models", "Growth with the models", note, ["models", "time", "a model", "peak memory, MiB"], rows)


if __name__ == "__main__":
    main()
