"""Measure the embedded generator on picture sets it has never seen: writes results.json and the card's tables.

    python benchmarks/results.py PICTURES/caltech101 PICTURES/popular-animals ... [--tasks 100]

Every folder holds one subfolder a class. Tables in weights/README.md stand between the marks of this script.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from tina_cli.comparison import METHODS, Protocol, compare, read_splits
from tina_cli.console import Steps
from tina_cli.device import choose_device
from tina_cli.files import canonical_json, pretty_json, write_atomic
from tina_cli.generator import open_generator
from tina_cli.weights import embedded_weights

CARD = Path(__file__).parents[1] / "weights" / "README.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
PROTOCOLS = {
    "names, all classes at once": Protocol(classes=None),
    "names, tasks of 5": Protocol(classes=5),
    "shuffled names, tasks of 5": Protocol(classes=5, shuffled=True),
    "1 picture a class, tasks of 5": Protocol(classes=5, shots=1),
    "5 pictures a class, tasks of 5": Protocol(classes=5, shots=5),
}


def measure(folders: list[Path], tasks: int) -> dict[str, Any]:
    """Return every data set's comparison under every protocol it has room for."""
    generator = open_generator(embedded_weights(), choose_device())
    out: dict[str, Any] = {"schema": "tina/results/1", "generator": generator.identity, "sets": {}}
    progress = Steps()
    for folder in folders:
        test, train = read_splits(folder)
        found: dict[str, Any] = {}
        for name, protocol in PROTOCOLS.items():
            if protocol.classes and (len(test) < protocol.classes or min(map(len, test.values())) <= protocol.shots):
                continue
            protocol = Protocol(tasks, protocol.classes, protocol.shots, protocol.shuffled)
            found[name] = compare(generator, test, train, protocol, user_cache_path("tina") / "features", progress.step)
        out["sets"][folder.name] = {"classes": len(test), "pictures": sum(map(len, test.values())), "protocols": found}
    return json.loads(canonical_json(out))


def tables(results: dict[str, Any]) -> str:
    """Return one table a protocol: data sets down, methods across."""
    parts = []
    for name in PROTOCOLS:
        rows = []
        for data, entry in results["sets"].items():
            found = entry["protocols"].get(name)
            if not found:
                continue
            by_method = {row["method"]: row for row in found["rows"]}
            # A method that knows some tasks' classes only is not compared on the easy ones.
            by_method = {m: row for m, row in by_method.items() if row["n_tasks"] == by_method["tina"]["n_tasks"]}
            low, high = by_method["tina"]["ci95"]
            cells = [f"{by_method[m]['accuracy']:.3f}" if m in by_method else "" for m in METHODS[1:]]
            gain = found["gain_over_ridge"]
            paired = f"{100 * gain['mean']:+.1f}"
            if gain["ci95"][0] is not None:
                paired += f" [{100 * gain['ci95'][0]:+.1f}, {100 * gain['ci95'][1]:+.1f}]"
            rows.append(
                [
                    f"{data} ({entry['classes']})",
                    f"**{by_method['tina']['accuracy']:.3f}** [{low:.3f}, {high:.3f}]",
                    *cells,
                    paired,
                ]
            )
        head = ["data set (classes)", "tina", *METHODS[1:], "tina - ridge, points"]
        lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]]
        parts.append(f"**{name}**\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--tasks", type=int, default=100)
    options = parser.parse_args()
    results = measure(options.folders, options.tasks)
    write_atomic(embedded_weights() / "results.json", pretty_json(results).encode())
    card = CARD.read_text(encoding="utf-8")
    before, _, rest = card.partition(BEGIN)
    after = rest.partition(END)[2]
    write_atomic(CARD, f"{before}{BEGIN}\n{tables(results)}\n{END}{after}".encode())


if __name__ == "__main__":
    main()
