"""REPORT: the study's results as a page of tables, and a plot beside each table that has a curve."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tina_cli.errors import UsageError
from tina_cli.files import make_folder, write_atomic

PLOTS = "plots"
HEADINGS = {
    "ours_minus": "ours - method", "ci95": "95 % interval", "of_oracle": "x oracle", "n_tasks": "tasks", "p_models": "p-Models",
    "ms_per_model": "ms a model",
}  # fmt: skip


def write_report(results: Mapping[str, Any], folder: Path, command: str) -> Path:
    """Write `results.md` and the plots beside it."""
    lines = [
        "# The paper's study",
        "",
        f"Made by `{command}`; every number of the run is in the recipe `{results['recipe']['name']}`.",
        "",
        introduction(results),
    ]
    make_folder(folder / PLOTS)
    for name, section in results["sections"].items():
        lines += ["", f"## {section['title']}"]
        lines += [f"\n{key}: {cell(value)}" for key, value in section["facts"].items()]
        for title, rows in section["tables"].items():
            lines += ["", f"### {title}", "", *table(rows), *reading(rows)]
        for number, plot in enumerate(section["plots"]):
            draw(plot, folder / PLOTS / f"{name}-{number}.png")
            lines += ["", f"![{plot['title']}]({PLOTS}/{name}-{number}.png)"]
    path = folder / "results.md"
    write_atomic(path, ("\n".join(lines) + "\n").encode())
    return path


def introduction(results: Mapping[str, Any]) -> str:
    """Return what all tables have in common."""
    recipe, pictures = results["recipe"], results["pictures"]
    return (
        f"{results['classes']} classes; networks are fitted on {pictures['fit']:,} pictures, what is chosen is chosen on "
        f"{pictures['tune']:,} others, and every accuracy is on {pictures['test']:,} test pictures that nothing else saw. "
        f"{recipe['zoo']:,} p-Models of {recipe['classes']} classes. Intervals are 95 % bootstrap intervals over tasks, of "
        f"paired differences where two methods are compared; *ours* is the mean of {recipe['seeds']} seeds in the tables of "
        "all methods and one seed elsewhere. Recovery is (method - selection) / (fine-tuning - selection). *The paper's "
        "network* is a replica of its method: the paper's own figures are not known to us."
    )


def reading(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return in words which methods ours is above, below, and not apart from; nothing for a table of another kind."""
    sides: dict[str, list[str]] = {"above": [], "below": [], "not apart from": []}
    for row in rows:
        if "ours_minus" in row and "classes" not in row and not row["method"].startswith("ours"):
            low, high = row["ours_minus"]["ci95"]
            sides["above" if low > 0 else "below" if high < 0 else "not apart from"].append(row["method"])
    said = [f"{side} {', '.join(names)}" for side, names in sides.items() if names]
    return ["", f"By the intervals of the differences, ours is {'; '.join(said)}."] if said else []


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return rows as a Markdown table; columns in the order in which they are met."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(HEADINGS.get(key, key) for key in columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(cell(row.get(key)) for key in columns) + " |" for row in rows]


def cell(value: Any) -> str:
    """Return a value as a reader wants it."""
    if value is None:
        return ""
    if isinstance(value, Mapping):
        low, high = value["ci95"]
        return f"{value['mean']:+.3f} [{low:+.3f}, {high:+.3f}]"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{value[0]:.3f}, {value[1]:.3f}]"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def check_plots() -> None:
    """Raise `UsageError` where matplotlib is not installed, before any work is done."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("the study's plots need matplotlib", hint='pip install "tina-cli[study]"')


def draw(plot: Mapping[str, Any], path: Path) -> None:
    """Draw a plot's lines."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, points in plot["lines"].items():
        axes.plot(*zip(*sorted(map(tuple, points)), strict=True), marker="o", markersize=3, label=name)
    if plot["log"]:
        axes.set_xscale("log")
    axes.set(title=plot["title"], xlabel=plot["x"], ylabel=plot["y"])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
