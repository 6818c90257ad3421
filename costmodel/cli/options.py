"""Options that several commands share."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import click

from costmodel.errors import InputError, Location, Problem

F = TypeVar("F", bound=Callable[..., Any])

FORMS = ("md", "csv", "json")
ENGINES = ("analytic", "event")


def set_option(function: F) -> F:
    """Add `--set PATH=VALUE`, repeatable."""
    return click.option(
        "--set",
        "changes",
        multiple=True,
        metavar="PATH=VALUE",
        help="Change a field of the resolved workload; repeatable.",
    )(function)


def path_option(function: F) -> F:
    """Add `--path FOLDER`, repeatable."""
    return click.option(
        "--path",
        "search_path",
        multiple=True,
        metavar="FOLDER",
        type=click.Path(file_okay=False),
        help="Folder to search first; repeatable.",
    )(function)


def json_option(function: F) -> F:
    """Add `--format`, and `--json`, its short form; the function gets `as_json`, its tables are printed in the form."""

    @wraps(function)
    def printed(*args: Any, form: str | None, as_json: bool, **options: Any) -> Any:
        if as_json and form not in (None, "json"):
            raise InputError.single(f"--json and --format {form} differ", hint="keep one of them", field="--format")
        wanted = as_json or form == "json"
        if wanted or form is None:
            return function(*args, as_json=wanted, **options)
        from costmodel.report.page import printing

        with printing(form):
            return function(*args, as_json=False, **options)

    json = click.option("--json", "as_json", is_flag=True, hidden=True, help="As --format json.")
    words = "Print as one JSON document (also: --json), as Markdown, or the tables alone as CSV."
    return cast(F, click.option("--format", "form", type=click.Choice(FORMS), help=words)(json(printed)))


def read_changes(changes: tuple[str, ...]) -> dict[str, object]:
    """Return `PATH=VALUE` arguments as path -> text; raise InputError on one without `=` or given twice."""
    found: dict[str, object] = {}
    for change in changes:
        path, separator, value = change.partition("=")
        label = Location(f"--set {change}")
        if not separator or not path.strip():
            raise InputError(
                [Problem(label, "", "is not PATH=VALUE", 'write --set hardware.memory.hbm.bandwidth="3 TB/s"')]
            )
        if path.strip() in found:
            raise InputError([Problem(label, path.strip(), "is set twice", "keep one of them")])
        found[path.strip()] = value.strip()
    return found


def asked(workload: str, cluster: str | None, changes: tuple[str, ...], search_path: tuple[str, ...]) -> str:
    """Return the arguments that ask for the same workload again, as a shell reads them."""
    named = [("--cluster", cluster)] if cluster else []
    options = [*named, *(("--set", change) for change in changes), *(("--path", folder) for folder in search_path)]
    return shlex.join([workload, *(word for option in options for word in option)])


def print_json(document: object) -> None:
    """Print a document as JSON: the same document gives the same bytes, in ASCII where the output takes no more."""
    narrow = not (sys.stdout.encoding or "").lower().startswith("utf")
    click.echo(json.dumps(document, indent=2, allow_nan=False, ensure_ascii=narrow))
