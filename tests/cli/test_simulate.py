from __future__ import annotations

import json
import math
import re
import shlex

import pytest

FLAGSHIP = "deepseek_v3"
SCENARIOS = ["training", "prefill", "decode", "decode_4k", "decode_ep_bound"]
NO_RECOMPUTE = "scenarios.training.recompute=none"  # does not fit 80 GB
LEDGER = [
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "kv_cache",
    "communication",
    "reserve",
    "capacity",
    "fits",
]


def strict(text: str) -> dict:
    def never(word: str) -> float:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=never)


def leaves(value: object):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def test_all_scenarios_fit_one_screen_with_value_interval_limit_memory_and_next_step(process):
    done = process("simulate", FLAGSHIP)
    assert done.code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert len(lines) <= len(SCENARIOS) + 11
    assert max(map(len, lines)) <= 90
    first = r"training: [\d.]+ s a step \([\d.]+ \.\. [\d.]+ s\), compute-bound, \d+/80 GiB, 4,096 \$/h"
    assert re.fullmatch(first, lines[0])
    assert [line.partition(":")[0] for line in lines[: len(SCENARIOS)]] == list(SCENARIOS)
    assert re.search(r"^  training on 2,048 devices: expert up \d+%, ", done.out, re.MULTILINE)
    assert "next: costmodel explain" in done.out


def test_the_rest_is_shown_on_request(run):
    brief, whole = run("simulate", FLAGSHIP).out, run("simulate", FLAGSHIP, "--verbose").out
    assert set(brief.splitlines()[: len(SCENARIOS)]) <= set(whole.splitlines())
    for scenario in SCENARIOS:
        assert re.search(rf"^{scenario} +\S+, [\d,]+ devices ", whole, re.MULTILINE)
    provenance = "chosen knowing published results"
    for part in ("Where the times come from (share of time by basis)", "Rent: ", provenance):
        assert part in whole
        assert part not in brief
    assert "--verbose" in brief
    assert "--verbose" not in whole


SERVED_ELSEWHERE = ("simulate", "gpt-oss-120b", "--cluster", "nodes/hgx-b200", "--phase", "serving")


def test_notes_come_in_the_order_of_the_time_that_they_are_of(run):
    """The permutation of tokens takes longer than rotations, which take longer than norms and embeddings."""
    notes = [line for line in run(*SERVED_ELSEWHERE).out.splitlines() if line.startswith("note: ")]
    assert [note.split(":")[1].strip() for note in notes] == [
        "elementwise/permute", "elementwise/cache_write, rotary", "elementwise/activation, embedding, norm",
    ]  # fmt: skip
    assert "number formats as published" in run(*SERVED_ELSEWHERE, "--verbose").out


def test_an_energy_of_a_board_whose_work_is_unknown_says_so(run):
    told = "what kernels of h800-sxm draw is not known; its power stands at the limit"
    unknown = ("--set", "hardware.power.memory=null")
    asked = ("simulate", FLAGSHIP, "--scenario", "decode", "--verbose")
    assert told in run(*asked, *unknown).out
    assert "not known; its power" not in run(*asked).out


def test_one_scenario_is_shown_in_detail(run):
    done = run("simulate", FLAGSHIP, "--scenario", "training", "--verbose")
    for part in (
        "step time",
        "MFU",
        "hidden",
        "bubble",
        "schedule (average over pipeline ranks)",
        "optimizer",
        "weights",
    ):
        assert part in done.out
    assert "prefill" not in done.out


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--scenario", "decode", "--set", "hardware.memory.hbm.bandwidth=4 TB/s"),
        ("--scenario", "decode", "--cluster", "nodes/dgx-a100"),
        ("--set", NO_RECOMPUTE),
        ("--scenario", "decode_ep_bound"),
    ],
)
def test_every_next_step_can_be_pasted(run, options):
    lines = run("simulate", FLAGSHIP, *options).out.splitlines()
    steps = [line.partition("costmodel ")[2] for line in lines if re.match(r"(next:|     ) costmodel ", line)]
    assert steps
    for step in steps:
        assert run(*shlex.split(step)).code == 0, step


def test_json_is_the_documented_document_and_nothing_else(run):
    done = run("simulate", FLAGSHIP, "--json")
    assert (done.code, done.err) == (0, "")
    document = strict(done.out)
    assert document["schema"] == "costmodel/result@1"
    assert {"version", "seed", "engine", "model", "scenarios"} <= document.keys()
    assert document["engine"] == "analytic"
    assert {
        "name",
        "parameters",
        "active_parameters",
        "kv_cache_bytes_per_token",
        "training_flop_per_token",
    } <= document["model"].keys()
    assert list(document["scenarios"]) == SCENARIOS
    for scenario in document["scenarios"].values():
        assert {"phase", "cluster", "devices", "metrics", "intervals", "bound", "breakdown", "memory", "basis"} <= (
            scenario.keys()
        )
        assert {"name", "time", "share", "bound", "basis"} <= scenario["breakdown"][0].keys()
        assert list(scenario["memory"]) == LEDGER
        assert scenario["basis"].keys() == {"measured", "fitted", "transferred", "extrapolated", "roofline"}
        assert isinstance(scenario["devices"], int)
    assert all(math.isfinite(value) for value in leaves(document) if isinstance(value, float))


def test_intervals_contain_their_values_and_breakdown_with_bubble_sums_to_the_headline(run):
    document = strict(run("simulate", FLAGSHIP, "--json").out)
    headline = {"training": "step_time", "prefill": "ttft", "decode": "tpot", "ep_bound": "tpot"}
    for scenario in document["scenarios"].values():
        for name, value in scenario["metrics"].items():
            pair = scenario["intervals"][name]
            assert value is None or pair[0] <= value <= pair[1], name
        whole = scenario["metrics"][headline[scenario["phase"]]]
        bubble = scenario["metrics"].get("bubble_time") or 0.0
        assert math.fsum(entry["time"] for entry in scenario["breakdown"]) + bubble == pytest.approx(whole, rel=1e-9)


def test_same_input_gives_the_same_bytes(run, process):
    here, there = run("simulate", FLAGSHIP, "--json"), process("simulate", FLAGSHIP, "--json", PYTHONHASHSEED="1")
    assert here.code == 0
    assert here == there


def test_what_does_not_fit_exits_3_after_the_whole_document(run):
    done = run("simulate", FLAGSHIP, "--set", NO_RECOMPUTE, "--json")
    assert done.code == 3
    document = strict(done.out)
    training = document["scenarios"]["training"]
    assert training["memory"]["fits"] is False
    assert training["bound"] == "capacity"
    assert set(training["metrics"].values()) == {None}
    parts = [value for name, value in training["memory"].items() if name not in ("capacity", "fits")]
    assert math.fsum(parts) > training["memory"]["capacity"]
    assert document["scenarios"]["decode"]["memory"]["fits"] is True


def test_what_does_not_fit_is_told_with_its_ledger(run):
    done = run("simulate", FLAGSHIP, "--set", NO_RECOMPUTE)
    assert done.code == 3
    assert "training: cannot run: does not fit in memory" in done.out
    assert re.search(r"activations [\d.]+, gradients [\d.]+", done.out)
    assert "hardware.memory.hbm.capacity=" in done.out


def test_another_cluster_answers_slower_or_says_why_it_does_not_fit(run):
    slower = run("simulate", FLAGSHIP, "--scenario", "decode_ep_bound", "--cluster", "nodes/rtx-4090-x8", "--json")
    tight = run("simulate", FLAGSHIP, "--scenario", "decode", "--cluster", "nodes/rtx-4090-x8")
    if slower.code == 0:
        assert strict(slower.out)["scenarios"]["decode_ep_bound"]["metrics"]["tpot"] > 0.01476
    else:
        assert slower.code == 3
    assert tight.code == 3
    assert "does not fit in memory" in tight.out


def test_only_the_selected_scenarios_are_held_to_a_cluster(run):
    """Training with eight nodes a pipeline stage cannot run on NVL72 racks, the bound can."""
    done = run("simulate", FLAGSHIP, "--scenario", "decode_ep_bound", "--cluster", "nodes/gb200-nvl72", "--json")
    assert done.code == 0
    metrics = strict(done.out)["scenarios"]["decode_ep_bound"]["metrics"]
    assert metrics["all_to_all_time"] == pytest.approx(6.72e-6, rel=5e-3)
    assert metrics["tpot"] == pytest.approx(0.82e-3, rel=5e-3)


def test_a_device_without_fp8_is_an_error_unless_a_fallback_allows_it(run):
    refused = run(
        "simulate", FLAGSHIP, "--scenario", "decode", "--cluster", "nodes/dgx-a100",
        "--set", "scenarios.decode.precision={compute: fp8-inference}",
    )  # fmt: skip
    assert refused.code == 2
    assert "fp8" in refused.err
    assert run("simulate", FLAGSHIP, "--scenario", "decode", "--cluster", "nodes/dgx-a100").code in (0, 3)


def test_set_changes_the_hardware_of_every_selected_scenario(run):
    plain = strict(run("simulate", FLAGSHIP, "--json").out)["scenarios"]
    changed = strict(run("simulate", FLAGSHIP, "--json", "--set", "hardware.node.nic.bandwidth=800 Gbit/s").out)[
        "scenarios"
    ]
    for name in SCENARIOS:
        assert changed[name]["metrics"] != plain[name]["metrics"], name
    half = plain["decode_ep_bound"]["metrics"]["tpot"] / 2
    assert changed["decode_ep_bound"]["metrics"]["tpot"] == pytest.approx(half)


def test_a_file_anywhere_is_read_and_printed_in_the_encoding_of_the_output(process, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("schema: costmodel/workload@1\nextends: deepseek_v3\ntitle: mine → yours\n", encoding="utf-8")
    for encoding, title in (("utf-8", "mine → yours"), ("latin-1", "mine ? yours")):
        done = process("simulate", file, "--scenario", "decode", "--verbose", PYTHONIOENCODING=encoding)
        assert done.code == 0
        assert done.out.splitlines()[1] == title


def test_even_experts_are_shown_beside_drawn_ones(run):
    assumed = run("simulate", FLAGSHIP, "--scenario", "decode", "--verbose").out
    drawn = json.loads(run("simulate", FLAGSHIP, "--set", "scenarios.decode.routing.load=uniform", "--json").out)
    tpot = drawn["scenarios"]["decode"]["metrics"]["tpot"]
    (told,) = (line for line in assumed.splitlines() if line.startswith("even ranks are assumed"))
    assert f"tpot {1e3 * tpot:.4g} ms" in told
    assert "even ranks" not in run("simulate", FLAGSHIP, "--scenario", "training").out


def test_uneven_experts_are_told_and_even_ones_only_in_detail(run):
    load = "scenarios.training.communication.expert_load"
    asked = ("simulate", FLAGSHIP, "--verbose")
    assert "busiest rank" not in run(*asked, "--set", f"{load}=1").out
    assert "the busiest rank gets 1.3 times the average tokens" in run(*asked).out
    assert "2 of its 2 experts receive tokens" in run(*asked, "--scenario", "decode").out
    limited = "scenarios.training.routing={load: uniform, capacity: 1}"
    uneven = run(*asked, "--set", f"{load}=null", "--set", limited).out
    assert "of token copies are dropped" in uneven


def test_facts_of_expert_layers_stand_in_the_document(run):
    scenarios = strict(run("simulate", FLAGSHIP, "--json").out)["scenarios"]
    assert scenarios["training"]["routing"] == {
        "expert_load": 1.3,
        "experts_hit": 4.0,
        "experts_held": 4.0,
        "dropped_share": 0.0,
    }
    assert "routing" not in scenarios["decode_ep_bound"]


@pytest.mark.parametrize(("workload", "engine"), [("llama3_8b_rtx4090", "analytic"), ("llama2_70b_a100", "event")])
def test_a_breakdown_has_no_line_that_rounding_made(run, workload, engine):
    document = strict(run("simulate", workload, "--engine", engine, "--json").out)
    for scenario in document["scenarios"].values():
        names = [line["name"] for line in scenario["breakdown"]]
        assert "slowed by exchanges" not in names  # there are none
        assert min(line["time"] + line["hidden"] for line in scenario["breakdown"]) > 1e-9


SERVED = """
schema: costmodel/workload@1
model: models/llama-3-8b
scenarios:
  online: {phase: serving, cluster: nodes/h100-x1, framework: vllm, rate: 8 /s, input_tokens: 573, output_tokens: 248}
  prompt: {phase: prefill, cluster: nodes/h100-x1, framework: vllm, input_tokens: 573, tokens_per_device: 573}
"""


def test_tails_of_requests_are_on_both_screens_of_a_serving_scenario(run, tmp_path):
    path = tmp_path / "served.yaml"
    path.write_text(SERVED, encoding="utf-8")
    brief, whole = run("simulate", path).out, run("simulate", path, "--scenario", "online", "--verbose").out
    assert re.search(r"^  online: time to first token p50/p90/p99 [\d.]+ ms / ", brief, re.MULTILINE)
    assert re.search(r"^time +p50 +p90 +p99$", whole, re.MULTILINE)
    assert re.search(r"^time per output token +[\d.]+ ms +[\d.]+ ms +[\d.]+ ms$", whole, re.MULTILINE)
    assert "basis of a time: " in whole


def test_what_requests_bring_is_as_sure_as_they_are(run, tmp_path):
    workload = """
schema: costmodel/workload@1
model: models/llama-3-8b
scenarios:
  chat: {{phase: serving, cluster: nodes/h100-x1, framework: vllm, input_tokens: 1000, output_tokens: 25, rate: {} /s,
    requests: {{count: 300}}}}
"""
    spans = {}
    for rate in (8, 39.5, 100):
        file = tmp_path / f"{rate}.yaml"
        file.write_text(workload.format(rate), encoding="utf-8")
        found = json.loads(run("simulate", str(file), "--json").out)["scenarios"]["chat"]
        spans[rate] = {name: found["intervals"][name] for name in ("requests_per_second", "cost_per_million_tokens")}
        high = spans[rate]["requests_per_second"][1]
        assert high <= max(rate, found["intervals"]["highest_stable_rate"][1]) * (1 + 1e-9)
    assert all(low == high for low, high in spans[8].values())
    limits = "scenarios.chat.slo={ttft: 500 ms, tpot: 1 ms}"
    told = run("simulate", str(tmp_path / "8.yaml"), "--set", limits).out
    assert "slo: time to first token of 500 ms: met up to p99" in told
    assert "time per output token of 1 ms: not met by the median" in told
    near, over = (spans[rate]["requests_per_second"] for rate in (39.5, 100))
    assert 1.0 < near[1] / near[0] < over[1] / over[0]


@pytest.mark.parametrize(("degrees", "told"), [("{dp: 2}", True), ("{tp: 2}", False)])
def test_requests_of_one_data_parallel_replica_are_told_to_be(run, tmp_path, degrees, told):
    file = tmp_path / "chat.yaml"
    load = "concurrency: 16, input_tokens: 512, output_tokens: 64"
    file.write_text(
        "schema: costmodel/workload@1\nmodel: models/llama-3-8b\nscenarios:\n  chat: "
        f"{{phase: serving, cluster: nodes/dgx-h100, framework: vllm, parallel: {degrees}, {load}}}\n",
        encoding="utf-8",
    )
    text = " ".join(run("simulate", str(file), "--verbose").out.split())
    found = re.search(r"of one data-parallel replica; the 2 of an engine have ([\d.]+) requests in flight", text)
    assert (found is not None) == told
    if found is not None:
        metrics = strict(run("simulate", str(file), "--json").out)["scenarios"]["chat"]["metrics"]
        assert float(found[1]) == pytest.approx(2 * metrics["concurrency"], rel=1e-3)


def test_a_factor_and_a_second_cluster_are_compared_with_the_base_on_a_line(run) -> None:
    base = json.loads(run("simulate", "deepseek_v3", "--scenario", "decode", "--json").out)
    changed = run("simulate", "deepseek_v3", "--scenario", "decode", "--set", "hardware.node.nic.bandwidth=2x").out
    value = base["scenarios"]["decode"]["metrics"]["tpot"]
    assert f"the {1000 * value:.4g} ms without the factors" in changed.splitlines()[1]
    two = ("--cluster", "nodes/dgx-h100", "--cluster", "nodes/hgx-h200")
    both = run("simulate", "deepseek_v3", "--scenario", "decode", *two).out.splitlines()
    assert both[2].startswith("decode@hgx-h200: 0.")
    assert both[2].endswith("of decode@dgx-h100")


def test_a_factor_answers_where_the_file_without_it_cannot_run(run, tmp_path):
    path = tmp_path / "wide.yaml"
    path.write_text(
        "schema: costmodel/workload@1\nmodel: models/llama-3-8b\nscenarios:\n  s: {phase: decode, "
        "cluster: nodes/dgx-h100, parallel: {tp: 16}, batch_per_device: 1, input_tokens: 1000}\n", encoding="utf-8",
    )  # fmt: skip
    shown = run("simulate", str(path), "--set", "scenarios.s.parallel.tp=0.5x")
    assert (shown.code, "a token" in shown.out) == (0, True)


def test_what_does_not_fit_is_offered_on_a_node_that_exists_or_with_fewer_requests(run):
    """The commands are those that were tried: their scenarios fit."""
    for arguments, where in (
        (("llama-3-70b", "--cluster", "nodes/h100-x1", "--phase", "decode"), "next: decode on nodes/dgx-h100:"),
        (
            ("deepseek_v3", "--scenario", "decode", "--set", "scenarios.decode.batch_per_device=16384"),
            "next: decode with",
        ),
    ):
        lines = run("simulate", *arguments).out.splitlines()
        at = next(number for number, line in enumerate(lines) if line.startswith(where))
        again = run(*shlex.split(lines[at + 1])[1:], "--json")
        (scenario,) = json.loads(again.out)["scenarios"].values()
        assert scenario["memory"]["fits"]
