"""What a shell offers when TAB is pressed: names on the search path and in a workload, which are read only then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from costmodel.api import Workload

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def names(*kinds: str, files: bool = False, qualified: bool = False) -> Completer:
    """Return a completer for the names of some kinds of files, such as `models` or `workloads`.

    files: offer paths as well.
    qualified: write `kind/name`.
    """

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
        from costmodel.schema.files import list_names

        search_path = ctx.params.get("search_path") or ()
        listed = [(kind, name) for kind in kinds for name in list_names(kind, search_path)]
        paths = [CompletionItem(incomplete, type="file")] if files else []
        return paths + _starting([f"{kind}/{name}" if qualified else name for kind, name in listed], incomplete)

    return complete


def words(choices: Sequence[str]) -> Completer:
    """Return a completer for a fixed list of words."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
        return _starting(choices, incomplete)

    return complete


def scenarios(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Return the scenarios of the workload that the line names."""
    loaded = _workload(ctx)
    return [] if loaded is None else _starting(loaded.scenarios, incomplete)


def metrics(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Return the metrics of the phases of the workload, of all phases where there is none."""
    from costmodel.result import PHASES

    loaded = _workload(ctx)
    kinds = PHASES if loaded is None else {loaded.scenario(name).result_kind for name in loaded.scenarios}
    return _starting(list(dict.fromkeys(name for kind in kinds for name in PHASES[kind][1])), incomplete)


def operators(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Return the lines and metrics of the first scenario of the workload that the line names."""
    loaded = _workload(ctx)
    if loaded is None:
        return []
    point = loaded.points(loaded.scenarios[:1], None)[loaded.scenarios[0]]
    return _starting([*(entry.name for entry in point.breakdown), *point.metrics], incomplete)


def paths(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
    """Return what `--set` and `--vary` may change of the workload, a part at a time."""
    loaded = _workload(ctx)
    if loaded is None:
        return []
    document = loaded.resolved.document
    hardware = next(iter(document["scenarios"].values()))["hardware"]
    parents, _, _ = incomplete.rpartition(".")
    below: object = {**document, "hardware": {**hardware, **hardware.get("device", {})}}
    for part in parents.split(".") if parents else ():
        below = _named(below).get(part)
    choices = [f"{parents}.{name}" if parents else name for name in _named(below)]
    return _starting(choices, incomplete)


def _named(value: object) -> dict[str, object]:
    """Return the entries of a mapping, or of a list whose items have names."""
    if isinstance(value, dict):
        return value
    items = value if isinstance(value, list) else []
    return {item["name"]: item for item in items if isinstance(item, dict) and "name" in item}


def _workload(ctx: click.Context) -> Workload | None:
    """Return the workload that the line names so far, null where it names none that can be read."""
    from costmodel.api import load
    from costmodel.errors import CostModelError

    name = ctx.params.get("workload") or next(iter(ctx.args), None)  # what click leaves where a value is missing
    if not name:
        return None
    folders = ctx.params.get("search_path") or ()
    try:
        return load(
            name, cluster=ctx.params.get("clusters") or None, search_path=folders,
            scenarios=ctx.params.get("scenarios") or None,
        )  # fmt: skip
    except CostModelError:
        return None


def _starting(choices: Sequence[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(choice) for choice in choices if choice.startswith(incomplete)]
