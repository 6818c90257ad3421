"""What figures are to predictions: unseen, refitted or in-sample, decided by what files say that they rest on."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_world import write

from costmodel.analytic.evaluation import evaluate
from costmodel.calibration.device_chain import CALIBRATIONS
from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.schema.case import Case, load_case_file
from costmodel.schema.references import Library, package_root
from costmodel.study.published.predictions import Prediction, predict
from costmodel.study.published.provenance import (
    IN_SAMPLE,
    REFITTED,
    UNSEEN,
    Dependence,
    dependences,
    identities,
    state_of,
)
from costmodel.study.published.reproduce import load_cases, reproduce

CASE = """
schema: costmodel/case@1
source: {cite: "a paper", verified: true, repository: someone/rows}
cases:
  - id: step
    class: training
    scenario: {model: models/tiny, phase: training, cluster: clusters/pair, framework: %s, parallel: {dp: 8},
               global_batch: 16, sequence: 128}
    expect: [{metric: step_time, value: 1 s, tolerance: 10 %%}, {metric: mfu, value: 0.1, tolerance: 10 %%},
             {metric: memory.weights, value: 1 GB, tolerance: 10 %%}]
"""
FRAMEWORK = """
schema: costmodel/framework@1
extends: frameworks/default
name: mine
sustained_slowdown: 1.1
sources:
  - {fields: [sustained_slowdown], cite: "a fit", kind: derived, %s: [%s]}
"""


def _case(world: Path, framework: str = "default") -> Case:
    path = write(world, "workloads/published/paper.yaml", CASE % framework)
    return load_case_file(path, [world])[0]


def _state(world: Path, key: str, on: str, metric: str = "step_time", refitted: frozenset[str] = frozenset()) -> str:
    write(world, "hardware/frameworks/mine.yaml", FRAMEWORK % (key, on))
    case, library = _case(world, "mine"), Library([world])
    return state_of(case, metric, dependences(case, predict(case, [world], library), library), refitted).name


@pytest.mark.parametrize(
    ("on", "state"), [("other", UNSEEN), ("paper", IN_SAMPLE), ("step", IN_SAMPLE), ("someone/rows", IN_SAMPLE)]
)
def test_a_figure_is_unseen_only_if_nothing_rests_on_it_its_publication_or_its_repository(
    world: Path, on: str, state: str
) -> None:
    assert _state(world, "rests_on", on) == state


def test_a_value_that_was_fitted_again_makes_a_figure_refitted(world: Path) -> None:
    again = frozenset({"sustained_slowdown"})
    assert _state(world, "rests_on", "paper", refitted=again) == REFITTED
    assert _state(world, "rests_on", "paper", refitted=frozenset({"moe_comm_slowdown"})) == IN_SAMPLE


def test_no_fit_takes_back_a_choice_that_was_made_with_the_figure_in_sight(world: Path) -> None:
    assert _state(world, "seen", "paper", refitted=frozenset({"sustained_slowdown"})) == IN_SAMPLE


@pytest.mark.parametrize(("key", "state"), [("gemm", IN_SAMPLE), ("gemm/fp8_block", UNSEEN), ("mla_decode", UNSEEN)])
def test_a_choice_of_kernels_counts_where_a_run_has_such_kernels(world: Path, key: str, state: str) -> None:
    write(world, "hardware/frameworks/mine.yaml", f"""
schema: costmodel/framework@1
extends: frameworks/default
name: mine
implementations: {{{key}: cublas-vllm}}
sources:
  - {{fields: [implementations.{key}], cite: "a page", kind: vendor-page, seen: [paper]}}
""")  # fmt: skip
    case, library = _case(world, "mine"), Library([world])
    assert state_of(case, "step_time", dependences(case, predict(case, [world], library), library)).name == state


def test_a_slowdown_says_nothing_of_memory(world: Path) -> None:
    assert _state(world, "rests_on", "paper", metric="memory.weights") == UNSEEN


def test_what_a_device_draws_says_nothing_of_a_time(world: Path) -> None:
    case = _case(world)
    logs = Dependence("paper", "devices/mine: power.busy", fields=("power.busy",))
    assert state_of(case, "energy_per_token", [logs]).name == IN_SAMPLE
    assert state_of(case, "step_time", [logs]).name == UNSEEN
    clock = Dependence("paper", "devices/mine: clock, power.busy", fields=("clock", "power.busy"))
    assert state_of(case, "step_time", [clock]).name == IN_SAMPLE


def test_a_value_that_a_framework_replaces_is_not_on_its_path(world: Path) -> None:
    base = FRAMEWORK.replace("name: mine", "name: base") % ("rests_on", "paper")
    write(world, "hardware/frameworks/base.yaml", base)
    child = FRAMEWORK.replace("frameworks/default", "frameworks/base") % ("rests_on", "other")
    write(world, "hardware/frameworks/mine.yaml", child)
    case, library = _case(world, "mine"), Library([world])
    found = dependences(case, predict(case, [world], library), library)
    frameworks = {one.on for one in found if "frameworks/" in one.location}
    assert frameworks == {"other"}


def test_ends_of_an_interval_are_told_from_the_prediction() -> None:
    (case,), _ = load_cases(["pd_decode_tps"])
    ends = Dependence("deepseek_profile", f"{CALIBRATIONS}/composition: families", of_interval=True)
    found = state_of(case, case.expect[0].metric, [ends])
    assert (found.name, found.is_interval_unseen) == (UNSEEN, False)
    again = state_of(case, case.expect[0].metric, [ends], frozenset({"composition"}))
    assert again.is_interval_unseen


def test_figures_of_one_run_are_one_group(world: Path) -> None:
    case = _case(world)
    rows, _ = reproduce([case], [str(world)])
    groups = {row.metric: row.group for row in rows}
    assert groups["step_time"] == groups["mfu"] != groups["memory.weights"]
    named, _ = reproduce([replace(case, group="both fabrics")], [str(world)])
    assert {row.group for row in named} == {"both fabrics"}


def test_comparing_tells_how_far_it_is(world: Path) -> None:
    case, told = _case(world), []
    reproduce([case, replace(case, id="again")], [str(world)], on_progress=told.append)
    assert told == [0, 1]


def test_no_shipped_figure_counts_as_unseen_that_a_fit_on_its_path_shares_a_source_with(long: bool) -> None:
    """From the files' text, without the code that decides: a case of every second publication and framework."""
    cases, _ = load_cases([])
    chosen: dict[tuple[str, str | None, str], Case] = {}
    for case in cases:
        if case.skip is None and case.case_class in ("training", "inference", "serving", "communication", "kernel"):
            framework = re.search(r"framework\S* '?([\w/-]+)", str(case.scenario))
            chosen.setdefault((case.publication, case.case_class, framework[1] if framework else ""), case)
    rows, _ = reproduce(list(chosen.values())[:: 1 if long else 2])
    by_id = {case.id: case for case in chosen.values()}
    library = Library()
    for row in rows:
        if row.state == UNSEEN:
            case = by_id[row.id]
            prediction = predict(case, (), library)
            places = {one.location.partition(":")[0] for one in dependences(case, prediction, library)}
            values = {place for place in places if not place.endswith(("/composition", "/roofline", "/effects"))}
            assert not {name for place in values for name in _written(place)} & identities(case), row.id


def test_every_file_of_a_joined_fit_is_on_the_path_of_a_prediction() -> None:
    """However little a part weighs."""
    (case,), _ = load_cases(["pd_decode_tps"])
    library = Library()
    prediction = predict(case, (), library)
    places = {one.location.partition(":")[0] for one in dependences(case, prediction, library)}
    scenario = prediction.scenario
    assert prediction.workload is not None
    fits = [one.fit for one in evaluate(scenario, prediction.workload.calibration(scenario)).operators()]
    sources = {source for fit in fits for source in fit.sources}
    assert not any("," in source for source in sources)
    assert {source for source in sources if _rests_on_something(source)} <= places


def _rests_on_something(place: str) -> bool:
    document = _document(package_root() / "hardware" / f"{place}.yaml")
    return any(entry.get("rests_on") for entry in document.get("sources", ()))


def _document(path: Path) -> dict[str, Any]:
    """Return a file as another reader than the package's has it."""
    document: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return document


@cache
def _written(place: str) -> set[str]:
    """Return what a file says that any of its values rests on."""
    root = package_root()
    document = _document(root / ("" if place.startswith("workloads/") else "hardware") / f"{place}.yaml")
    fields = ("host", "host.operator", "sustained_slowdown", "moe_comm_slowdown")
    return {
        name
        for entry in document.get("sources", ())
        for name in (*entry.get("rests_on", ()), *entry.get("seen", ()))
        if place.startswith(CALIBRATIONS) or set(entry["fields"]) & set(fields)
    }


def test_every_calibration_says_what_it_rests_on() -> None:
    root = package_root() / "hardware" / CALIBRATIONS
    silent = []
    for path in sorted(root.rglob("*.yaml")):
        document = _document(path)
        if document.get("schema") == "costmodel/calibration@1" and not any(
            entry.get("rests_on") for entry in document["sources"]
        ):
            silent.append(path.relative_to(root).as_posix())
    assert not silent, "`python -m reports.fits.provenance` writes `rests_on`"


def test_every_derived_time_of_a_host_names_the_publications_that_it_was_made_from_or_beside() -> None:
    silent = []
    for path in sorted((package_root() / "hardware" / "frameworks").rglob("*.yaml")):
        document = _document(path)
        parts = {"host": document.get("host"), "eager_prompts": document.get("eager_prompts")}
        parts["engine"] = {key: (document.get("engine") or {}).get(key) for key in ("request", "request_token")}
        stated = [(f"{part}.{key}", value) for part, keys in parts.items() for key, value in (keys or {}).items()]
        times = {key for key, value in stated if str(value).endswith("s") and not str(value).startswith("0 ")}
        for entry in document.get("sources", []):
            named = times & {key for key in times for field in entry["fields"] if f"{key}.".startswith(f"{field}.")}
            if named and entry["kind"] == "derived" and not entry.get("rests_on") and not entry.get("seen"):
                silent.append((path.stem, sorted(named)))
    assert not silent


def test_facts_of_a_model_are_asked_by_their_names_with_and_without_its_section() -> None:
    known = Prediction({"hidden": 64.0}, None, None)
    assert known.value("model.hidden", {}) == known.value("hidden", {})
    with pytest.raises(InputError, match="needs a scenario"):
        known.value("tpot", {})
