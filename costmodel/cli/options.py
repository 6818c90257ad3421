"""Options that several commands share."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click

from costmodel.cli.completion import names
from costmodel.errors import InputError, Location, Problem, visible_json

F = TypeVar("F", bound=Callable[..., Any])

FORMS = ("md", "csv", "json")
ENGINES = ("analytic", "event")

set_option = click.option(
    "--set", "changes", multiple=True, metavar="PATH=VALUE",
    help='Set any field of the workload, e.g. hardware.memory.hbm.bandwidth="3 TB/s". Repeatable.',
)  # fmt: skip
path_option = click.option(
    "--path", "search_path", multiple=True, metavar="FOLDER", type=click.Path(file_okay=False),
    help="Folder with your own hardware/ and workloads/, searched first. Repeatable.",
)  # fmt: skip
scenario_option = click.option(
    "--scenario", "scenarios", multiple=True, metavar="NAME", help="Run only this scenario. Repeatable."
)
cluster_option = click.option(
    "--cluster", metavar="NAME", shell_complete=names("clusters", "nodes", qualified=True),
    help="Run every scenario on this cluster instead: clusters/NAME or nodes/NAME.",
)  # fmt: skip


def output_option(metavar: str, text: str) -> Callable[[F], F]:
    """Return the option `--output`. text: its help."""
    return click.option("--output", type=click.Path(path_type=Path), required=True, metavar=metavar, help=text)


def common_options(function: F) -> F:
    """Add `--set`, `--format` and `--path`."""
    return set_option(json_option(path_option(function)))


def workload_options(function: F) -> F:
    """Add `--scenario`, `--cluster`, `--set`, `--format` and `--path`."""
    return scenario_option(cluster_option(common_options(function)))


def json_option(function: F) -> F:
    """Add `--format` and its short form `--json`; the function gets `as_json` and prints its tables in the format."""

    @wraps(function)
    def printed(*args: Any, form: str | None, as_json: bool, **options: Any) -> Any:
        if as_json and form not in (None, "json"):
            raise InputError.single(
                f"--json and --format {form} contradict each other", hint="keep one of them", field="--format"
            )
        wants_json = as_json or form == "json"
        if wants_json or form is None:
            return function(*args, as_json=wants_json, **options)
        from costmodel.report.page import printing

        with printing(form):
            return function(*args, as_json=False, **options)

    json_flag = click.option("--json", "as_json", is_flag=True, hidden=True, help="As --format json.")
    text = "Output format: json (also --json), md, or csv (tables only)."
    return cast(F, click.option("--format", "form", type=click.Choice(FORMS), help=text)(json_flag(printed)))


def read_changes(changes: tuple[str, ...]) -> dict[str, object]:
    """Return `PATH=VALUE` arguments as path -> text; raise InputError on one without `=` or given twice."""
    values: dict[str, object] = {}
    for change in changes:
        path, separator, value = (part.strip() for part in change.partition("="))
        label = Location(f"--set {change}")
        if not separator or not path:
            hint = 'write --set hardware.memory.hbm.bandwidth="3 TB/s"'
            raise InputError([Problem(label, "", "must have the form PATH=VALUE", hint)])
        if path in values:
            raise InputError([Problem(label, path, "is given twice", "keep one of them")])
        values[path] = value
    return values


def workload_arguments(
    workload: str, cluster: str | None, changes: tuple[str, ...], search_path: tuple[str, ...]
) -> str:
    """Return the arguments that name the same workload again, as a shell reads them."""
    named = [("--cluster", cluster)] if cluster else []
    options = [*named, *(("--set", change) for change in changes), *(("--path", folder) for folder in search_path)]
    return shlex.join([workload, *(word for option in options for word in option)])


def print_json(document: object) -> None:
    """Print a document as JSON: the same document gives the same bytes, in ASCII where the output takes no more."""
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    click.echo(visible_json(json.dumps(document, indent=2, allow_nan=False, ensure_ascii=ascii_only)))
