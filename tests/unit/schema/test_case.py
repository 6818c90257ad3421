"""Published cases: what a case file may say, tables of cases, and the scenarios that they resolve to."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_world import problems_of, write

from costmodel.schema.case import Case, load_case_file, resolve_case, resolve_device
from costmodel.schema.files import validate
from costmodel.workload.plans import Decode, Training

HEAD = """
schema: costmodel/case@1
source: {cite: "a paper, table 1", verified: true}
cases:
"""
OWN = """
  - id: own-1.5b
    class: training
    scenario: {model: models/tiny, phase: training, cluster: clusters/pair, parallel: {dp: 8}, global_batch: 16,
               sequence: 128}
    conventions: {flop: model}
    expect:
      - {metric: step_time, value: 2 min, tolerance: 4 %}
      - {metric: memory.weights, value: [1 GiB, 2 GiB], check: range}
      - {metric: tokens_per_second, value: 1.5, check: ratio, baseline: other}
"""
OF_WORKLOAD = """
  - id: other
    class: inference
    scenario: {workload: small, scenario: decode, set: {scenarios.decode.batch_per_device: 8}}
    expect: [{metric: tpot, value: 20 ms}]
"""
MODEL_ONLY = """
  - id: counted
    class: counting
    scenario: {model: models/tiny}
    expect: [{metric: parameters, value: 1000}]
"""
OF_DEVICE = """
  - id: peak
    class: counting
    device: devices/chip
    expect:
      - {metric: device.math.bf16.peak, value: 10 TFLOP/s, tolerance: 1 %}
      - {metric: device.memory.hbm.bandwidth, value: 1 TB/s, tolerance: 1 %}
"""
SKIPPED = """
  - {id: unknown, skip: configuration not published}
"""
TABLE = """
  - table: rows.csv
    columns:
      name: id
      width: model.hidden
      batch: global_batch
      seconds: {path: expect.step_time, unit: s}
      why not: skip
    template:
      class: training
      scenario: {model: models/tiny, phase: training, cluster: clusters/pair, parallel: {dp: 8}, sequence: 128}
      expect: [{metric: step_time, tolerance: 10 %}]
"""
ROWS = """name,width,batch,seconds,why not
a,128,16,1.5,
b,256,32,2.5,
c,,,,not stated
"""


def cases(world: Path, *entries: str) -> dict[str, Case]:
    """Return the cases of a file with these entries."""
    path = write(world, "workloads/published/f.yaml", HEAD + "".join(entry.lstrip("\n") for entry in entries))
    return {case.id: case for case in load_case_file(path, [world])}


def test_published_values_are_read_in_si(world: Path) -> None:
    case = cases(world, OWN)["own-1.5b"]
    step, weights, ratio = case.expect
    assert (step.value, step.tolerance, step.dimension, step.check) == (120.0, 0.04, "duration", "value")
    assert weights.value == (2**30, 2**31)
    assert (ratio.value, ratio.baseline) == (1.5, "other")
    assert (case.case_class, case.source.verified, case.conventions) == ("training", True, {"flop": "model"})


def test_a_scenario_inside_a_case_is_resolved(world: Path) -> None:
    workload = resolve_case(cases(world, OWN)["own-1.5b"], [world])
    (scenario,) = workload.scenarios.values()
    assert isinstance(scenario.plan, Training)
    assert scenario.parallel.dp == 8


def test_a_scenario_of_a_workload_is_resolved_with_its_changes(world: Path) -> None:
    workload = resolve_case(cases(world, OF_WORKLOAD)["other"], [world])
    plan = workload.scenarios["decode"].plan
    assert isinstance(plan, Decode)
    assert plan.batch_per_device == 8


def test_a_case_of_a_model_alone_has_no_scenario(world: Path) -> None:
    workload = resolve_case(cases(world, MODEL_ONLY)["counted"], [world])
    assert not workload.scenarios
    assert workload.architecture.hidden == 64
    assert workload.value("model.vocabulary") == 512


def test_the_model_of_a_case_may_be_a_config_json_relative_to_its_file(world: Path) -> None:
    text = """{"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128,
               "num_hidden_layers": 2, "vocab_size": 512, "odd": 1}"""
    write(world, "workloads/published/own/config.json", text)
    workload = resolve_case(cases(world, MODEL_ONLY.replace("models/tiny", "{hf: own}"))["counted"], [world])
    assert workload.architecture.name == "own"
    assert workload.architecture.depth == 2
    assert "odd = 1" in workload.notes[0]


def test_rows_without_an_id_are_numbered_after_the_template_s(world: Path) -> None:
    write(world, "workloads/published/rows.csv", ROWS)
    nameless = TABLE.replace("      name: id\n", "")
    assert list(cases(world, nameless)) == ["rows-1", "rows-2", "rows-3"]
    assert list(cases(world, nameless.replace("class: training", "id: step\n      class: training"))) == [
        "step-1", "step-2", "step-3",
    ]  # fmt: skip


def test_a_row_overrides_the_sizes_of_the_template_s_model(world: Path) -> None:
    write(world, "workloads/published/rows.csv", ROWS)
    inline = (
        "{name: own, hidden: 8, vocabulary: 64, layers: [{mixer: {type: attention, q_heads: 8}, ffn: {type: mlp}}]}"
    )
    case = cases(world, TABLE.replace("models/tiny", inline))["b"]
    model = resolve_case(case, [world]).architecture
    assert (model.hidden, model.layers[0].mixer.head_dim, model.layers[0].ffn.intermediate) == (256, 32, 1024)  # type: ignore[union-attr]


def test_a_column_may_set_several_paths(world: Path) -> None:
    write(world, "workloads/published/rows.csv", ROWS)
    both = TABLE.replace("batch: global_batch", "batch: [global_batch, {path: sequence}]")
    workload = resolve_case(cases(world, both)["b"], [world])
    assert workload.value("scenarios.case.global_batch") == 32
    assert workload.value("scenarios.case.sequence") == 32


def test_values_belong_to_their_file_s_publication_unless_their_source_names_another(world: Path) -> None:
    own = "    source: {cite: another paper, publication: other}\n    expect:"
    by_id = cases(world, OWN, OF_WORKLOAD.replace("    expect:", own))
    assert (by_id["own-1.5b"].publication, by_id["other"].publication) == ("f", "other")


def test_a_case_of_a_device_compares_fields_of_its_file(world: Path) -> None:
    case = cases(world, OF_DEVICE)["peak"]
    assert [(one.metric, one.dimension, one.value) for one in case.expect] == [
        ("device.math.bf16.peak", "flop_rate", 10e12),
        ("device.memory.hbm.bandwidth", "bandwidth", 1e12),
    ]
    assert resolve_device(case, [world])["math"]["bf16"]["peak"] == 10e12


def test_a_skipped_case_says_why(world: Path) -> None:
    case = cases(world, SKIPPED)["unknown"]
    assert case.skip == "configuration not published"
    assert case.expect == ()


def test_each_row_of_a_table_is_a_case(world: Path) -> None:
    write(world, "workloads/published/rows.csv", ROWS)
    by_id = cases(world, TABLE)
    assert list(by_id) == ["a", "b", "c"]
    assert by_id["c"].skip == "not stated"
    assert [expectation.value for expectation in by_id["b"].expect] == [2.5]
    assert by_id["b"].expect[0].tolerance == 0.1
    workload = resolve_case(by_id["b"], [world])
    assert workload.architecture.hidden == 256
    assert workload.value("scenarios.case.global_batch") == 32
    assert str(by_id["b"].location).endswith("rows.csv:3")


@pytest.mark.parametrize(
    ("entry", "old", "new", "problem"),
    [
        (OWN, "step_time", "steptime", "unknown metric 'steptime'; did you mean `step_time`"),
        (OWN, "2 min", "2 GB", "'2 GB' has the wrong unit"),
        (OWN, "2 min", "2", 'step_time: 2 has no unit; write "2 s"'),
        (OWN, "[1 GiB, 2 GiB]", "1 GiB", "a range needs two values; write [low, high]"),
        (OWN, ", baseline: other", "", "check ratio needs a `baseline`"),
        (OWN, "    class: training\n", "", "cases.own-1.5b.class: is missing"),
        (OWN, "class: training", "class: trainnig", "unknown value 'trainnig'; did you mean `training`"),
        (OWN, "sequence: 128", "sequence: 0", "scenarios.case.sequence: 0 is too small"),
        (OF_WORKLOAD, "scenario: decode,", "scenario: decoding,", "unknown scenario 'decoding'"),
        (OF_WORKLOAD, "workload: small", "workload: smal", "did you mean `small`"),
        (SKIPPED, "skip:", "skpi:", "unknown key; did you mean `skip`"),
        (OF_DEVICE, "devices/chip", "devices/chop", "did you mean `chip`"),
        (OF_DEVICE, "bf16.peak", "bf16.speed", "unknown metric 'device.math.bf16.speed'"),
        (OF_DEVICE, "10 TFLOP/s", "10 TB", "'10 TB' has the wrong unit"),
        (OF_DEVICE, "    device:", "    scenario: {model: models/tiny}\n    device:", "has scenario and device"),
        (OWN, OWN, OWN + OWN, "duplicate id 'own-1.5b'"),
    ],
)
def test_an_invalid_case_is_reported(world: Path, entry: str, old: str, new: str, problem: str) -> None:
    path = write(world, "workloads/published/f.yaml", HEAD + entry.replace(old, new).replace("\n\n", "\n"))
    texts = [str(one) for one in validate(path, [world])]
    assert any(problem in text for text in texts), texts


@pytest.mark.parametrize(
    ("name", "rows", "problem"),
    [
        ("row.csv", ROWS, "rows.csv not found in this file's folder"),
        ("rows.csv", ROWS.replace("width", "widht"), "rows.csv has no column 'width'; did you mean `widht`"),
        ("rows.csv", ROWS.replace("1.5", "fast"), "'fast s' is not a quantity"),
        ("rows.csv", ROWS.replace("128", "-1"), "-1 is too small"),
        ("rows.csv", ROWS.replace("b,256,32,2.5,", "b,256"), "rows.csv:3: cases.table: wrong number of cells"),
        ("rows.csv", ROWS.replace("b,256,32,2.5,", "b,256,32,2.5,,,"), "wrong number of cells: the header has 5"),
    ],
)
def test_an_invalid_table_of_cases_is_reported(world: Path, name: str, rows: str, problem: str) -> None:
    write(world, f"workloads/published/{name}", rows)
    path = write(world, "workloads/published/f.yaml", HEAD + TABLE.lstrip("\n"))
    texts = [str(one) for one in validate(path, [world])]
    assert any(problem in text for text in texts), texts


@pytest.mark.parametrize(
    ("expect", "problem"),
    [
        ("x", "cases.template.expect: must be a list, not text; write a list"),
        ("[x]", "cases.a.expect.0: must be a mapping, not 'x'"),
        ("{metric: step_time}", "cases.template.expect: must be a list, not a mapping"),
    ],
)
def test_what_rows_expect_is_a_list(world: Path, expect: str, problem: str) -> None:
    write(world, "workloads/published/rows.csv", ROWS)
    text = TABLE.replace("[{metric: step_time, tolerance: 10 %}]", expect)
    path = write(world, "workloads/published/f.yaml", HEAD + text.lstrip("\n"))
    texts = [str(one) for one in validate(path, [world])]
    assert any(problem in text for text in texts), texts


def test_cells_may_be_as_long_as_their_table_and_lines_end_as_anywhere(world: Path) -> None:
    long = ROWS.replace("not stated", "not stated " * 20_000).replace("\n", "\r")
    path = write(world, "workloads/published/f.yaml", HEAD + TABLE.lstrip("\n"))
    (world / "workloads/published/rows.csv").write_bytes(long.encode())
    by_id = {case.id: case for case in load_case_file(path, [world])}
    assert set(by_id) == {"a", "b", "c"}
    assert len(by_id["c"].skip or "") > 200_000


@pytest.mark.parametrize("column", ["{unit: s}", "{path: expect.step_time, units: s}", "[expect.step_time, 3]"])
def test_a_column_without_a_path_is_reported(world: Path, column: str) -> None:
    write(world, "workloads/published/rows.csv", ROWS)
    text = TABLE.replace("{path: expect.step_time, unit: s}", column)
    path = write(world, "workloads/published/f.yaml", HEAD + text.lstrip("\n"))
    assert "a column is a path, or {path, unit}" in str(validate(path, [world])[0])


def test_a_file_with_problems_is_not_loaded(world: Path) -> None:
    path = write(world, "workloads/published/f.yaml", HEAD + OWN.lstrip("\n").replace("step_time", "speed"))
    (problem,) = problems_of(lambda: load_case_file(path, [world]))
    assert "unknown metric 'speed'" in problem.message


def test_a_huge_table_of_cases_is_refused_with_its_size(world: Path) -> None:
    path = write(world, "workloads/published/f.yaml", HEAD + TABLE.lstrip("\n"))
    with (world / "workloads/published/rows.csv").open("wb") as file:
        file.truncate(100 * 2**20)
    (problem,) = validate(path, [world])
    assert "rows.csv: file too large: 100 MiB; the limit is 64 MiB" in str(problem)
