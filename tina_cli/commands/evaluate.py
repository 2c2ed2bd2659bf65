"""`tina evaluate`: the accuracy of a model file, or of a generator beside its baselines, on folders of pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tina_cli import options
from tina_cli.console import Steps, result, result_json, say, table
from tina_cli.errors import DataError, GateMissed, UsageError


def evaluate(
    path: Annotated[
        Path | None, typer.Argument(help="A model file, or a generator directory.", show_default="the embedded generator")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Pictures: one subfolder a class, or test/ and train/ with such subfolders.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Model: go on without classes that have no folder.")
    ] = False,
    min_accuracy: Annotated[float | None, typer.Option(help="Exit with 3 where the accuracy is below.", min=0, max=1)] = None,
    tasks: Annotated[int, typer.Option(help="Generator: so many random tasks.", min=1)] = 100,
    classes: Annotated[str, typer.Option(help="Generator: classes a task, or all for one task of all folders.")] = "5",
    shots: Annotated[int, typer.Option(help="Generator: so many pictures a class as prompts, instead of names.", min=0)] = 0,
    shuffle_names: Annotated[
        bool, typer.Option("--shuffle-names", help="Generator: shuffle each task's names. A control: the result is chance.")
    ] = False,
    suite: Annotated[str | None, typer.Option(help="Run a whole study instead: paper.")] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Study: a recipe, by name or .toml file.", show_default="the suite's")
    ] = None,
    smoke: Annotated[bool, typer.Option("--smoke", help="Study: every experiment in miniature, in minutes.")] = False,
    experiment: Annotated[
        list[str] | None, typer.Option(help="Study: this experiment alone. Repeatable.", show_default="all")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Study: folder for results, plots and what is made on the way.")
    ] = Path("study"),
    resume: Annotated[bool, typer.Option("--resume", help="Study: go on with an interrupted run.")] = False,
    seed: options.Seed = 0,
    weights: options.Weights = None,
    clip: options.Clip = None,
    device: options.Device = "auto",
    no_cache: options.NoCache = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure accuracy on pictures, with intervals: of a model, or of what a generator makes of the folders' names."""
    if suite is not None:
        if min_accuracy is not None:
            raise UsageError("--min-accuracy is for a model or a generator, not for a study")
        if suite != "paper":
            raise UsageError(f"unknown suite {suite!r}", hint="the one there is: paper")
        chosen = recipe or ("paper-smoke" if smoke else "paper")
        values = of_suite(path, data, chosen, smoke, experiment or [], output, resume, device, quiet)
        result_json(values) if json else result(f"{output / 'results.md'}: {len(values['sections'])} experiments")
        return
    if data is None:
        raise UsageError("missing option --data", hint="a folder of pictures, one subfolder a class")
    if path is None:
        from tina_cli.weights import find_generator

        path = find_generator(None)
    if not path.exists():
        raise DataError(f"there is no file {path}")
    if path.is_dir():
        count = None if classes == "all" else int(classes) if classes.isdecimal() else 0
        if count is not None and count < 2:
            raise UsageError(f"--classes must be a number from 2 up, or all, not {classes!r}")
        values = of_generator(path, data, tasks, count, shots, shuffle_names, seed, clip, device, not no_cache, quiet)
        accuracy = next(row["accuracy"] for row in values["rows"] if row["method"] == "tina")
    else:
        values = of_model(path, data, allow_missing, weights, device, quiet)
        accuracy = values["accuracy"]
    if json:
        result_json(values)
    elif "rows" in values:
        show_methods(values)
    else:
        show_model(values)
    if min_accuracy is not None and accuracy < min_accuracy:
        raise GateMissed(f"the accuracy {accuracy:.4f} is below {min_accuracy}")


def of_model(path: Path, data: Path, allow_missing: bool, weights: str | None, device: str, quiet: bool) -> dict[str, Any]:
    """Evaluate a model file on the folders that are its classes; raises `DataError` where a class has none."""
    from tina_cli.modelfile import read_info

    read_info(path)
    from tina_cli.comparison import read_splits
    from tina_cli.evaluation import evaluate_model, match_folders
    from tina_cli.lexicon import Lexicon
    from tina_cli.prediction import load_classifier
    from tina_cli.weights import find_generator

    folders, _ = read_splits(data)
    classifier = load_classifier(path, weights, device)
    lexicon = Lexicon.read(find_generator(weights) / "lexicon.gz")
    matched = match_folders(list(folders), classifier.model.info["classes"], lexicon)
    if left := [name for name in folders if name not in matched]:
        say(f"left out, no class of the model: {', '.join(left)}", quiet)
    if kinds := [f"{folder} as {name}" for folder, name in matched.items() if lexicon.singular(folder).lower() != name.lower()]:
        say(f"counted: {', '.join(kinds)}", quiet)
    pictures: dict[str, list[Path]] = {}
    for folder, name in matched.items():
        pictures.setdefault(name, []).extend(folders[folder])
    missing = [name for name in classifier.model.classes if name not in pictures]
    if missing and not (allow_missing and pictures):
        raise DataError(f"{data} has no folder for {', '.join(missing)}", hint="add it, or give --allow-missing")
    total, done = sum(map(len, pictures.values())), 0
    with Steps(quiet) as progress:

        def tick(count: int) -> None:
            nonlocal done
            done += count
            progress.step("pictures", done, total)

        return evaluate_model(classifier, pictures, tick)


def of_generator(
    path: Path, data: Path, tasks: int, classes: int | None, shots: int, shuffled: bool, seed: int, clip: str | None,
    device: str, cache: bool, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    """Evaluate a generator on tasks drawn from the folders; features of pictures are kept in the user's cache."""
    from platformdirs import user_cache_path

    from tina_cli.comparison import Protocol, compare, read_splits
    from tina_cli.device import choose_device
    from tina_cli.generator import open_generator

    test, train = read_splits(data)
    generator = open_generator(path, choose_device(device), clip, cache)
    protocol = Protocol(tasks, classes, shots, shuffled, seed=seed)
    with Steps(quiet) as progress:
        return compare(generator, test, train, protocol, user_cache_path("tina") / "features", progress.step)


def of_suite(
    path: Path | None, data: Path | None, recipe: str, smoke: bool, only: list[str], output: Path, resume: bool,
    device: str, quiet: bool,
) -> dict[str, Any]:  # fmt: skip
    """Run the paper's study on a folder of test/ and train/ and write results, tables and plots; a smoke run needs none."""
    from tina_cli.study.recipe import load_study

    chosen = load_study(recipe)
    if data is None and not smoke:
        raise UsageError(
            "the study needs pictures", hint="--data FOLDER with train/ and test/, or --smoke for a run in miniature"
        )
    from tina_cli.comparison import read_splits
    from tina_cli.device import choose_device
    from tina_cli.files import pretty_json, write_atomic
    from tina_cli.generator import open_generator
    from tina_cli.study.report import check_plots, write_report
    from tina_cli.study.suite import Job, run_suite
    from tina_cli.weights import find_generator

    check_plots()
    test, train = read_splits(data) if data else ({}, {})
    if data and not train:
        raise DataError(f"{data} has no train/ and test/", hint="the study fits networks on one and measures on the other")
    generator = open_generator(path or find_generator(None), choose_device(device), None, False)
    with Steps(quiet) as progress:

        def report(**fields: Any) -> None:
            if fields.get("event") == "step" and "of" in fields:
                progress.step(fields["stage"], fields["step"], fields["of"])

        values = run_suite(Job(train, test, generator, chosen, output, report, only), resume)
    write_atomic(output / "results.json", pretty_json(values).encode())
    write_report(values, output, "tina evaluate --suite paper" + (" --smoke" if smoke else " --data FOLDER"))
    return values


def show_model(values: dict[str, Any]) -> None:
    """Print a model's evaluation."""
    low, high = values["ci95"]
    result(
        f"accuracy {values['accuracy']:.3f} [{low:.3f}, {high:.3f}] on {values['n']} pictures, chance {values['chance']:.3f}"
    )
    result(f"expected calibration error {values['ece']:.3f}")
    rows = [[name, str(entry["n"]), f"{entry['accuracy']:.3f}"] for name, entry in values["per_class"].items()]
    table(["class", "pictures", "accuracy"], rows)


def show_methods(values: dict[str, Any]) -> None:
    """Print a generator's evaluation."""
    rows = []
    for row in values["rows"]:
        low, high = row["ci95"]
        rows.append(
            [row["method"], f"{row['accuracy']:.3f}", f"[{low:.3f}, {high:.3f}]", str(row["classes"]), str(row["n_tasks"])]
        )
    table(["method", "accuracy", "95 % interval", "classes", "tasks"], rows)
