"""Which measurements and published figures a prediction rests on, and what that makes of a figure next to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from costmodel.analytic.intervals import RATES, TIMES
from costmodel.calibration.candidates import GRADIENTS
from costmodel.calibration.device_chain import CALIBRATIONS
from costmodel.calibration.fit_files import BACKWARD, COMPOSITION, ROOFLINE, SOURCES, FitStore
from costmodel.records import ValueRecord
from costmodel.schema.case import Case
from costmodel.schema.references import Library
from costmodel.schema.tree import Tree, to_python
from costmodel.study.published.predictions import Prediction, proportional_metric
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Scenario

UNSEEN, REFITTED, IN_SAMPLE = "unseen", "refitted", "in-sample"
STATES = (UNSEEN, REFITTED, IN_SAMPLE)
ENERGY = ("energy", "power")
"""What metrics begin with that a device's power moves."""
COUNTED = ("memory.", "host_memory.", "model.", "work.", "routing.", "device.")
"""What metrics begin with that no calibration and no time of a framework moves."""
_OF_BYTES = frozenset({"training.activations", "training.eager"})  # fields of a framework that move memory
_OF_EXPERTS = ("expert_streams", "casts_rows", "fused_experts", "slices_experts")
OF_TRAINING = frozenset({
    "sustained_slowdown", "host.operator",
    *(f"training.{name}" for name in (
        "activations", "eager", "tensor_overlap", "accumulation", "reduction", "weight_exchange", "context",
        *_OF_EXPERTS,
    )),
})  # fmt: skip
"""Fields of a framework that a training step alone takes notice of."""


class Dependence(ValueRecord):
    """Something that a value on the path of a prediction rests on.

    on: id of a case, name of a publication, or repository of measured rows as `owner/name`. `*` for any text.
    location: the file and the fields that rest on it.
    of_interval: only the ends of the interval do.
    fields: of a framework or device that are on the path, empty for all other files.
    is_choice: a person chose the value with the figure in sight, which no fit can take back.
    """

    on: str
    location: str
    of_interval: bool = False
    fields: tuple[str, ...] = ()
    is_choice: bool = False

    @property
    def is_power(self) -> bool:
        """Tell whether it is a device's power that rests on it, which no time does."""
        return bool(self.fields) and all(field.startswith("power.") for field in self.fields)


class State(ValueRecord):
    """What a figure is to its prediction. name: one of `STATES`; because: the places that rest on it.

    is_interval_unseen: nothing that the ends of the interval rest on is of the figure's source, or that was fitted
    again without it.
    """

    name: str
    because: tuple[str, ...] = ()
    is_interval_unseen: bool = True


def identities(case: Case) -> frozenset[str]:
    """Return all by which files may say that they rest on a case: its id, its publication, its repository."""
    return frozenset({case.id, case.publication, case.source.repository or case.id})


def dependences(case: Case, prediction: Prediction, library: Library) -> tuple[Dependence, ...]:
    """Return what the values on the path of a prediction rest on, each once."""
    entries: dict[Dependence, None] = {}
    for name, of_interval in _calibrations(prediction, library):
        entries.update(dict.fromkeys(_of_file(library, CALIBRATIONS, "calibration", name, of_interval=of_interval)))
    if prediction.workload is not None:
        scenario = prediction.scenario
        device = scenario.cluster.device.name
        unused = _unused(scenario)
        for one in _of_file(library, "frameworks", "framework", scenario.framework.name):
            idle = {field for field in one.fields if _is_idle(field, prediction.kernels)}
            if not (one.fields and set(one.fields) <= unused | idle):
                entries[one] = None
        entries.update(dict.fromkeys(_of_file(library, "devices", "device", device)))
    entries.update(dict.fromkeys(_of_workload(case, library)))
    return tuple(entries)


def state_of(
    case: Case, metric: str, entries: Iterable[Dependence], refitted: frozenset[str] = frozenset()
) -> State:  # fmt: skip
    """Return what a figure of a case is to a prediction.

    refitted: fields of the framework, and `composition` for the ends of intervals, that were fitted again without the
    publication.
    """
    names = identities(case)
    own = [one for one in entries if any(fnmatchcase(name, one.on) for name in names)]
    if metric.startswith(COUNTED):
        own = [one for one in own if one.location.startswith("workloads/") or not _OF_BYTES.isdisjoint(one.fields)]
    elif proportional_metric(metric) not in TIMES | RATES:
        own = [one for one in own if not one.location.startswith(f"{CALIBRATIONS}/{COMPOSITION}")]
    if not metric.startswith(ENERGY):
        own = [one for one in own if not one.is_power]
    values = [one for one in own if not one.of_interval]
    fixed = [one for one in values if not _is_refitted(one, refitted)]
    ends = [one for one in own if one.of_interval and not (COMPOSITION in refitted and COMPOSITION in one.location)]
    name = IN_SAMPLE if fixed else REFITTED if values else UNSEEN
    return State(name, tuple(dict.fromkeys(one.location for one in fixed or own)), not (ends or fixed))


def _unused(scenario: Scenario) -> frozenset[str]:
    """Return the fields of a framework that a scenario takes no notice of."""
    unused = frozenset[str]() if isinstance(scenario.plan, Training) else OF_TRAINING
    if not any(isinstance(layer.ffn, MoeFfn) for layer in scenario.architecture.layers):
        unused |= {f"training.{name}" for name in _OF_EXPERTS}
    if not scenario.architecture.has_recurrences:
        unused |= {"host.recurrence", "engine.scheduler.recurrent_async"}
    parallel = scenario.parallel
    if not np.any(np.greater(parallel.cp, 1)):
        unused |= {"training.context"}
    if parallel.expert_tensor is not None or not np.any(np.minimum(parallel.tp, parallel.ep) > 1):
        unused |= {"training.slices_experts"}
    return unused if scenario.communication.mode == "normal" else unused | {"moe_comm_slowdown"}


def _is_idle(field: str, kernels: frozenset[str]) -> bool:
    """Tell whether a field of a framework names the implementations of kernels of which none is on the path."""
    head, _, key = field.partition(".")
    return head == "implementations" and bool(key) and key not in kernels


def _is_refitted(one: Dependence, refitted: frozenset[str]) -> bool:
    """Tell whether all fields of a framework that rest on something were refitted: they, or the numbers under them."""
    return bool(one.fields) and not one.is_choice and all(
        any(each == field or each.startswith(f"{field}.") for each in refitted) for field in one.fields
    )  # fmt: skip


def _calibrations(prediction: Prediction, library: Library) -> Iterator[tuple[str, bool]]:
    """Yield the calibration files on the path of a prediction, and whether only its interval rests on them."""
    if prediction.kernel is not None:
        for source in () if prediction.fit is None else prediction.fit.split(", "):
            yield source.removeprefix(f"{CALIBRATIONS}/"), False
        yield SOURCES, True
        yield ROOFLINE, prediction.fit is not None
    elif prediction.workload is not None:
        yield from ((source.removeprefix(f"{CALIBRATIONS}/"), False) for source in prediction.sources)
        for family in sorted(prediction.fitted & set(GRADIENTS)):
            yield _backward(family, prediction.scenario.cluster.device.name, library), False
        yield ROOFLINE, True
        yield COMPOSITION, True


def _backward(family: str, device: str, library: Library) -> str:
    """Return the file that states the rate of backward attention on a device."""
    store = FitStore(library)
    for owner, _ in store.chain(device):
        fits = store.device_fits(owner, BACKWARD)
        if fits is not None and family in fits.file.families:
            return f"{owner}/{BACKWARD}"
    return BACKWARD


def _of_file(
    library: Library, kind: str, schema: str, name: str, *, of_interval: bool = False
) -> Iterator[Dependence]:  # fmt: skip
    """Yield what the values of a file rest on, and those of the files that it extends unless it replaces them."""
    stated: set[str] = set()
    following: str | None = f"{kind}/{name}"
    while following is not None:
        tree = _tree(library, kind, schema, following)
        if tree is None:
            return
        own = _entries(tree)
        for entry in own:
            fields = tuple(field for field in entry.get("fields", ()) if field not in stated)
            if fields:
                named = fields if kind in ("frameworks", "devices") else ()
                yield from _entry(entry, following, named, of_interval=of_interval)
        stated |= {field for entry in own for field in entry.get("fields", ())}
        following = tree.text("extends") if tree.child("extends") is not None else None


def _tree(library: Library, kind: str, schema: str, reference: str) -> Tree | None:
    """Return the document of a file as written. None for one that was made in Python."""
    if not any((root / "hardware" / f"{reference}.yaml").is_file() for root in library.roots):
        return None
    return library.read_unextended(library.find(reference, kind), schema)


def _entries(tree: Tree) -> Sequence[Mapping[str, Any]]:
    sources = tree.child("sources")
    return [] if sources is None else to_python(sources)


def _entry(
    entry: Mapping[str, Any], location: str, fields: tuple[str, ...], *, of_interval: bool
) -> Iterator[Dependence]:  # fmt: skip
    for key in ("rests_on", "seen"):
        for each in entry.get(key, ()):
            where = f"{location}: {', '.join(entry['fields'])}"
            yield Dependence(str(each), where, of_interval, fields, key == "seen")


def _of_workload(case: Case, library: Library) -> Iterator[Dependence]:
    """Yield what was in sight when values of the workload file that a case names were chosen."""
    name = None if case.scenario is None or case.scenario.child("workload") is None else case.scenario.text("workload")
    if name is None:
        return
    scope = f"scenarios.{case.scenario_name}"
    for entry in _entries(library.read_unextended(library.find_workload(name), "workload")):
        if any(field == "model" or f"{field}.".startswith(f"{scope}.") for field in entry.get("fields", ())):
            yield from _entry(entry, f"workloads/{name}", (), of_interval=False)
