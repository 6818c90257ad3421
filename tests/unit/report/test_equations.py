"""Equations that `explain` prints are those of the code: their terms give the printed values."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import run_here

import costmodel
from costmodel.equations import equation, equations_of
from costmodel.quantities import Bytes, BytesPerSecond
from costmodel.report.equations import Chain, evaluated, traced
from costmodel.report.explain import explain, lines, names_of

CASES = [
    ("deepseek_v3", "training"),
    ("deepseek_v3", "prefill"),
    ("deepseek_v3", "decode"),
    ("deepseek_v3", "decode_ep_bound"),
    ("gpt3_175b_a100", "selective"),
    ("deepseek_v3_serving", "online"),
    ("llama3_8b_rtx4090", "batch"),
    ("llama3_8b_lora_rtx4090", "qlora"),
    ("llama3_8b_lora_rtx4090", "dpo"),
    ("llama3_8b_grpo_h100", "step"),
    ("llama3_8b_grpo_h100", "async"),
]


def _asked(workload: costmodel.Workload, scenario: str) -> Iterator[tuple[str, float]]:
    """Yield all that no operator explains, with its value: metrics, parts of memory, lines in which none runs."""
    result = workload.evaluate(scenario).point()
    yield from ((name, value) for name, value in result.metrics.items() if value is not None)
    yield from ((name, value) for name, value in (result.memory or {}).items() if value)
    yield from ((line.name, line.time) for line in lines(workload, scenario) if not line.operators)


@pytest.mark.parametrize(("name", "scenario"), CASES, ids=map(" ".join, CASES))
def test_the_printed_terms_give_the_printed_value(name: str, scenario: str) -> None:
    workload = costmodel.load(name)
    for asked, value in _asked(workload, scenario):
        documents = [each.document() for each in explain(workload, scenario, asked)]
        assert math.isclose(math.fsum(each["value"] for each in documents), value, rel_tol=1e-9), asked
        _check([block for each in documents for block in each["blocks"]])


def _check(blocks: list[dict[str, Any]]) -> None:
    """Check that every equation holds for the printed values of its terms."""
    for block in blocks:
        assert re.fullmatch(r"costmodel/[\w/]+\.py:\d+", block["place"])
        terms = {term: math.inf if each is None else each for term, each in block["terms"].items()}
        for text in block["equations"]:
            stated, sign, expression = text.partition(" = ")
            if sign:
                assert evaluated(expression, terms) == pytest.approx(terms[stated], rel=1e-9), (text, terms)


@pytest.mark.parametrize(
    ("name", "scenario", "files"),
    [
        ("deepseek_v3", "decode", {"gemm", "elementwise", "expert_all_to_all", "kernels"}),
        ("deepseek_v3_hybrid", "decode", {"operator_time", "expected_roofline"}),
        ("mixtral_8x7b_h100", "prefill", {"gemm", "attention", "collective"}),
    ],
)
def test_the_printed_terms_of_an_operator_give_its_time(name: str, scenario: str, files: set[str]) -> None:
    workload, seen = costmodel.load(name), set()
    for line in lines(workload, scenario):
        for each in explain(workload, scenario, line.name) if line.operators else ():
            document = each.document()
            first = document["blocks"][0]
            stated = first["equations"][0].partition(" = ")[0]
            assert first["terms"][stated] == pytest.approx(document["time"], rel=1e-9)
            assert any(text.startswith("t = ") for block in document["blocks"] for text in block["equations"])
            _check(document["blocks"])
            seen.add(document["file"].rpartition("/")[2].removesuffix(".py"))
    assert seen >= files


@pytest.mark.parametrize("kind", ["all_reduce", "all_reduce:tree", "all_gather", "reduce_scatter:hierarchical",
                                  "broadcast:chunks=8", "all_to_all", "send_recv", "dispatch",
                                  "combine:low_latency"])  # fmt: skip
@pytest.mark.parametrize("engine", ["analytic", "flow"])
def test_the_printed_terms_of_a_message_give_its_time(kind: str, engine: str) -> None:
    if engine == "flow" and ("chunks" in kind or "low" in kind):
        return
    asked = ("collective", kind, "--cluster", "clusters/h800-2048-mpft", "--ranks", "32", "--size", "8MiB")
    done = run_here(*asked, "--engine", engine, "--json")
    document = json.loads(done.out)
    first, second, *_ = document["blocks"]
    assert first["terms"]["time"] == document["time"]
    assert any(text.startswith(("transfer = ", "seconds = ")) for text in second["equations"])
    _check(document["blocks"])
    links = {value for block in document["blocks"] for name, value in block["terms"].items() if name == "links.intra"}
    assert all(bandwidth <= 200e9 for bandwidth in links), "of a link twice as fast, which only says what bounds"


def test_a_message_between_nodes_says_where_planes_enter() -> None:
    asked = ("collective", "all_gather", "--cluster", "clusters/h800-2048-mpft", "--size", "64MiB")
    shown = run_here(*asked, "--ranks", "64", "--verbose").out
    assert "inter = bandwidth * nic.per_device" in shown
    assert "planes: 8 fabrics side by side" in shown
    assert "topologies.py" not in shown
    assert "planes:" not in run_here(*asked, "--ranks", "8").out
    assert "leaf_assignment" in run_here(*asked, "--ranks", "64", "--engine", "flow", "--verbose").out


def test_a_fitted_message_is_explained_by_its_form_and_what_corrects_it() -> None:
    asked = ("collective", "all_reduce", "--cluster", "clusters/h800-2048-mpft", "--ranks", "64", "--size", "64MiB")
    document = json.loads(run_here(*asked, "--json").out)
    equations = [text for block in document["blocks"] for text in block["equations"]]
    functions = [block["function"] for block in document["blocks"]]
    assert "seconds = t * residual_factor * repeats" in equations
    assert "across = hops + transfer + links.setup" in equations
    assert not {"nccl_time", "_wire"} & set(functions)  # neither is what decides between nodes


def test_the_list_names_all_metrics_and_parts_of_memory() -> None:
    workload = costmodel.load("deepseek_v3")
    names = names_of(workload, "decode")
    point = workload.evaluate("decode").point()
    assert names["metrics"] == [name for name, value in point.metrics.items() if value is not None]
    assert {name for name, size in (point.memory or {}).items() if size} < set(names["memory"])
    assert "contention" in names["terms"]


TEXT = """
schema: costmodel/workload@1
model: models/{model}
scenarios:
  serving: {{phase: serving, cluster: nodes/{node}, framework: {framework}, parallel: {{{parallel}}},
    input_tokens: 3000, output_tokens: 500, {more}}}
"""
DENSE = "llama-3-8b", "h100-x1", "tp: 1"
SERVERS = {
    "at a rate": (DENSE, "vllm", "rate: 4 /s", "rest of the running step"),
    "few seats": (DENSE, "vllm", "rate: 2 /s, scheduler: {max_num_seqs: 16}", "waiting for a seat"),
    "a look every ten steps": (DENSE, "sglang", "rate: 4 /s, scheduler: {look_steps: 10}", "behind other prompts"),
    "a closed loop": (DENSE, "vllm", "concurrency: 64", "steps under way"),
    "a closed loop beyond memory": (DENSE, "vllm", "concurrency: 900", "waiting for memory"),
    "full steps": (DENSE, "vllm", "concurrency: 200, scheduler: {token_budget: 512}", "waiting for a chunk"),
}  # fmt: skip
WHOLLY = ("at a rate", "a closed loop")  # of the others what their queues change


@pytest.mark.parametrize("case", SERVERS)
def test_the_printed_terms_of_a_server_give_its_metrics_and_waits(case: str, tmp_path: Path) -> None:
    (model, node, parallel), framework, more, shown = SERVERS[case]
    path = tmp_path / "serving.yaml"
    path.write_text(TEXT.format(model=model, node=node, parallel=parallel, framework=framework, more=more))
    workload = costmodel.load(path)
    asked = dict(_asked(workload, "serving"))
    assert {shown, "ttft", "tpot", "kv_blocks", "kv_use", "prefix_hit_rate", "kv_cache"} <= asked.keys()
    for name, value in asked.items() if case in WHOLLY else [(name, asked[name]) for name in (shown, "ttft", "tpot")]:
        documents = [each.document() for each in explain(workload, "serving", name)]
        assert math.fsum(each["value"] for each in documents) == pytest.approx(value, rel=1e-9), name
        _check([block for each in documents for block in each["blocks"]])
        assert documents[0]["blocks"], name


def test_the_time_to_first_token_of_a_server_leads_to_its_queues_and_prefix_hits_to_what_they_save(
    tmp_path: Path,
) -> None:
    (model, node, parallel), framework, more, _ = SERVERS["few seats"]
    path = tmp_path / "serving.yaml"
    more += ", prefix_hit_rate: 0.5"
    path.write_text(TEXT.format(model=model, node=node, parallel=parallel, framework=framework, more=more))

    def functions(name: str) -> list[str]:
        shown = json.loads(run_here("explain", path, "--op", name, "--json").out)["operators"][0]
        return [block["function"] for block in shown["blocks"]]

    assert {"OpenLoopEvaluation.metrics", "Solution.first", "queue_wait", "waiting_share"} <= set(functions("ttft"))
    assert {"kv_pool", "_room"} <= set(functions("kv_blocks"))
    assert "computed_tokens" in functions("prefix_hit_rate")
    assert functions("waiting for a seat")[0] == "queue_wait"


def test_a_wait_is_that_of_the_queue_which_it_is_asked_of_by_either_name(tmp_path: Path) -> None:
    (model, node, parallel), framework, more, _ = SERVERS["few seats"]
    path = tmp_path / "serving.yaml"
    path.write_text(TEXT.format(model=model, node=node, parallel=parallel, framework=framework, more=more))
    workload = costmodel.load(path)
    for name in ("waiting for a seat", "behind other prompts"):
        (time,) = (line.time for line in lines(workload, "serving") if line.name == name)
        for asked in (name, name.replace(" ", "_")):
            (found,) = explain(workload, "serving", asked)
            assert found.value == pytest.approx(time, rel=1e-12)


@pytest.mark.parametrize("scenario", ["deepseek_v3 prefill", "deepseek_v3_serving online"])
def test_hits_of_prefixes_lead_to_the_tokens_that_are_computed(scenario: str) -> None:
    workload, name = scenario.split()
    (found,) = explain(costmodel.load(workload), name, "prefix_hit_rate")
    (block,) = found.document()["blocks"]
    assert block["terms"]["computed"] == pytest.approx((1 - found.value) * block["terms"]["input_tokens"])


def test_hits_of_requests_that_share_prefixes_have_the_equation_of_the_request_engine(tmp_path: Path) -> None:
    path = tmp_path / "serving.yaml"
    more = "rate: 4 /s, requests: {prefix: {tokens: 300, groups: 4}}"
    path.write_text(TEXT.format(model="llama-3-8b", node="h100-x1", parallel="tp: 1", framework="vllm", more=more))
    (found,) = explain(costmodel.load(path), "serving", "prefix_hit_rate")
    assert "prefix_hit_rate = total.cached_tokens / total.input_tokens" in found.notes[0]
    assert "costmodel/serving/evaluation.py:" in found.notes[0]


@pytest.mark.parametrize(("name", "scenario"), CASES[:3], ids=map(" ".join, CASES[:3]))
def test_equations_hold_in_any_system_of_units_and_a_name_has_one(name: str, scenario: str) -> None:
    workload = costmodel.load(name)
    for asked in dict(_asked(workload, scenario)):
        for each in explain(workload, scenario, asked):
            stated: dict[str, set[str | None]] = {}
            for line in (line for block in each.blocks for line in block.lines):
                stated.setdefault(line.equation.name, set()).add(line.units[line.equation.name])
                units = {path: one for path, one in line.units.items() if one is not None}
                if line.equation.expression and len(units) == len(line.units):
                    assert line.holds_in(units), (asked, line.equation, units)
            assert all(len(units - {None}) <= 1 for units in stated.values()), (asked, stated)


def test_units_follow_from_equations() -> None:
    with traced() as calls:
        _speed(6.0, 3.0, 2.0)
    ((block,),) = Chain(calls).derivations("speed", 4.0)
    ((line, mean),) = [block.lines]
    assert (line.units, mean.units) == (
        {"speed": "B/s", "mean": "B", "seconds": "s"},
        {"mean": "B", "one": "B", "other": "B"},  # what is added up has one unit
    )
    assert not line.holds_in({"speed": "B/s", "mean": "B", "seconds": "B"})


@equation
def _speed(one: Bytes, other: float, seconds: float) -> BytesPerSecond:
    """Return bytes per second.

    speed = mean / seconds
    mean = max(one, other) + (one - other) * 2 / 3
    """
    mean = max(one, other) + (one - other) * 2 / 3
    return mean / seconds


@equation
def _area(width: float, heights: list[float]) -> dict[str, float]:
    """Return an area.

        area = width * total      of all strips, each
        total = sum(heights)
        note := an algorithm (`_strip`)

    Not an equation: area is large.
    """
    total = sum(heights)
    return {"area": width * total, "note": _strip(width)}


@equation
def _strip(width: float) -> float:
    """Return half of it.

    half = width / 2
    """
    return width / 2


def test_equations_are_read_from_docstrings_with_their_notes() -> None:
    first, second, third = equations_of(_area)
    assert (first.name, first.expression, first.note) == ("area", "width * total", "of all strips, each")
    assert str(second) == "total = sum(heights)"
    assert (third.expression, third.note) == ("", "an algorithm (`_strip`)")


def test_values_are_those_of_the_call_and_lead_to_what_they_follow_from() -> None:
    with traced() as calls:
        _area(2.0, [1.0, 3.0])
        _area(5.0, [1.0, 1.0])
    ((block,),) = Chain(calls).derivations("area", 8.0)
    assert block.terms == {"area": 8.0, "width": 2.0, "total": 4.0, "heights": [1.0, 3.0]}
    assert block.place.startswith("tests/unit/report/test_equations.py:")
    ((_, strip),) = Chain(calls).derivations("note", 1.0)
    assert [str(line.equation) for line in strip.lines] == ["half = width / 2"]
    assert Chain(calls).derivations("area", 9.0) == []
    parts = Chain(calls).derivations("area", 18.0)  # what both calls add to
    assert [block.lines[0].value for (block,) in parts] == [10.0, 8.0]


def test_nothing_is_noted_of_what_runs_later() -> None:
    with traced() as calls:
        pass
    _strip(2.0)
    assert calls == []
