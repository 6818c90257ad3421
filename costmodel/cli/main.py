"""The entry point. Imports nothing heavy: `costmodel --help` must not wait for numpy."""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable
from typing import TextIO

import click

from costmodel.errors import CostModelError, ImplausibleInput, InputError, Notice, brief, visible
from costmodel.version import __version__

# Command -> its line in `costmodel --help`; each is in the module of its name, with `_` for `-`.
COMMANDS = {
    "simulate": "Predict the time, memory and cost of each scenario in a workload.",
    "explain": "Show how the time of one operator is computed.",
    "validate": "Check input files: every problem with its line and a fix.",
    "topology": "Compare network topologies: parts, price, diameter, bisection bandwidth.",
    "collective": "Predict a single collective or expert exchange.",
    "sweep": "Evaluate a workload over a range of settings and write a table.",
    "plan": "Say which deployment serves a load, what trains a model, or what runs on a machine.",
    "search": "Find the best parallel layout and batch size for an objective.",
    "sensitivity": "Rank the hardware parameters by their effect on a metric.",
    "what-if": "Rank hardware and software changes by what each would save, with its ceiling.",
    "step-times": "Write the step times of a serving engine as a table for other simulators.",
    "predict": "Predict the time of each kernel in a measurement table.",
    "evaluate": "Compare predictions with the times in a measurement table.",
    "profile": "Time kernels on this machine, as input for `calibrate`.",
    "calibrate": "Fit a device's kernel times to measurement tables.",
    "reproduce": "Compare predictions with published results.",
    "compare": "Compare two results, or a result and a serving benchmark.",
    "app": "Serve a page on this machine: scenarios as controls, side by side.",
    "report": "Draw figures and an HTML page from results, sweeps and traces.",
    "hardware": "List devices, nodes, clusters and frameworks, or show one with its sources.",
    "model": "List models, or show the parameters, KV cache and FLOPs of one.",
    "precision": "List the sets of number formats, or show one with its sources.",
    "schema": "Print the JSON Schema for one kind of file.",
    "init": "Print a commented example file to start from.",
    "doctor": "Show what is installed and found: versions, extras, data folders, accelerator.",
}

INTERRUPTED = 130
LONGEST_NAME = 200  # characters of a file's name in a message


class Commands(click.Group):
    """A group that imports a command only when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Return the commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command of that name."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"costmodel.cli.{cmd_name.replace('-', '_')}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name. An unknown one is an error with the nearest name."""
        import difflib

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"choose one of {', '.join(COMMANDS)}"
            raise click.UsageError(f"unknown command `{args[0]}`; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the table without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def root() -> None:
    """Predict how long a transformer workload takes on a GPU cluster, what it needs, and what limits it.

    Start with `costmodel simulate deepseek_v3`.
    """


def _warnings_once() -> Callable[..., None]:
    """Return what writes warnings to standard error: our own as a line, once. Others with their location."""
    written: set[str] = set()

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, file: TextIO | None = None,
        line: str | None = None,
    ) -> None:  # fmt: skip
        word = "warning" if issubclass(category, ImplausibleInput) else "note"
        own = issubclass(category, ImplausibleInput | Notice)
        text = f"{word}: {message}\n" if own else warnings.formatwarning(message, category, filename, lineno, line)
        if not own or text not in written:
            written.add(text)
            (sys.stderr if file is None else file).write(visible(text.rstrip("\n")) + "\n")

    return show


def _code_of(error: BaseException) -> int:
    """Say what an error means to the user, and return its exit code. Raise it again for a programmer."""
    if isinstance(error, click.exceptions.Abort | KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, click.ClickException):
        if type(error).__name__ == "NoArgsIsHelpError":  # of click 8.2 and later
            error.show()
            return error.exit_code
        from costmodel.cli.usage import explained

        shown = explained(error)
        text = brief(shown.format_message())
        (shown if text == shown.format_message() else click.UsageError(text, getattr(shown, "ctx", None))).show()
        return error.exit_code
    if isinstance(error, CostModelError):
        problems = error.problems if isinstance(error, InputError) else (error,)
        for problem in problems:
            click.echo(visible(str(problem)), err=True)
        return error.exit_code
    if isinstance(error, BrokenPipeError | SystemExit):  # a pipe whose reader has enough; click exits, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(error, OSError):  # the system's word about a file, a disk or the output: no bug of ours
        return _refused_by_system(error)
    if isinstance(error, MemoryError):
        click.echo("this needs more memory than there is: ask for fewer points, ranks or micro-batches", err=True)
        return InputError.exit_code
    if os.environ.get("COSTMODEL_DEBUG"):
        raise error
    click.echo(f"This is a bug in costmodel: {type(error).__name__}: {error}", err=True)
    click.echo("Please report it; run again with COSTMODEL_DEBUG=1 to get the traceback.", err=True)
    return 1


def _refused_by_system(error: OSError) -> int:
    """Say what the system refuses, leave a broken output alone, and return the exit code of bad input."""
    name = "standard output" if error.filename is None else visible(os.fsdecode(error.filename))
    with contextlib.suppress(OSError):
        shown = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
        click.echo(f"{shown}: {error.strerror or error}", err=True)
    if error.filename is None and sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else the interpreter flushes it again at its end
    return InputError.exit_code


def main() -> None:
    """Run the command line and exit with its code: 0 done, 1 our bug, 2 bad input, 3 infeasible, 130 interrupted."""
    # Garbage collection takes a tenth of the import time and finds nothing.
    gc.disable()
    # The command line uses no pydantic plugin; searching for plugins takes 0.05 s.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Loops over requests are compiled in two fifths of the time and run a fifth longer than at level 3.
    os.environ.setdefault("NUMBA_OPT", "1")
    warnings.showwarning = _warnings_once()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name in a source must not end a run
    if sys.stdout is None:
        sys.exit(_refused_by_system(OSError(errno.EBADF, "it is closed")))
    try:
        code = root.main(prog_name="costmodel", standalone_mode=False)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        code = _code_of(error)
    gc.freeze()  # else the interpreter looks for garbage once more before it ends: a tenth of a short run
    sys.exit(code if isinstance(code, int) else 0)
