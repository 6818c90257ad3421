"""Options that several commands share."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from costmodel.cli.completion import names, paths
from costmodel.cli.completion import scenarios as scenario_names
from costmodel.errors import InputError, Location, Problem, visible, visible_json
from costmodel.planning.commands import changed
from costmodel.records import ValueRecord, replace
from costmodel.units import whole

if TYPE_CHECKING:
    from costmodel.api import Workload
    from costmodel.schema.tree import Tree
    from costmodel.schema.what_if import Study

F = TypeVar("F", bound=Callable[..., Any])

FORMS = ("md", "csv", "json")
ENGINES = ("analytic", "event")

set_option = click.option(
    "--set", "changes", multiple=True, metavar="PATH=VALUE", shell_complete=paths,
    help='Set any field of the workload, e.g. hardware.memory.hbm.bandwidth="3 TB/s", or 2x, +10%. Repeatable.',
)  # fmt: skip
path_option = click.option(
    "--path", "search_path", multiple=True, metavar="FOLDER", type=click.Path(file_okay=False),
    help="Folder with your own hardware/ and workloads/, searched first. Repeatable.",
)  # fmt: skip
anchor_option = click.option(
    "--anchor", "anchors", multiple=True, metavar="FILE",
    help="Measured values of your own runs: an anchor file, a benchmark of your server (`vllm bench serve`, SGLang's "
    "bench_serving, genai-perf, AIPerf), or its /metrics as text. Repeatable.",
)  # fmt: skip
scenario_option = click.option(
    "--scenario", "scenarios", multiple=True, metavar="NAME", shell_complete=scenario_names,
    help="Run only this scenario. Repeatable.",
)  # fmt: skip


class Asked(ValueRecord):
    """The workload that a command's arguments name. changes: path -> text of `--set`; anchors: files."""

    workload: str
    scenarios: tuple[str, ...]
    clusters: tuple[str, ...]
    phases: tuple[str, ...]
    changes: Mapping[str, object]
    search_path: tuple[str, ...]
    anchors: tuple[str, ...] = ()

    def of(self, study: Study) -> Asked:
        """Return the same of the workload of a study."""
        return replace(
            self, workload=study.file.workload, scenarios=self.scenarios or tuple(study.file.scenarios),
            changes={**study.changes, **self.changes},
        )  # fmt: skip

    def load(self, phases: tuple[str, ...] = ()) -> Workload:
        """Return the workload of a file or a name, or the smallest one of a model. Print its notes to standard error.

        phases: of a model, where `--phase` names none. Raises InputError with every problem.
        """
        loaded = self.quietly(phases)
        for note in loaded.notes:
            click.echo(f"note: {note}", err=True)
        return loaded

    def quietly(self, phases: tuple[str, ...] = ()) -> Workload:
        """Return what `load` does, and print nothing."""
        from costmodel.api import load
        from costmodel.schema.model_names import is_model

        if self.anchors and is_model(self.workload, self.search_path):
            named = " ".join(f"--cluster {name}" for name in self.clusters or ("nodes/NAME",))
            raise InputError.single(
                f"is of a scenario that ran, and {self.workload} is a model", field="--anchor",
                hint=f"write that scenario, with the load that was measured: `costmodel init workload --model "
                f"{self.workload} {named} --phase serving > run.yaml`, then `simulate run.yaml --anchor`",
            )  # fmt: skip
        chosen = self.phases or (phases if phases and is_model(self.workload, self.search_path) else ())
        return load(
            self._document() if self.anchors else self.workload, set=self.changes, cluster=self.clusters,
            search_path=self.search_path, scenarios=self.scenarios or None, phases=chosen,
        )  # fmt: skip

    def _document(self) -> Tree:
        from costmodel.schema.references import Library
        from costmodel.study.anchoring import with_anchors

        return with_anchors(self.workload, self.anchors, Library(self.search_path), self.scenarios)

    def load_one(self) -> tuple[Workload, str]:
        """Return the workload and the first of its scenarios. Raises InputError where several were asked for."""
        loaded = self.load()
        if len(loaded.scenarios) > 1 and (len(self.clusters) > 1 or len(self.scenarios) > 1):
            raise InputError.single(
                f"shows one scenario, not {', '.join(loaded.scenarios)}",
                hint=f"add --scenario {loaded.scenarios[0]}", field="--scenario",
            )  # fmt: skip
        return loaded, loaded.scenarios[0]

    @property
    def arguments(self) -> str:
        """Return the arguments that name the same workload again, as a shell reads them."""
        options = {"--cluster": self.clusters, "--phase": self.phases, "--anchor": self.anchors}
        words = [word for option, values in options.items() for value in values for word in (option, value)]
        words += changed(self.changes)
        for folder in self.search_path:
            words += ["--path", folder]
        return shlex.join([self.workload, *words])


def cluster_option(function: F, *, hidden: bool = False) -> F:
    """Add `--cluster`."""
    return click.option(
        "--cluster", "clusters", multiple=True, metavar="NAME", hidden=hidden,
        shell_complete=names("clusters", "nodes", qualified=True),
        help="Run every scenario on this cluster instead: clusters/NAME, nodes/NAME, devices/NAME for one alone, or as "
        "8xH100. Repeatable: compares them.",
    )(function)  # fmt: skip


def phase_option(function: F, *, hidden: bool = False) -> F:
    """Add `--phase`."""
    return click.option(
        "--phase", "phases", multiple=True, metavar="PHASE", hidden=hidden,
        help="Of a model: prefill, decode, generate, serving or training. Repeatable; default: prefill and decode.",
    )(function)  # fmt: skip


def output_option(metavar: str, text: str) -> Callable[[F], F]:
    """Return the option `--output`. text: its help."""
    return click.option("--output", type=click.Path(path_type=Path), required=True, metavar=metavar, help=text)


def common_options(function: F) -> F:
    """Add `--set`, `--format` and `--path`."""
    return set_option(json_option(path_option(function)))


def workload_options(*hidden: str) -> Callable[[F], F]:
    """Return what adds `--scenario`, `--cluster`, `--phase`, `--set` and `--path`. The function gets `asked`.

    hidden: options that the help does not list, where a command has many of its own.
    """

    def add(function: F) -> F:
        @wraps(function)
        def resolved(  # noqa: PLR0913  an argument for each option
            *args: Any, workload: str | None, scenarios: tuple[str, ...], clusters: tuple[str, ...],
            phases: tuple[str, ...], changes: tuple[str, ...], search_path: tuple[str, ...],
            anchors: tuple[str, ...], **options: Any,
        ) -> Any:  # fmt: skip
            asked = Asked(workload or "", scenarios, clusters, phases, read_changes(changes), search_path, anchors)
            return function(*args, asked=asked, **options)

        with_phase = phase_option(cast(F, resolved), hidden="--phase" in hidden)
        anchored = anchor_option(path_option(with_phase))
        return scenario_option(cluster_option(set_option(anchored), hidden="--cluster" in hidden))

    return add


def json_option(function: F) -> F:
    """Add `--format`, its short form `--json`, and `--verbose`. The function gets `as_json`, and prints so."""

    @wraps(function)
    def printed(*args: Any, form: str | None, as_json: bool, verbose: bool, **options: Any) -> Any:
        if as_json and form not in (None, "json"):
            raise InputError.single(
                f"--json and --format {form} contradict each other", hint="keep one of them", field="--format"
            )
        wants_json = as_json or form == "json"
        if wants_json or (form is None and not verbose):
            return function(*args, as_json=wants_json, **options)
        from costmodel.report.page import printing

        with printing(form or "text", verbose=verbose):
            return function(*args, as_json=False, **options)

    json_flag = click.option("--json", "as_json", is_flag=True, hidden=True, help="As --format json.")
    text = "Output format: json (also --json), md, or csv (tables only)."
    all_flag = click.option("--verbose", is_flag=True, help="Show all that is known, not the answer alone.")
    return cast(F, click.option("--format", "form", type=click.Choice(FORMS), help=text)(all_flag(json_flag(printed))))


ADDRESS = "DASK_SCHEDULER_ADDRESS"  # the variable in which Dask's own tools look for a scheduler


def workers_options(text: str = "Evaluate in this many processes.", *, hidden: bool = False) -> Callable[[F], F]:
    """Return a decorator that adds `--workers` and `--cluster-scheduler`, as `workers` and `scheduler`."""
    processes = click.option("--workers", type=click.IntRange(1, 1024), metavar="N", hidden=hidden, help=text)
    cluster = click.option(
        "--cluster-scheduler", "scheduler", metavar="URL", hidden=True,
        help="Dask scheduler to use, whose workers run code sent to them; `env`: that of $DASK_SCHEDULER_ADDRESS; "
             "`embedded`: start a local one.",
    )  # fmt: skip
    return lambda function: processes(cluster(function))


def scheduler_of(asked: str | None) -> str | None:
    """Return the address of the Dask scheduler that is asked for, and say where the work goes, null for none."""
    from costmodel.study.executors import EMBEDDED

    stated = os.environ.get(ADDRESS)
    if asked is None:
        if stated:
            click.echo(f"note: ${ADDRESS} is set, but not used without --cluster-scheduler env", err=True)
        return None
    if asked == "env" and not stated:
        raise InputError.single(f"${ADDRESS} is not set", hint="write an address", field="--cluster-scheduler")
    address = str(stated) if asked == "env" else asked
    if address != EMBEDDED:
        click.echo(f"note: connecting to the Dask scheduler at {visible(address)}, whose workers run code that this "
                   "command sends them", err=True)  # fmt: skip
    return address


def read_changes(changes: tuple[str, ...]) -> dict[str, object]:
    """Return `PATH=VALUE` arguments as path -> text. Raises InputError on one without `=` or given twice."""
    values: dict[str, object] = {}
    for change in changes:
        path, separator, value = (part.strip() for part in change.partition("="))
        label = Location(f"--set {change}")
        if not separator or not path:
            hint = 'write --set hardware.memory.hbm.bandwidth="3 TB/s"'
            raise InputError([Problem(label, "", "must have the form PATH=VALUE", hint)])
        if path in values:
            raise InputError([Problem(label, path, "is given twice", "keep one of them")])
        if path.startswith("scenarios.") and path.count(".") == 1:
            from costmodel.schema.overrides import expanded  # YAML loads where files are read

            values |= expanded(path, value)
        else:
            values[path] = value
    return values


def device_counts(text: str | None) -> list[int]:
    """Return the device counts that `--devices` lists."""
    parts = [part.strip() for part in text.split(",")] if text is not None else []
    for part in parts:
        if not 0 < (whole(part) or 0) <= 10**7:
            raise InputError.single(
                f"{part!r} is not a device count", hint="write whole numbers such as 64,128", field="--devices"
            )
    return [int(part) for part in parts]


def print_json(document: object) -> None:
    """Print a document as JSON: the same document gives the same bytes, in ASCII where the output takes no more."""
    ascii_only = not (sys.stdout.encoding or "").lower().startswith("utf")
    click.echo(visible_json(json.dumps(document, indent=2, allow_nan=False, ensure_ascii=ascii_only)))
