"""`costmodel plan`: requirements in, a deployment out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from costmodel.cli.completion import names
from costmodel.cli.options import device_counts, json_option, path_option, print_json, read_changes, set_option
from costmodel.errors import InfeasibleError, InputError
from costmodel.records import replace

if TYPE_CHECKING:
    from costmodel.planning.request import PlanRequest

F = TypeVar("F", bound=Callable[..., Any])
OnProgress = Callable[[float], None]
_REASONS = 3  # of a plan with nothing to start

_SECTIONS = {
    "Load": ("rate", "requests_per_day", "users", "isl", "osl", "trace"),
    "Limits": ("ttft", "tpot", "budget", "confidence"),
    "Training": ("train", "tokens", "days", "devices", "changes"),
}
_OPTIONS: tuple[tuple[str, str, str], ...] = (
    ("--rate", "RATE", "Requests that come a second, e.g. 20/s."),
    ("--requests-per-day", "N", "The same as requests a day, e.g. 10M."),
    ("--users", "N", "Requests in flight instead: each user sends the next one when the last is answered."),
    ("--isl", "TOKENS", "Tokens of a prompt; default: those of the trace."),
    ("--osl", "TOKENS", "Tokens of an answer; default: those of the trace."),
    ("--trace", "FILE", "Requests with their times and lengths, in any format that `requests.trace` reads."),
    ("--ttft", "TIME@STAT", "Limit on the first token, e.g. 1s@p99; mean, p50, p90, p95 or p99 (default)."),
    ("--tpot", "TIME@STAT", "Limit on each further token, e.g. 50ms@p99."),
    ("--budget", "RATE", 'Ceiling of the cost rate, e.g. "300 $/h".'),
    ("--confidence", "SHARE", "Probability that the limits hold, or of the end in time, that it is sized for: 90%."),
    ("--tokens", "N", "Tokens to train on, e.g. 15T."),
    ("--days", "DAYS", "Days in which training has to end; default: the fastest and the cheapest runs."),
    ("--devices", "N,N,...", "Numbers of devices that may train; default: parts of a node, then 1, 2 ... nodes."),
    ("--emit", "FORMAT", "Print what starts the plan: vllm, sglang, trt-llm, dynamo, megatron, torchtitan, k8s, ..."),
)


class _Sections(click.Command):
    """A command whose help lists its options by what they are about."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        of = {name: section for section, listed in _SECTIONS.items() for name in listed}
        written: dict[str, list[tuple[str, str]]] = {section: [] for section in (*_SECTIONS, "Options")}
        for each in self.get_params(ctx):
            record = each.get_help_record(ctx)
            if record is not None:
                written[of.get(each.name or "", "Options")].append(record)
        for section, rows in written.items():
            with formatter.section(section):
                formatter.write_dl(rows)


def _text_options(function: F) -> F:
    for flag, metavar, text in reversed(_OPTIONS):
        function = click.option(flag, metavar=metavar, help=text)(function)
    return function


@click.command("plan", cls=_Sections)
@click.argument("model", required=False, shell_complete=names("models", files=True))
@click.option(
    "--cluster", "clusters", multiple=True, metavar="NAME", shell_complete=names("clusters", "nodes", qualified=True),
    help="Hardware to plan for: nodes/NAME, clusters/NAME, or as 8xH100. Repeatable: compares them.",
)  # fmt: skip
@_text_options
@click.option("--train", is_flag=True, help="Plan a training run of MODEL.")
@click.option(
    "--anchor", "anchors", multiple=True, metavar="FILE",
    help="Measured values of your own runs, as `simulate --anchor` takes them. Repeatable.",
)  # fmt: skip
@click.option("--prices", metavar="FILE", help="Your own prices: rent, purchase, host, electricity, api, ...")
@click.option(
    "--output", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
    help="Write the plan to FILE: .json, .csv, .md, or .html with the front of its deployments.",
)  # fmt: skip
@click.option("--from", "source", metavar="FILE", help="Read a launch script instead of planning.")
@set_option
@path_option
@json_option
def command(*, as_json: bool, **options: Any) -> int:
    """Say which deployment of MODEL serves a load within its limits, at which cost, and play it request by request.

    Each --cluster gets its best precision, engine, layout and number of replicas, e.g. `costmodel plan qwen3-32b
    --cluster nodes/dgx-h100 --rate 20/s --isl 2000 --osl 500 --ttft 1s@p99 --tpot 30ms@p99`. Without MODEL: which
    models run on one cluster, and how fast. With --train and --tokens: which layout trains MODEL on them.
    """
    from costmodel.cli.progress import progress

    output: Path | None = options.pop("output")
    if output is not None:
        from costmodel.report.plan_file import form_of

        form_of(output)
    request = _request(options)
    with progress("planning", lines=True) as on_progress:
        document, show = _planner(request, in_full=as_json or output is not None)(request, on_progress)
    if output is not None and "plans" in document:
        from costmodel.report.plan_file import write_plan

        write_plan(output, document)
    if as_json:
        print_json(document)
    else:
        show()
    holds = [plan["holds"] is not False for plan in document.get("plans", ())]  # null: not played
    holds += [each["fits"] for each in document.get("models", ())]
    return 0 if any(holds) else InfeasibleError.exit_code


Planned = tuple[Mapping[str, Any], Callable[[], None]]  # the document, and what prints it for people


def _planner(request: PlanRequest, *, in_full: bool) -> Callable[[PlanRequest, OnProgress], Planned]:
    """Return what answers a request. in_full: as documents have it, which text shows a part of."""
    if request.source is not None or request.emit is not None:
        return _launch
    if request.model is None:
        return _machine
    return _training if request.train else partial(_servers, in_full=in_full)


def _servers(request: PlanRequest, on_progress: OnProgress, *, in_full: bool = True) -> Planned:
    from costmodel.planning.deployments import document
    from costmodel.planning.servers import plan_servers
    from costmodel.report.plan import show_plans

    plans = plan_servers(request, on_progress)
    planned = document(plans, in_full=in_full)
    answer = {**planned, **_money(request, planned["plans"])}

    def show() -> None:
        from costmodel.report.plan import show_money

        show_plans(plans, next((each.get("money") for each in answer["plans"]), None))
        show_money(answer)

    return planned if request.prices is None else answer, show


def _money(request: PlanRequest, entries: list[dict[str, Any]]) -> dict[str, Any]:
    """Return at which rents the choice turns and, with a price file, what owning the servers or an API would cost."""
    from costmodel.planning.money import clusters_of, owned, turning_points
    from costmodel.schema.files import load_cluster

    turns = {"turns": turning_points(entries)}
    if request.prices is None:
        return turns
    named = sorted(set().union(*map(clusters_of, entries)))
    clusters = {name: load_cluster(name, request.search_path) for name in named}
    money = [owned(clusters, entry, request.prices) for entry in entries]
    return {"plans": [{**entry, "money": each} for entry, each in zip(entries, money, strict=True)], **turns}


def _machine(request: PlanRequest, on_progress: OnProgress) -> Planned:
    from costmodel.planning.machine import what_runs

    machine = what_runs(request, on_progress)

    def show() -> None:
        from costmodel.report.models import show_machine

        show_machine(machine)

    return machine.document(request), show


def _training(request: PlanRequest, on_progress: OnProgress) -> Planned:
    from costmodel.planning.training import document, plan_training

    plans = plan_training(request, on_progress)

    def show() -> None:
        from costmodel.report.training_plans import show_training

        show_training(plans)

    return document(plans), show


def _launch(request: PlanRequest, on_progress: OnProgress) -> Planned:
    """Write what starts a plan, or predict what a launch script starts."""
    if request.source is not None:
        return _from_script(request, request.source)
    from costmodel.planning.launch import check_form, emit

    check_form(request.emit or "", trains=request.train)
    planner = _training if request.train else _servers
    planned, _ = planner(request, on_progress)
    if not planned["plans"]:
        reasons = "; ".join(planned["left_out"][:_REASONS])
        return planned, lambda: click.echo(f"nothing holds: there is nothing to start: {reasons}", err=True)
    best = planned["plans"][0]
    text = emit(request.emit or "", planned["request"], best, request.search_path)

    def show() -> None:
        click.echo(text, nl=False)
        if best["holds"] is False:
            click.echo("note: the limits do not hold: without --emit the plan says what is reachable", err=True)

    return {**planned, "text": text}, show


def _from_script(request: PlanRequest, source: str) -> Planned:
    """Predict what a launch script starts."""
    from costmodel.planning.launch.answers import answer
    from costmodel.planning.launch.reading import read_launch

    if request.emit is not None:
        raise InputError.single("--emit and --from contradict each other", hint="keep one of them", field="--emit")
    predicted = answer(read_launch(source), request)

    def show() -> None:
        from costmodel.report.simulate import show_simulation

        points = {predicted.phase: predicted.point}
        show_simulation(predicted.arguments, predicted.workload, points, detailed=True, engine="analytic")

    for note in predicted.notes:
        click.echo(f"note: {note}", err=True)
    return predicted.document(), show


def _request(options: Mapping[str, Any]) -> PlanRequest:
    from costmodel.planning.request import read_request

    given = {name: value for name, value in options.items() if value is not None and name != "changes"}
    return replace(
        read_request(given), devices=tuple(device_counts(options["devices"])),
        changes=tuple((path, str(value)) for path, value in read_changes(options["changes"]).items()),
    )  # fmt: skip
