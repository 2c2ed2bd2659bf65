"""The command `tina`: the Typer app, `--version`, and the boundary where errors become lines and exit codes.

Nothing imported from here loads torch, numpy, PIL, open_clip or rich: `--help` and usage errors are instant.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from tina_cli import __version__
from tina_cli.commands import evaluate, export, generate, import_checkpoint, inspect, predict, train
from tina_cli.console import fail
from tina_cli.errors import TinaError

INTERRUPTED = 130
USAGE_ERRORS: Any = typer.BadParameter.__bases__  # Click's usage errors, from whichever Click Typer brings

app = typer.Typer(
    name="tina",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a gate such as --min-accuracy missed, 130 interrupted.",
)
app.command("generate")(generate.generate)
app.command("predict")(predict.predict)
app.command("evaluate")(evaluate.evaluate)
app.command("inspect")(inspect.inspect)
app.command("export")(export.export)
app.command("train")(train.train)
app.command("import")(import_checkpoint.import_)


def show_version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        typer.echo(f"tina {__version__}")
        raise typer.Exit


@app.callback()
def tina(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Turn a sentence into a working image classifier: no training, no network, in seconds."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; a bug keeps its traceback."""
    command = typer.main.get_command(app)
    try:
        result = command.main(list(arguments) or ["--help"], prog_name="tina", standalone_mode=False)
        sys.stdout.flush()
    except TinaError as error:
        fail(error.message, error.hint)
        return error.exit_code
    except USAGE_ERRORS as error:
        context = getattr(error, "ctx", None)
        message = error.format_message()
        fail(message[:1].lower() + message[1:].rstrip("."), f"see `{context.command_path if context else 'tina'} --help`")
        return 2
    except typer.Abort:
        fail("interrupted")
        return INTERRUPTED
    if result == INTERRUPTED:
        fail("interrupted")
    return result if isinstance(result, int) else 0


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run(sys.argv[1:]))
