"""The command line: one module a command, imported when its command runs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import typer

from mopruning import __version__
from mopruning.errors import MopruningError

COMMANDS: Mapping[str, tuple[str, str]] = {
    "compare": ("mopruning.cli.compare", "Show what differs between two files of networks or weights."),
    "convert": ("mopruning.cli.convert", "Write a network in another format, and check that it computes the same."),
    "cost": ("mopruning.cli.cost", "Count the multiply-accumulates and parameters of each layer of a network."),
    "demo": ("mopruning.cli.demo", "Train a small network on handwritten digits, dense and then sparse."),
    "inspect": ("mopruning.cli.inspect", "Show how sparse the weights in a file are, and which patterns they satisfy."),
    "prune": ("mopruning.cli.prune", "Prune the weights in a file once, and write another file."),
    "report": ("mopruning.cli.report", "Show what the zeros of each layer are worth: bytes, products, runtimes."),
    "shrink": ("mopruning.cli.shrink", "Take filters of zeros out of a network, and check that it computes the same."),
    "verify": ("mopruning.cli.verify", "Check that a file is whole: its graph, every tensor, every checksum."),
}
"""Command -> module and summary; a new command is one line here and a function of its name in that module."""

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "GLOG_v": "3"}
"""Variables that keep TensorFlow and MindSpore from telling what they do on the terminal; errors still are told."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process: exit code 0, 1 where a comparison fails, or 2 with one line on stderr.

    Args:
        arguments: What follows the program's name; without it, those of the process.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = next((word for word in words if not word.startswith("-")), None)
    try:
        sys.exit(application(command)(words, prog_name="mopruning", standalone_mode=False))
    except (typer.Abort, KeyboardInterrupt):
        print("mopruning: interrupted", file=sys.stderr)
        sys.exit(130)
    except (MopruningError, OSError, ImportError, UnicodeError) as error:  # the last: a name that cannot be printed
        _fail(_text(error))
    except Exception as error:
        wrong_usage = getattr(error, "format_message", None)  # click's, which some versions of typer carry inside
        if wrong_usage is None:
            raise
        if not words:
            print(wrong_usage())  # the help, which a bare `mopruning` asks for
            sys.exit(2)
        _fail(f"{wrong_usage()} (see mopruning{f' {command}' if command in COMMANDS else ''} --help)")


def _fail(message: str) -> NoReturn:
    print("mopruning: error:", " ".join(message.split()), file=sys.stderr)
    sys.exit(2)


def application(command: str | None = None) -> typer.Typer:
    """Build the typer application.

    Args:
        command: The command that is going to run. The others are only listed, so that neither help nor another
            command waits for what they import.
    """
    app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(_program)
    for name, (module, summary) in COMMANDS.items():
        function = getattr(importlib.import_module(module), name) if name == command else _listed
        app.command(name, short_help=summary)(function)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"mopruning {__version__}")
        raise typer.Exit


def _program(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_print_version, help="Print the version and exit."
    ),
) -> None:
    """Prune once, in any framework, and carry the sparse network to any other."""


def _listed() -> None:
    raise AssertionError("a command that was only listed has been run")


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__
