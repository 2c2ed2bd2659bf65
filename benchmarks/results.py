"""Measure the embedded generator on pictures it has never seen: writes results.json and the card's tables.

    python benchmarks/results.py EVAL/caltech101 EVAL/cifar100-test ... [--seen cifar100-test] [--sizes EVAL/photos]
        [--twin DIR --training TRAIN/* --vectors VECTORS.npz]

Every folder holds one subfolder a class. The embedded generator knows every class there are pictures of; how the recipe does on
classes that are new is measured on its twin, a generator by `tina-mini-heldout`: of the pictures of --training, which both were
trained on, the twin's held-out classes took part in nothing of it. `wordings.json` has other words for the classes of some
sets, written for this alone. --seen says which of the sets hold other pictures of classes that the training knew. --vectors
has genuine text vectors of the CLIP that the text tower imitates: they are fed for the names that the twin's tower never saw.
Without --twin, what results.json has of one stays.
Tables in weights/README.md stand between the marks of this script, plots beside it.
"""

from __future__ import annotations

import argparse
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from platformdirs import user_cache_path
from torch.nn.functional import normalize

from tina_cli.comparison import METHODS, Pool, Protocol, compare, compare_pool, read_splits
from tina_cli.config import Recipe, from_dict
from tina_cli.console import Steps
from tina_cli.device import choose_device
from tina_cli.files import canonical_json, pretty_json, read_json, write_atomic
from tina_cli.generation import Request, generate_model
from tina_cli.generator import Generator, open_generator
from tina_cli.images import open_image, preprocess, read_classes
from tina_cli.prediction import Classifier
from tina_cli.rng import numpy_rng
from tina_cli.run import data_concepts, read_data
from tina_cli.weights import embedded_weights
from tina_cli.zoo.concepts import imagenet_concepts

CACHE = user_cache_path("tina") / "features"
CARD = Path(__file__).parents[1] / "weights" / "README.md"
WORDINGS = json.loads((Path(__file__).parent / "wordings.json").read_text(encoding="utf-8"))
KINDS = {
    "photo": '"a photo of a ..."',
    "synonym": "synonyms",
    "misspelling": "misspelled",
    "description": "described without the name",
}
SIZES = (0, 256, 128, 64, 32)  # pixels of the shorter side; 0 leaves a picture as it is
UNSEEN = "unseen classes"
COUNTS = (2, 3, 5, 10, 20, 50)  # of classes
PICTURES = 1000  # tasks times classes, at most, where the oracle is fitted many times
SURE = ("names, tasks of 5", "1 picture a class, tasks of 5", "5 pictures a class, tasks of 5")
LEAST, MOST = 4, 40  # pictures of a held-out class
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
PROTOCOLS = {
    "names, all classes at once": Protocol(classes=None),
    "names, tasks of 5": Protocol(classes=5),
    "names, tasks of 20": Protocol(classes=20, oracle=False),
    "shuffled names, tasks of 5": Protocol(classes=5, shuffled=True, oracle=False),
    "1 picture a class, tasks of 5": Protocol(classes=5, shots=1, oracle=False),
    "names and 1 picture a class, tasks of 5": Protocol(classes=5, shots=1, named=True, oracle=False),
    "5 pictures a class, tasks of 5": Protocol(classes=5, shots=5, oracle=False),
}


def measure(
    folders: list[Path], seen: list[str], twin_folder: Path | None, training: list[Path], vectors: Path | None,
    sizes: Path | None, tasks: int,
) -> dict[str, Any]:  # fmt: skip
    """Return every data set's comparison under every protocol it has room for."""
    generator = open_generator(embedded_weights(), choose_device(), cache=False)
    out: dict[str, Any] = {"schema": "tina/results/1", "generator": generator.identity, "sets": {}}
    sets = {folder.name: (*read_splits(folder), "new data set") for folder in folders}
    twin = open_generator(twin_folder, choose_device(), cache=False) if twin_folder else None
    if twin:
        out["twin"] = twin.identity
    for tier in ("near", "far"):
        pictures = heldout_pictures(twin, training, tier) if twin else {}
        if len(pictures) >= 5:
            sets[f"{UNSEEN}, {tier}"] = (pictures, {}, f"new class, {tier}")
    progress = Steps()
    if sizes:
        out["sizes"] = by_size(generator, read_classes(sizes), tasks, progress)
    for title, (test, train, split) in sets.items():
        found: dict[str, Any] = {}
        for name, protocol in PROTOCOLS.items():
            if protocol.classes and (len(test) < protocol.classes or min(map(len, test.values())) <= protocol.shots):
                continue
            protocol = replace(protocol, tasks=tasks, split=split)
            measured = twin if twin and split.startswith("new class") else generator
            found[name] = compare(measured, test, train, protocol, CACHE, progress.step)
        out["sets"][title] = {"classes": len(test), "pictures": sum(map(len, test.values())), "protocols": found}
        tier = "seen classes" if title in seen else split.replace("new", "unseen")
        out["sets"][title]["counts"] = by_count(measured, test, tier, tasks, progress)
        if vectors and split == "new class, near":
            out["genuine"] = with_vectors(measured, test, vectors, tasks, progress)
        if title in WORDINGS and len(test) >= 5:
            out["sets"][title]["wordings"] = reworded(generator, test, WORDINGS[title], tasks, progress)
    return out


def reworded(
    generator: Generator, test: dict[str, list[Path]], words: dict[str, dict[str, str | None]], tasks: int, progress: Steps
) -> dict[str, Any]:
    """Return the accuracy of tasks of 5 by other wordings, beside that of the same tasks by the classes' names."""
    out = {}
    for kind in KINDS:
        said = {name: f"a photo of a {name.replace('_', ' ')}" if kind == "photo" else words[name][kind] for name in test}
        usable = {name: text for name, text in said.items() if text}
        if len(usable) < 5:
            continue
        by_name = {name: test[name] for name in usable}
        by_text = by_name if kind == "description" else {text: test[name] for name, text in usable.items()}
        describe = {name.replace("_", " "): text for name, text in usable.items()} if kind == "description" else {}
        found = []
        for classes, protocol in (
            (by_name, Protocol(tasks, oracle=False)),
            (by_text, Protocol(tasks, describe=describe, oracle=False)),
        ):
            rows = compare(generator, classes, {}, protocol, CACHE, progress.step)["rows"]
            found.append(next(row for row in rows if row["method"] == "tina"))
        out[kind] = {"classes": len(usable), "names": found[0], "wording": found[1]}
    return out


def by_count(generator: Generator, test: dict[str, list[Path]], tier: str, tasks: int, progress: Steps) -> dict[str, Any]:
    """Return a set's tier, and every method's rows on tasks of several numbers of classes; the oracle for seen ones alone."""
    out = {}
    for classes in [count for count in COUNTS if count <= len(test)]:
        oracle = tier == "seen classes"
        number = min(tasks, max(1, PICTURES // classes)) if oracle else tasks
        protocol = Protocol(number, classes, oracle=oracle, split=tier)
        out[str(classes)] = compare(generator, test, {}, protocol, CACHE, progress.step)["rows"]
    return {"tier": tier, "rows": out}


def with_vectors(
    generator: Generator, test: dict[str, list[Path]], vectors: Path, tasks: int, progress: Steps
) -> dict[str, Any]:
    """Return the accuracy of tasks of 5 with a text tower's genuine vectors, beside the same tasks by the student's."""
    with np.load(vectors) as file:
        genuine = {str(name): torch.from_numpy(vector).float() for name, vector in zip(file["names"], file["emb"], strict=True)}
    both = {name: paths for name, paths in test.items() if name in genuine}
    out: dict[str, Any] = {"classes": sorted(both)}
    for title, given in (("student", {}), ("genuine", {name: normalize(genuine[name], dim=-1) for name in both})):
        protocol = Protocol(tasks, vectors=given, oracle=False, split="new class, near")
        rows = compare(generator, both, {}, protocol, CACHE, progress.step)["rows"]
        out[title] = {row["method"]: row for row in rows}
    return out


def by_size(generator: Generator, test: dict[str, list[Path]], tasks: int, progress: Steps) -> dict[str, Any]:
    """Return the accuracy by name on the same pictures made smaller: their shorter side in pixels, "whole" as they are."""
    how, out = generator.spec.preprocess, {}
    for number, size in enumerate(SIZES):
        features = []
        for paths in test.values():
            pictures = [open_image(path) for path in paths]
            shrunk = [ImageOps.scale(p, size / min(p.size)) if size and size < min(p.size) else p for p in pictures]
            features.append(generator.backbone.features(torch.stack([preprocess(picture, how) for picture in shrunk])))
        pool = Pool([name.replace("_", " ") for name in test], features, [], generator.generic_rows())
        found = {}
        for title, classes in (("all at once", None), ("tasks of 5", 5)):
            protocol = Protocol(tasks, classes, oracle=False)
            rows = compare_pool(generator, pool, protocol, progress.step)["rows"]
            found[title] = next(row for row in rows if row["method"] == "tina")
        out[str(size or "whole")] = found
        progress.step("sizes", number + 1, len(SIZES))
    return out


def heldout_pictures(generator: Generator, folders: list[Path], tier: str) -> dict[str, list[Path]]:
    """Return at most `MOST` pictures of each class that was held out of the generator's own training sets, at least `LEAST`."""
    recipe = from_dict(Recipe, generator.info["recipe"], "the generator's recipe")
    data = read_data(folders, recipe.features.max_per_class)
    first = imagenet_concepts() if recipe.zoo.imagenet else ()
    concepts, places = data_concepts(data, recipe, generator.lexicon, first)
    found: dict[str, list[Path]] = {}
    for name, classes in data.items():
        for paths, place in zip(classes.values(), places[name], strict=True):
            if concepts[place].heldout == tier:
                found.setdefault(concepts[place].name, []).extend(paths)
    return {name: paths[:MOST] for name, paths in sorted(found.items()) if len(paths) >= LEAST}


def with_twin_of(results: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Return results with what was measured before on a twin, which takes hours to make anew."""
    sets = {title: entry for title, entry in before["sets"].items() if title.startswith(UNSEEN)}
    kept = {key: before[key] for key in ("twin", "genuine") if key in before}
    return {**results, **kept, "sets": {**results["sets"], **sets}}


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
            paired = points(by_method["ridge"]["tina_minus"])
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
    lines = ["| data set | wording | classes | by name | by wording |", "| --- | --- | --- | --- | --- |"]
    for data, entry in results["sets"].items():
        for kind, found in entry.get("wordings", {}).items():
            by_name, by_text = found["names"], found["wording"]
            (a, b), (c, d) = by_name["ci95"], by_text["ci95"]
            cells = [f"{by_name['accuracy']:.3f} [{a:.3f}, {b:.3f}]", f"{by_text['accuracy']:.3f} [{c:.3f}, {d:.3f}]"]
            lines.append("| " + " | ".join([data, KINDS[kind], str(found["classes"]), *cells]) + " |")
    if len(lines) > 2:
        parts.append("**other wordings, tasks of 5**\n\n" + "\n".join(lines))
    lines = [
        "| data set, prompt | calibration error | expected accuracy is off by | AUROC of rejection |",
        "| --- | --- | --- | --- |",
    ]
    for data, entry in results["sets"].items():
        for name in SURE:
            if (found := entry["protocols"].get(name)) and "ece" in found:
                auroc = found["rejection_auroc"]
                cells = [
                    f"{found['ece']:.3f}",
                    f"{found['expected_accuracy_error']:.3f}",
                    "" if auroc is None else f"{auroc:.3f}",
                ]
                lines.append("| " + " | ".join([f"{data}, {name.partition(',')[0]}", *cells]) + " |")
    parts.append("**how sure, tasks of 5**\n\n" + "\n".join(lines))
    if sizes := results.get("sizes"):
        lines = ["| shorter side, pixels | all at once | tasks of 5 |", "| --- | --- | --- |"]
        for size, found in sizes.items():
            cells = [f"{row['accuracy']:.3f} [{row['ci95'][0]:.3f}, {row['ci95'][1]:.3f}]" for row in found.values()]
            lines.append("| " + " | ".join([size, *cells]) + " |")
        parts.append("**the same photos made smaller**\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def points(gap: dict[str, Any]) -> str:
    """Return a paired difference in points, with its interval where there is one."""
    low, high = gap["ci95"]
    return f"{100 * gap['mean']:+.1f}" + ("" if low is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]")


def counted(entry: dict[str, Any]) -> dict[int, Any]:
    """Return a set's rows by the number of classes, the fewest first: JSON has sorted the numbers as text."""
    return {int(classes): rows for classes, rows in sorted(entry["counts"]["rows"].items(), key=lambda item: int(item[0]))}


def more_tables(results: dict[str, Any]) -> list[str]:
    """Return the tables of seen classes and of genuine vectors, and the plots' places."""
    parts, lines = [], []
    for data, entry in results["sets"].items():
        if entry.get("counts", {}).get("tier") != "seen classes":
            continue
        for classes, rows in counted(entry).items():
            found = {row["method"]: row for row in rows}
            tina, oracle = found["tina"], found["oracle"]
            cells = [data, str(classes), str(tina["n_tasks"]), f"{tina['accuracy']:.3f}", f"{oracle['accuracy']:.3f}"]
            cells += [f"{tina['accuracy'] / oracle['accuracy']:.3f}", points(found["zero-shot"]["tina_minus"])]
            same = found.get("generic", {}).get("n_tasks") == tina["n_tasks"]
            lines.append("| " + " | ".join([*cells, points(found["generic"]["tina_minus"]) if same else ""]) + " |")
    if lines:
        head = ["data set", "classes", "tasks", "tina", "oracle", "tina / oracle", "tina - zero-shot", "tina - generic"]
        top = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head))]
        parts.append(
            "**seen classes, combinations that are new, other pictures; differences in points**\n\n" + "\n".join(top + lines)
        )
    if genuine := results.get("genuine"):
        lines = ["| vectors | tina | ridge | zero-shot |", "| --- | --- | --- | --- |"]
        for title in ("student", "genuine"):
            cells = [f"{genuine[title][m]['accuracy']:.3f}" for m in ("tina", "ridge", "zero-shot")]
            lines.append("| " + " | ".join([title, *cells]) + " |")
        count = len(genuine["classes"])
        parts.append(f"**genuine ViT-B/32 text vectors for {count} near unseen classes, tasks of 5**\n\n" + "\n".join(lines))
    parts.append("![Accuracy by number of classes](accuracy.png)\n\n![Predictions](predictions.png)")
    return parts


def plot_counts(results: dict[str, Any], path: Path) -> None:
    """Draw accuracy against the number of classes, a line a set, coloured by tier."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    tiers = list(dict.fromkeys(entry["counts"]["tier"] for entry in results["sets"].values()))
    for number, (data, entry) in enumerate(results["sets"].items()):
        rows = counted(entry)
        y = [next(row["accuracy"] for row in found if row["method"] == "tina") for found in rows.values()]
        colour, tier = f"C{tiers.index(entry['counts']['tier'])}", entry["counts"]["tier"]
        axes.plot(list(rows), y, marker="os^vDxP*+"[number % 9], color=colour, label=f"{data} ({tier})")
    axes.set(xscale="log", xlabel="classes", ylabel="accuracy", ylim=(0, 1), xticks=COUNTS, xticklabels=COUNTS)
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=100, metadata={"Software": None})
    pyplot.close(figure)


def plot_predictions(generator: Generator, folder: Path, path: Path, rows: int = 4, columns: int = 6) -> None:
    """Draw pictures of a set's classes, drawn by lot, with what a model of `columns` classes a row says of them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    classes = read_classes(folder)
    figure, axes = pyplot.subplots(rows, columns, figsize=(1.7 * columns, 2.0 * rows), layout="constrained")
    for row in range(rows):
        rng = numpy_rng(0, "grid", row)
        names = [list(classes)[i] for i in rng.permutation(len(classes))[:columns]]
        model = generate_model(generator, Request([name.replace("_", " ") for name in names]))
        classifier = Classifier(model, generator.backbone)
        for axis, name in zip(axes[row], names, strict=True):
            file = classes[name][int(rng.integers(len(classes[name])))]
            found = classifier(file)
            axis.imshow(ImageOps.fit(open_image(file), (96, 96)))
            right = found.label == name.replace("_", " ")
            title = f"{found.label} {found.probabilities[found.label]:.2f}" + ("" if right else f"\n({name.replace('_', ' ')})")
            axis.set_title(title, fontsize=7, color="black" if right else "firebrick")
            axis.axis("off")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=80)
    pyplot.close(figure)
    Image.open(drawn).convert("RGB").quantize(256).save(path, optimize=True)  # a third of the bytes


def main() -> None:
    """Measure, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--seen", nargs="*", default=[], help="names of the sets whose classes the training knew")
    parser.add_argument("--vectors", type=Path, help="genuine text vectors: names [N], emb [N, d]")
    parser.add_argument("--twin", type=Path, help="a generator of the recipe tina-mini-heldout")
    parser.add_argument("--training", nargs="*", type=Path, default=[])
    parser.add_argument("--sizes", type=Path, help="a folder of large photos, measured at several sizes")
    options = parser.parse_args()
    results = measure(
        options.folders, options.seen, options.twin, options.training, options.vectors, options.sizes, options.tasks
    )  # fmt: skip
    path = embedded_weights() / "results.json"
    if options.twin is None and path.exists():
        results = with_twin_of(results, read_json(path))
    results = json.loads(canonical_json(results))  # in the order of the file
    write_atomic(path, pretty_json(results).encode())
    card = CARD.read_text(encoding="utf-8")
    before, _, rest = card.partition(BEGIN)
    after = rest.partition(END)[2]
    plot_counts(results, CARD.parent / "accuracy.png")
    generator = open_generator(embedded_weights(), choose_device(), cache=False)
    plot_predictions(generator, options.folders[0], CARD.parent / "predictions.png")
    found = "\n\n".join([tables(results), *more_tables(results)])
    write_atomic(CARD, f"{before}{BEGIN}\n{found}\n{END}{after}".encode())


if __name__ == "__main__":
    main()
