"""A search of servers finds the cheapest engines whose slowest requests keep the objective; decoding, whole batches."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import costmodel
from costmodel.study.goals import SearchResult
from costmodel.study.search import Space, searched, settings
from costmodel.study.sweep import NOTHING, Wanted

CHAT: dict[str, Any] = {
    "schema": "costmodel/workload@1", "model": "models/llama-3-8b",
    "scenarios": {"chat": {
        "phase": "serving", "cluster": "nodes/dgx-h100", "framework": "vllm", "input_tokens": 1000,
        "output_tokens": 250, "rate": "450 /s", "slo": {"ttft": "500 ms", "tpot": "30 ms"},
    }},
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "schema": "costmodel/workload@1", "model": "models/deepseek-v3",
    "scenarios": {"decode": {
        "phase": "decode", "cluster": {"node": "nodes/hgx-h200", "count": 4}, "framework": "sglang",
        "parallel": {"dp": 16, "ep": 16}, "batch_per_device": 32, "input_tokens": 2000, "output_tokens": 500,
        "micro_batches": 1,
    }},
}  # fmt: skip


def loaded(document: dict[str, Any], tmp_path: Path, **changes: str) -> costmodel.Workload:
    """Return a workload from a file of its own."""
    path = tmp_path / "workload.yaml"
    path.write_text(json.dumps(document))
    return costmodel.load(path, set={name.replace("__", "."): value for name, value in changes.items()})


def found(workload: costmodel.Workload, name: str, devices: tuple[int, ...] = ()) -> SearchResult:
    """Return what a search finds."""
    return searched(workload, name, None, NOTHING, Space(devices))


def keeps(workload: costmodel.Workload, engines: int) -> bool:
    """Tell whether so many engines of one device keep up with their limits."""
    point = workload.changed({"scenarios.chat.replicas.count": engines}).points()["chat"]
    tails = point.percentiles or {}
    return point.verdict == "stable" and tails["ttft"]["p99"] <= 0.5 and tails["tpot"]["p99"] <= 0.03


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> tuple[costmodel.Workload, SearchResult]:
    """Return a service and its search."""
    workload = loaded(CHAT, tmp_path_factory.mktemp("chat"))
    return workload, found(workload, "chat")


def test_the_fewest_engines_that_keep_the_objective_are_found(chat: tuple[costmodel.Workload, SearchResult]) -> None:
    workload, result = chat
    alone = next(one for one in result.best if one.at["parallel.tp"] == 1 and one.at["parallel.pp"] == 1)
    engines = alone.at["replicas.count"]
    assert engines > 16, "a number between those that the search tries by itself"
    assert keeps(workload, engines)
    assert not keeps(workload, engines - 1)
    assert alone.objective == pytest.approx(engines * workload.scenario("chat").cluster.device.price.rental)
    assert [one.objective for one in result.best] == sorted(one.objective for one in result.best)


def test_the_settings_of_servers_give_the_layout_that_was_found(chat: tuple[costmodel.Workload, SearchResult]) -> None:
    workload, result = chat
    point = workload.changed(settings(workload, result)).points()["chat"]
    assert point.devices == result.best[0].devices > 1
    assert point.metrics["latency"] == pytest.approx(result.best[0].metrics["latency"], rel=1e-9)


@pytest.mark.parametrize(
    ("changes", "constraint", "told"),
    [
        ({"rate": "50 /s", "slo__tpot": "1 ms"}, None, r"none has the 99th percentile .*, has tpot 10\.\d+ ms of 1 ms"),
        ({"rate": "450 /s"}, None, r"none keeps up with the rate: the nearest, .*, serves 9\d\.\d+ of 450 requests/s"),
        ({"rate": "20 /s"}, "tpot <= 1 ms", r"none meets `tpot <= 1 ms`: one is .*, tpot 0\.00"),
    ],
)  # fmt: skip
def test_what_the_nearest_layout_lacks_is_told(
    tmp_path: Path, changes: dict[str, str], constraint: str | None, told: str
) -> None:
    workload = loaded(CHAT, tmp_path, **{f"scenarios__chat__{name}": value for name, value in changes.items()})
    wanted = Wanted({}, () if constraint is None else (constraint,))
    result = searched(workload, "chat", None, wanted, Space((4,)))
    assert not result.best
    assert re.search(told, result.why or "")


def test_engines_that_do_not_fit_are_told_with_their_memory(tmp_path: Path) -> None:
    result = found(loaded({**CHAT, "model": "models/llama-3.1-405b"}, tmp_path), "chat", devices=(4,))
    assert not result.best
    assert result.why is None
    assert result.least is not None
    assert result.least.memory > result.least.capacity


def test_users_who_wait_for_answers_get_the_highest_rate_of_a_device(tmp_path: Path) -> None:
    closed = {**CHAT["scenarios"]["chat"], "concurrency": 32}
    del closed["rate"]
    result = found(loaded({**CHAT, "scenarios": {"chat": closed}}, tmp_path), "chat", devices=(1, 2))
    assert result.sense == "maximise"
    assert result.best[0].devices == 1


def test_experts_are_exchanged_by_deepep_where_that_is_faster(tmp_path: Path) -> None:
    workload = loaded(EXPERTS, tmp_path)
    result = found(workload, "decode", devices=(16,))
    best = result.best[0]
    assert best.at["scenarios.decode.communication.exchange"] == "all_to_all"
    chosen = workload.changed(settings(workload, result))
    assert chosen.scenario("decode").communication.mode == "low_latency"
    assert chosen.points()["decode"].metrics["tpot"] == pytest.approx(best.metrics["tpot"], rel=1e-9)
    stated = loaded(EXPERTS, tmp_path, scenarios__decode__communication__exchange="gather")
    gathered = found(stated, "decode", devices=(16,)).best[0]
    assert "scenarios.decode.communication.exchange" not in gathered.at
    assert gathered.objective < best.objective


def test_the_batch_is_the_largest_whole_number_that_keeps_the_limit() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    limits = Wanted({}, ("tpot <= 50 ms",))
    best = searched(workload, "decode", None, limits, Space((64,))).best[0]
    batch = best.at["batch_per_device"]
    assert batch & (batch - 1), "no power of two"
    layout = {f"scenarios.decode.{name}": value for name, value in best.at.items()}
    step = int(workload.scenario("decode").plan.micro_batches)  # type: ignore[union-attr]
    above = workload.changed({**layout, "scenarios.decode.batch_per_device": batch + step}).points()["decode"]
    assert above.metrics["tpot"] is None or above.metrics["tpot"] > 0.05


def test_a_search_takes_a_traces_lengths_and_says_what_it_leaves_to_requests(tmp_path: Path) -> None:
    (tmp_path / "calls.csv").write_text("arrival_s,input_tokens,output_tokens\n0,900,200\n9,1100,300\n")
    chat = {key: value for key, value in CHAT["scenarios"]["chat"].items() if not key.endswith("_tokens")}
    left = {**CHAT, "scenarios": {"chat": {**chat, "requests": {"trace": "./calls.csv"}}}}
    by_trace, stated = (found(loaded(each, tmp_path), "chat", (32,)) for each in (left, CHAT))
    assert [one.at for one in by_trace.best] == [one.at for one in stated.best]
    assert [one.objective for one in by_trace.best] == [one.objective for one in stated.best]
    assert "lengths of `requests.trace`" in by_trace.notes[0]
    assert not any("closed form: without" in note for note in stated.notes)
    loose = {"scenarios__chat__slo__ttft": "10 s", "scenarios__chat__slo__tpot": "200 ms"}
    near = found(loaded(CHAT, tmp_path, **loose), "chat", (22,))
    assert any(note.startswith("the first layout: the rate is 86% of the highest stable one") for note in near.notes)
