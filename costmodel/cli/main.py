"""The entry point. Imports nothing heavy: `costmodel --help` must not wait for numpy."""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys

import click

from costmodel.errors import CostModelError, InputError
from costmodel.version import __version__

# Command -> what `costmodel --help` says of it; each lives in the module of its name.
COMMANDS = {
    "simulate": "Predict time, memory and cost of a workload's scenarios.",
    "explain": "Show the formula, inputs and numbers of one operator.",
    "validate": "Report every problem of files, with its place and fix.",
    "topology": "List fabrics: parts, price, diameter and bisection.",
    "collective": "Predict a collective or expert exchange by itself.",
    "sweep": "Evaluate a workload over ranges and alternatives, into a table.",
    "search": "Find the best layouts and batches for an objective.",
    "sensitivity": "Say how a metric follows every number of the hardware.",
    "predict": "Predict the kernels of a measurement table.",
    "evaluate": "Hold predictions against the times of a measurement table.",
    "profile": "Measure the kernels of this machine, for `calibrate`.",
    "calibrate": "Fit a device's kernels to measurement tables.",
    "reproduce": "Hold predictions against published figures.",
    "compare": "Hold a result against another, or a serving benchmark.",
    "report": "Draw a result or a sweep: figures, with the data beside each.",
    "hardware": "List devices, nodes and clusters, or show one with its sources.",
    "model": "List models, or show one with what can be counted of it.",
    "schema": "Print the JSON Schema of a kind of file.",
    "init": "Print a commented file of a kind to start from.",
}

INTERRUPTED = 130


class Commands(click.Group):
    """A group that imports a command only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """Return the commands in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Return the command of that name."""
        if cmd_name not in COMMANDS:
            return None
        command = importlib.import_module(f"costmodel.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the arguments name; an unknown name is told with the nearest ones."""
        import difflib

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean `{close[0]}`?" if close else f"write one of {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command `{args[0]}`; {hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the table without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def root() -> None:
    """Predict how long a transformer workload takes on a GPU cluster, what it needs, and what limits it."""


def main() -> None:
    """Run the command line and exit with its code: 0 done, 1 our bug, 2 bad input, 3 infeasible, 130 interrupted."""
    # A tenth of the time that imports take goes into looking for garbage that they do not make.
    gc.disable()
    # The command line uses no pydantic plugin; looking for some takes a twentieth of a second.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a name in a source must not end a run on an ASCII terminal
    try:
        code = root.main(prog_name="costmodel", standalone_mode=False)
        sys.stdout.flush()
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except InputError as error:
        for problem in error.problems:
            click.echo(problem, err=True)
        code = error.exit_code
    except CostModelError as error:
        click.echo(error, err=True)
        code = error.exit_code
    except (BrokenPipeError, SystemExit):  # the reader of a pipe has seen enough; click leaves, too
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if os.environ.get("COSTMODEL_DEBUG"):
            raise
        click.echo(f"this is a bug in costmodel: {type(error).__name__}: {error}", err=True)
        click.echo("run it again with COSTMODEL_DEBUG=1 for the traceback, and report it", err=True)
        code = 1
    gc.freeze()  # else the interpreter looks for garbage once more before it ends: a tenth of a short run
    sys.exit(code if isinstance(code, int) else 0)
