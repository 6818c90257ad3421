"""`routing` in a file: what goes together, and the table of counted tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import yaml
from small_world import edit, problems_of, write

from costmodel.errors import Problem
from costmodel.schema import SI, ResolvedWorkload
from costmodel.schema.resolve import resolve
from costmodel.workload.scenario import Routing

COUNTS = "expert,tokens\n0,10\n1,20\n2,30\n3,4\n"


@pytest.fixture
def experts(world: Path) -> Path:
    """Return the small world with a model of four experts, and a table of their tokens beside the workload."""
    edit(
        world,
        "workloads/models/tiny.yaml",
        "type: glu, intermediate: 128",
        "type: moe, experts: 4, intermediate: 64, top_k: 2",
    )
    write(world, "workloads/counts.csv", COUNTS)
    return world


def loaded(**changes: object) -> ResolvedWorkload:
    return resolve(
        "small", overrides={f"scenarios.decode.{key}": value for key, value in changes.items()}, search_path=["."]
    )


def routing(text: str) -> Routing:
    """Return the routing of the decode scenario with `routing` written into its file."""
    return loaded(routing=text).scenarios["decode"].routing


def in_file(world: Path, text: str) -> None:
    edit(world, "workloads/small.yaml", "batch_per_device: 4,", f"batch_per_device: 4, routing: {text},")


def problems(text: str) -> Sequence[Problem]:
    return problems_of(lambda: routing(text))


@pytest.mark.usefixtures("experts")
def test_routing_is_balanced_by_default() -> None:
    scenario = loaded().scenarios["decode"]
    assert (scenario.routing.load, scenario.routing.counts, scenario.routing.redundant) == ("balanced", None, 0)
    assert scenario.communication.expert_load is None
    assert loaded().value("scenarios.decode.routing.load") == "balanced"


@pytest.mark.usefixtures("experts")
def test_in_training_experts_are_loaded_by_chance_unless_a_load_is_stated() -> None:
    def of(**changes: object) -> tuple[str | None, bool]:
        overrides = {f"scenarios.train.{key}": value for key, value in changes.items()}
        scenario = resolve("small", overrides=overrides, search_path=["."]).scenarios["train"]
        return scenario.routing.load, any("loaded by chance" in note for note in scenario.notes)

    assert of() == ("uniform", True)
    assert of(**{"routing.load": "balanced"}) == ("balanced", False)
    assert of(**{"communication.expert_load": 1.3}) == ("balanced", False)


def test_steps_of_an_engine_have_the_popularity_of_a_trained_router_unless_a_load_is_stated(tmp_path: Path) -> None:
    run = {
        "phase": "serving", "cluster": "nodes/dgx-h100", "framework": "vllm", "parallel": {"tp": 2},
        "input_tokens": 128, "output_tokens": 64, "concurrency": 8,
    }  # fmt: skip

    def of(model: str = "gpt-oss-20b", **changes: object) -> tuple[str | None, object]:
        content = {"schema": "costmodel/workload@1", "model": f"models/{model}", "scenarios": {"run": run}}
        file = tmp_path / "run.yaml"
        file.write_text(yaml.safe_dump(content), encoding="utf-8")
        found = resolve(file, overrides={f"scenarios.run.{key}": each for key, each in changes.items()})
        routing = found.scenarios["run"].routing
        return routing.load, routing.spread

    assert of() == ("lognormal", 1.24)
    assert of("mixtral-8x7b") == ("uniform", 0.0)  # too few experts
    assert of(**{"routing.load": "uniform"}) == ("uniform", 0.0)
    assert of(**{"communication.expert_load": 1.2}) == ("uniform", 0.0)
    assert of(**{"routing.load": "lognormal", "routing.spread": 0.5}) == ("lognormal", 0.5)


def test_an_expert_load_is_read_from_communication(experts: Path) -> None:
    workload = resolve("small", overrides={"scenarios.decode.communication.expert_load": "1.3"}, search_path=[experts])
    assert workload.scenarios["decode"].communication.expert_load == 1.3


@pytest.mark.usefixtures("experts")
def test_sizes_of_a_routing_may_be_axes() -> None:
    skew = SI(np.array([0.0, 0.5, 1.0]))
    workload = loaded(
        **{"routing.load": "zipf", "routing.exponent": skew, "routing.redundant": SI(np.array([0.0, 4.0]))}
    )
    np.testing.assert_array_equal(workload.scenarios["decode"].routing.exponent, [0, 0.5, 1])


@pytest.mark.parametrize(
    ("text", "field", "message"),
    [
        ("{load: zipf}", "routing", "`exponent` is required"),
        ("{load: uniform, exponent: 1}", "routing", "not allowed otherwise"),
        ("{load: lognormal}", "routing", "`spread` is required"),
        ("{load: zipf, exponent: 1, spread: 1}", "routing", "not allowed otherwise"),
        ("{load: lognormal, spread: -1}", "routing.spread", "too small"),
        ("{load: counts}", "routing", "`counts` is required"),
        ("{counts: ./counts.csv}", "routing", "not allowed otherwise"),
        ("{load: uniforn}", "routing.load", "unknown value"),
        ("{load: zipf, exponent: -1}", "routing.exponent", "too small"),
        ("{load: zipf, exponent: 11}", "routing.exponent", "too large"),
        ("{load: zipf, exponent: .nan}", "routing.exponent", "finite"),
        ("{load: zipf, exponent: 1 GB}", "routing.exponent", "wrong unit"),
        ("{redundant: 1.5}", "routing.redundant", "whole number"),
        ("{redundant: -1}", "routing.redundant", "too small"),
        ("{capacity: 0}", "routing.capacity", "too small"),
        ("{placement: random}", "routing.placement", "unknown value"),
        ("{replicas: 3}", "routing.replicas", "unknown key"),
        ("{load: counts, counts: counts.csv}", "routing.counts", "not a relative path"),
        ("{load: counts, counts: /counts.csv}", "routing.counts", "not a relative path"),
        ("{load: counts, counts: ./nowhere.csv}", "routing.counts", "not found"),
    ],
)
@pytest.mark.usefixtures("experts")
def test_an_invalid_routing_is_one_error_with_its_location(text: str, field: str, message: str) -> None:
    (problem,) = problems(text)
    assert problem.field == f"scenarios.decode.{field}"
    assert message in problem.message
    assert problem.hint
    assert str(problem.location).startswith("--set scenarios.decode.routing=")


def test_an_error_in_a_file_names_its_line(experts: Path) -> None:
    in_file(experts, "{load: counts, counts: ./nowhere.csv}")
    (problem,) = problems_of(loaded)
    assert str(problem.location).startswith("workloads/small.yaml:10:")


# ---- the table ------------------------------------------------------------------------------------------------------


def test_counts_are_read_relative_to_the_referring_file(experts: Path) -> None:
    in_file(experts, "{load: counts, counts: ./counts.csv}")
    routing = loaded().scenarios["decode"].routing
    assert routing.counts == (10, 20, 30, 4)


@pytest.mark.usefixtures("experts")
def test_counts_of_an_override_are_read_relative_to_the_working_folder() -> None:
    assert routing("{load: counts, counts: ./workloads/counts.csv}").counts == (10, 20, 30, 4)


def test_experts_and_columns_may_be_in_any_order(experts: Path) -> None:
    write(experts, "workloads/counts.csv", "tokens,expert\n4,3\n20.5,2\n0,0\n20,1\n")
    assert routing("{load: counts, counts: ./workloads/counts.csv}").counts == (0, 20, 20.5, 4)


@pytest.mark.parametrize(
    ("table", "line", "message"),
    [
        ("", 1, "has the columns none"),
        ("expert,token\n0,1\n", 1, "has the columns expert, token"),
        ("expert,tokens\n", None, "has 0 of the model's 4 experts"),
        ("expert,tokens\n0,10\n1,20\n3,4\n", None, "has 3 of the model's 4 experts"),
        (COUNTS + "4,1\n", 6, "unknown expert 4"),
        (COUNTS + "1,1\n", 6, "duplicate expert 1"),
        ("expert,tokens\n0,10\n1,-2\n2,30\n3,4\n", 3, "'-2' is not a number"),
        ("expert,tokens\n0,10\n1,nan\n2,30\n3,4\n", 3, "'nan' is not a number"),
        ("expert,tokens\n0,10\n1,inf\n2,30\n3,4\n", 3, "'inf' is not a number"),
        ("expert,tokens\n0,10\n1,many\n2,30\n3,4\n", 3, "'many' is not a number"),
        ("expert,tokens\n0,10\n1,\n2,30\n3,4\n", 3, "is empty"),
        ("expert,tokens\n0,10\none,20\n2,30\n3,4\n", 3, "'one' is not an expert's number"),
        ("expert,tokens\n0,10\n1.0,20\n2,30\n3,4\n", 3, "'1.0' is not an expert's number"),
        ("expert,tokens\n0,10\n-1,20\n2,30\n3,4\n", 3, "'-1' is not an expert's number"),
        ("expert,tokens\n0,10\n1\n2,30\n3,4\n", 3, "has 1 values for 2 columns"),
        ("expert,tokens\n0,10\n1,2,3\n2,30\n3,4\n", 3, "has 3 values for 2 columns"),
        ("expert,tokens\n0,0\n1,0\n2,0\n3,0\n", None, "no expert has a token"),
        ('expert,tokens\n0,"10\n1,2\n', 3, "is not valid CSV"),
        ("expert,tokens\n0,10\n1,80\n2,30\n3,4\n", 3, "expert 1 has 80 of 124 tokens"),
    ],
)
def test_an_invalid_table_of_counts_is_one_error_with_its_row(
    experts: Path, table: str, line: int | None, message: str
) -> None:
    (experts / "workloads/counts.csv").write_text(table, encoding="utf-8")
    (problem,) = problems("{load: counts, counts: ./workloads/counts.csv}")
    assert problem.location is not None
    assert problem.location.source == "workloads/counts.csv"
    assert problem.location.line == line
    assert message in problem.message
    assert problem.hint


def test_a_binary_table_is_an_error(experts: Path) -> None:
    (experts / "workloads/counts.csv").write_bytes(b"expert,tokens\n\xff\xfe,1\n")
    (problem,) = problems("{load: counts, counts: ./workloads/counts.csv}")
    assert "not UTF-8" in problem.message


@pytest.mark.usefixtures("world")
def test_a_model_without_experts_has_no_routing() -> None:
    (problem,) = problems("{load: uniform}")
    assert problem.field == "scenarios.decode.routing"
    assert "no routed experts" in problem.message


def test_counts_need_layers_with_equal_numbers_of_experts(experts: Path) -> None:
    edit(
        experts, "workloads/models/tiny.yaml", "  - repeat: 2",
        "  - {repeat: 1, mixer: {type: attention, q_heads: 8, kv_heads: 8, head_dim: 8}, "
        "ffn: {type: moe, experts: 8, intermediate: 64, top_k: 2}}\n  - repeat: 2",
    )  # fmt: skip
    (problem,) = problems("{load: counts, counts: ./workloads/counts.csv}")
    assert "different numbers of experts" in problem.message


def test_counts_have_to_be_those_of_the_layers_that_choose_the_most_experts(experts: Path) -> None:
    """Half of all visits at most where a token visits two experts, whatever layers that visit one would allow."""
    edit(
        experts, "workloads/models/tiny.yaml", "  - repeat: 2",
        "  - {repeat: 1, mixer: {type: attention, q_heads: 8, kv_heads: 8, head_dim: 8}, "
        "ffn: {type: moe, experts: 4, intermediate: 64, top_k: 1}}\n  - repeat: 2",
    )  # fmt: skip
    (experts / "workloads/counts.csv").write_text("expert,tokens\n0,32\n1,20\n2,8\n3,4\n", encoding="utf-8")
    loaded(routing="{load: counts, counts: ./workloads/counts.csv}")
    (experts / "workloads/counts.csv").write_text("expert,tokens\n0,40\n1,20\n2,8\n3,4\n", encoding="utf-8")
    (problem,) = problems("{load: counts, counts: ./workloads/counts.csv}")
    assert "expert 0 has 40 of 72 tokens" in problem.message
    assert "at most 1/2 of them" in problem.hint
