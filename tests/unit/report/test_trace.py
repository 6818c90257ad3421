"""Traces of the event engine: the Chrome trace-event format, whole files, the same bytes."""

from __future__ import annotations

import gzip
import json
from bisect import bisect_right
from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import costmodel
from costmodel.analytic.training.step_model import step_model
from costmodel.api import event_engine
from costmodel.event.engine import Timeline
from costmodel.report.trace import document_lines, trace_events, write_trace
from costmodel.workload.memory import in_flight, stage_work
from costmodel.workload.plans import Training
from costmodel.workload.sharding import saved_bytes

SMALL = {"scenarios.training.global_batch": 4096.0}


@pytest.fixture(scope="module")
def timelines() -> dict[str, Timeline]:
    simulation = event_engine()
    workload = costmodel.load("deepseek_v3", set=SMALL, scenarios=["training", "decode"])
    workload.points(engine="event", simulation=simulation)
    return simulation.timelines


@pytest.fixture(scope="module")
def events(timelines: dict[str, Timeline]) -> list[dict[str, Any]]:
    lines = b"".join(document_lines(trace_events(timelines["training"], "training")))
    found: list[dict[str, Any]] = json.loads(lines)["traceEvents"]
    return found


def test_slices_of_a_thread_follow_one_another(events: list[dict[str, Any]]) -> None:
    threads: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            threads[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    assert len(threads) > 16
    for own in threads.values():
        for before, after in pairwise(sorted(own)):
            assert after[0] >= before[1] - 1e-3  # a nanosecond: times are rounded


def test_every_process_and_thread_has_a_name(events: list[dict[str, Any]]) -> None:
    named = {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}
    assert {(event["pid"], event["tid"]) for event in events if event["ph"] == "X"} <= named
    assert {event["cat"] for event in events if event["ph"] == "X"} <= {"kernel", "gpu_memcpy", "gpu_user_annotation"}


def test_every_arrow_starts_before_it_ends(events: list[dict[str, Any]]) -> None:
    begins = {event["id"]: event["ts"] for event in events if event["ph"] == "s"}
    ends = {event["id"]: event["ts"] for event in events if event["ph"] == "f"}
    assert begins.keys() == ends.keys()
    assert begins
    assert all(begins[number] <= ends[number] + 1e-3 for number in begins)


def test_counters_end_where_they_began(events: list[dict[str, Any]]) -> None:
    last: dict[tuple[int, str], float] = {}
    for event in events:
        if event["ph"] == "C":
            (level,) = event["args"].values()
            assert level >= 0
            last[event["pid"], event["name"]] = level
    assert {name for _, name in last} == {"links", "memory"}
    assert set(last.values()) == {0}


FIELDS = {
    "X": {"name": str, "cat": str, "ph": str, "pid": int, "tid": int, "ts": float, "dur": float, "args": dict},
    "M": {"name": str, "ph": str, "pid": int, "tid": int, "args": dict},
    "C": {"name": str, "ph": str, "pid": int, "tid": int, "ts": float, "args": dict},
    "s": {"name": str, "cat": str, "ph": str, "pid": int, "tid": int, "ts": float, "id": int},
    "f": {"name": str, "cat": str, "ph": str, "pid": int, "tid": int, "ts": float, "id": int, "bp": str},
}
"""Fields that the Trace Event Format asks for, by phase [Google, 2016, sections 'Event Descriptions']."""


def test_every_event_has_the_fields_of_its_phase_and_no_others(events: list[dict[str, Any]]) -> None:
    for event in events:
        wanted = FIELDS[event["ph"]]
        assert event.keys() == wanted.keys(), event
        for name, value in event.items():
            assert type(value) is wanted[name], event
        assert event.get("ts", 0.0) >= 0
        assert event.get("dur", 0.0) >= 0
        if event["ph"] == "C":
            assert all(type(value) in (int, float) for value in event["args"].values())
    kinds = {event["name"] for event in events if event["ph"] == "M"}
    assert kinds == {"process_name", "process_sort_index", "thread_name", "thread_sort_index"}


def test_every_arrow_leads_from_a_slice_to_a_slice_of_another_process(events: list[dict[str, Any]]) -> None:
    slices: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
    for own in slices.values():
        own.sort()
    ends: dict[int, list[int]] = defaultdict(list)
    for event in events:
        if event["ph"] in "sf":
            own = slices[event["pid"], event["tid"]]
            at = bisect_right(own, (event["ts"], float("inf"))) - 1
            assert own[at][0] <= event["ts"] < own[at][1], event
            ends[event["id"]].append(event["pid"])
    apart = [source != target for source, target in ends.values()]  # mirrored ranks in the middle are one process
    assert sum(apart) > 0.7 * len(apart)


def test_shared_links_have_a_counter_of_how_busy_they_are() -> None:
    simulation = event_engine()
    changes = {**SMALL, "scenarios.training.simulation.contention": True}
    costmodel.load("deepseek_v3", set=changes, scenarios=["training"]).points(engine="event", simulation=simulation)
    events = list(trace_events(simulation.timelines["training"], "training"))
    levels = [event["args"]["per cent"] for event in events if event["ph"] == "C" and event["name"] == "busiest link"]
    assert 50 < max(levels) <= 200  # the sum over messages that leave by different links
    assert min(levels) == 0


def test_files_are_whole_and_the_same_each_time(timelines: dict[str, Timeline], tmp_path: Path) -> None:
    for name in ("one.json.gz", "two.json.gz", "plain.json"):
        write_trace(tmp_path / name, timelines)
    assert (tmp_path / "one.json.gz").read_bytes() == (tmp_path / "two.json.gz").read_bytes()
    assert gzip.decompress((tmp_path / "one.json.gz").read_bytes()) == (tmp_path / "plain.json").read_bytes()
    assert len(list(tmp_path.iterdir())) == 3


def test_an_interrupt_leaves_no_half_written_file(timelines: dict[str, Timeline], tmp_path: Path) -> None:
    class Broken(dict[str, Timeline]):
        def items(self) -> Any:
            yield "training", timelines["training"]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_trace(tmp_path / "trace.json.gz", Broken(timelines))
    assert list(tmp_path.iterdir()) == []


def test_activations_peak_where_the_ledger_has_them(events: list[dict[str, Any]]) -> None:
    peaks: dict[int, float] = defaultdict(float)
    for event in events:
        if event["ph"] == "C" and event["name"] == "memory":
            peaks[event["pid"]] = max(peaks[event["pid"]], event["args"]["activations"])
    workload = costmodel.load("deepseek_v3", set=SMALL, scenarios=["training"])
    scenario = workload.scenario("training")
    assert isinstance(scenario.plan, Training)
    step = step_model(scenario, scenario.plan, workload.calibration(scenario))
    for rank, states in enumerate(in_flight(step.pipeline.schedule)):
        held = [stage_work(step.work, step.pipeline.layout[stage]) for stage in step.pipeline.schedule.stages_of(rank)]
        sizes = [sum(count * float(saved_bytes(work)) for count, work in stage) for stage in held]
        fullest = max(sum(n * size for n, size in zip(state, sizes, strict=True)) for state in states)
        assert peaks[rank] == pytest.approx(fullest, rel=1e-6)
