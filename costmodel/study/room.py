"""What exists and holds a scenario that does not fit: a shipped node, or fewer requests in flight."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator

from costmodel.api import Workload, load
from costmodel.errors import CostModelError, ImplausibleInput
from costmodel.result import Point
from costmodel.schema.files import load_node
from costmodel.schema.references import Library

_MOST_NODES = 3  # that are tried
_HALVINGS = 12
_IN_FLIGHT = ("batch_per_device", "batch", "concurrency", "tokens_per_device")


def with_room(arguments: str, workload: Workload, name: str, point: Point) -> tuple[str, str] | None:
    """Return where a scenario fits, in words, and the arguments of `simulate` for it; null where nothing is known.

    The first shipped node with as much memory, those of the same device before those of others, the smallest first;
    else the most of halves of the requests in flight. Each was evaluated.
    """
    source, *words = shlex.split(arguments)
    options = list(zip(words[::2], words[1::2], strict=True))
    for node in list(_nodes(workload, name, point))[:_MOST_NODES]:
        others = [(option, value) for option, value in options if option != "--cluster"]
        moved = [("--cluster", f"nodes/{node}"), *others]
        if _fits(source, moved, name):
            return f"on nodes/{node}", _joined(source, moved)
    for path, value in _halves(workload, name):
        fewer = [each for each in options if not each[1].startswith(f"{path}=")] + [("--set", f"{path}={value:g}")]
        if _fits(source, fewer, name):
            return f"with {path.rpartition('.')[2]} {value:g}", _joined(source, fewer)
    return None


def _nodes(workload: Workload, name: str, point: Point) -> Iterator[str]:
    """Yield shipped nodes that may hold a scenario: of a model all devices of them, else as many with more memory."""
    scenario = workload.scenario(name)
    roots = tuple(map(str, workload.roots))
    own, starts, ranked = scenario.cluster.device.name, workload.start is not None, []
    for node in Library(roots).names("nodes"):
        each = load_node(node, roots)
        capacity, count = float(each.device.device_memory.capacity), float(each.count)
        needed = point.on_device * (float(scenario.devices) if starts else 1.0)
        room = capacity * count if starts else capacity * (count >= scenario.devices)
        if room >= needed:
            ranked.append((each.device.name != own, room, node))
    yield from (node for *_, node in sorted(ranked))


def _halves(workload: Workload, name: str) -> Iterator[tuple[str, float]]:
    """Yield ever smaller values of the requests in flight by their path."""
    plan = workload.scenario(name).plan
    for field in _IN_FLIGHT:
        value = getattr(plan, field, None)
        if value is not None:
            yield from ((f"scenarios.{name}.{field}", float(value) / 2**n) for n in range(1, _HALVINGS))
            return


def _fits(source: str, options: list[tuple[str, str]], name: str) -> bool:
    of = {option: [value for each, value in options if each == option] for option in ("--cluster", "--phase", "--path")}
    changes = dict(value.split("=", 1) for option, value in options if option == "--set")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImplausibleInput)  # said of the scenario itself
        try:
            tried = load(source, changes, cluster=of["--cluster"], phases=of["--phase"], search_path=of["--path"])
            return tried.points([name])[name].fits
        except CostModelError:
            return False


def _joined(source: str, options: list[tuple[str, str]]) -> str:
    return shlex.join([source, *(word for option in options for word in option)])
