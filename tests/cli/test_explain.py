from __future__ import annotations

import json
import math
import re

import pytest

import costmodel
from costmodel.report import explain

FLAGSHIP = "deepseek_v3"


def explained(run, *arguments):
    done = run("explain", FLAGSHIP, *arguments, "--json")
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_list_accounts_for_the_whole_step(run):
    listed = explained(run)
    assert (listed["workload"], listed["scenario"]) == ("deepseek_v3", "training")
    simulated = json.loads(run("simulate", FLAGSHIP, "--scenario", "training", "--json").out)["scenarios"]["training"]
    bubble = simulated["metrics"]["bubble_time"] / simulated["metrics"]["step_time"]
    assert math.fsum(line["share"] for line in listed["operators"]) + bubble == pytest.approx(1.0, rel=1e-9)
    assert [line["time"] for line in listed["operators"]] == [entry["time"] for entry in simulated["breakdown"]]


def test_a_matrix_product_without_a_fit_states_its_inputs_units_tile_and_sources(run):
    (found,) = explained(run, "--op", "router")["operators"]
    inputs = found["inputs"]
    assert inputs["FLOP"] == pytest.approx(2 * inputs["groups"] * inputs["m"] * inputs["n"] * inputs["k"])
    assert inputs["processors"] == 112  # 132, 20 of them taken by communication
    terms = found["terms"]
    assert terms["ctas"] / inputs["processors"] <= terms["waves"]
    assert found["time"] == pytest.approx(terms["launch"] + max(terms["chip_time"], terms["hbm_time"]))
    assert found["bound"] == "compute"
    assert found["basis"] == "roofline"
    assert found["time"] >= inputs["FLOP"] / inputs["fp32 peak of these processors"]
    assert "h100-sxm.yaml:" in found["origins"]["hardware.device.math.fp32.peak"]
    shown = run("explain", FLAGSHIP, "--op", "router", "--verbose").out
    assert "TFLOP/s" in shown
    assert "us" in shown


def test_an_exchange_states_its_path(run):
    found = explained(run, "--scenario", "training", "--op", "dispatch")["operators"][0]
    assert found["inputs"]["ranks"] == 64
    assert found["inputs"]["ranks per node"] == 8
    assert found["inputs"]["bandwidth between nodes"] == 50e9
    assert found["inputs"]["expected nodes per token"] == pytest.approx(3.63, abs=0.01)
    assert found["bound"] == "network"
    assert "hgx-h800.yaml:" in found["origins"]["hardware.node.nic.bandwidth"]


def test_a_changed_value_is_said_to_come_from_the_command_line(run):
    found = explained(run, "--op", "expert up", "--set", "hardware.memory.hbm.bandwidth=4 TB/s")["operators"][0]
    assert found["origins"]["hardware.device.memory.hbm.bandwidth"] == "--set hardware.memory.hbm.bandwidth=4 TB/s"
    assert found["inputs"]["HBM bandwidth"] == 4e12


def test_the_closed_form_bound_is_explained_by_its_formula(run):
    (found,) = explained(run, "--scenario", "decode_ep_bound", "--op", "all-to-all")["operators"]
    terms = found["terms"]
    once = terms["width"] * terms["plan.tokens_per_device"] * terms["plan.sends"] * terms["plan.hidden"]
    once /= terms["bandwidth"]
    assert terms["all_to_all"] == pytest.approx(once)
    assert found["time"] == pytest.approx(2 * terms["layers"] * once)


SKEWED = ("--set", "scenarios.prefill.routing={load: zipf, exponent: 0.5, redundant: 32}")


def test_expert_layers_state_how_full_the_fullest_rank_is(run):
    listed = explained(run, "--scenario", "prefill", *SKEWED)
    facts = listed["routing"]
    assert facts["experts_held"] == 9  # (256 + 32) / 32
    assert 1 < facts["expert_load"] < 1.2
    assert (
        facts
        == json.loads(run("simulate", FLAGSHIP, "--scenario", "prefill", *SKEWED, "--json").out)["scenarios"][
            "prefill"
        ]["routing"]
    )
    (product,) = explained(run, "--scenario", "prefill", *SKEWED, "--op", "expert up")["operators"]
    assert product["inputs"]["load of the busiest rank"] == pytest.approx(facts["expert_load"])
    assert product["inputs"]["groups"] == pytest.approx(facts["experts_hit"])
    assert product["inputs"]["standard deviation of m"] > 0
    assert product["origins"]["routing.load"].startswith("--set scenarios.prefill.routing=")
    (sent,) = explained(run, "--scenario", "prefill", *SKEWED, "--op", "dispatch")["operators"]
    assert sent["inputs"]["load of the busiest node, each token once"] >= 1
    assert 1 <= sent["inputs"]["load of the busiest rank, each token once"] < facts["expert_load"]
    assert "expert load: the busiest rank gets" in run("explain", FLAGSHIP, "--scenario", "prefill", *SKEWED).out


def test_a_stated_load_is_where_the_load_comes_from(run):
    stated = ("--scenario", "decode", "--set", "scenarios.decode.communication.expert_load=1.25")
    (product,) = explained(run, *stated, "--op", "expert down")["operators"]
    assert product["inputs"]["load of the busiest rank"] == 1.25
    assert "communication.expert_load" in product["origins"]


def test_a_product_of_the_host_states_its_operands_and_what_it_shares(run):
    done = run("explain", "deepseek_v3_hybrid", "--scenario", "decode", "--op", "expert up", "--json")
    (found,) = json.loads(done.out)["operators"]
    inputs = found["inputs"]
    assert found["family"] == "host_product"
    assert (inputs["groups"], inputs["m"], inputs["bytes per element, left operand"]) == (
        pytest.approx(8),
        pytest.approx(1),
        2,
    )
    assert inputs["bytes per element, right operand"] == pytest.approx(4.82 / 8)
    bare = inputs["traffic"] / inputs["host bandwidth per device"]
    assert found["time"] == pytest.approx(bare / 0.6121)  # what KTransformers' kernels reach of the memory
    assert found["bound"] == "memory"
    bound = run(
        "explain", "deepseek_v3_hybrid", "--scenario", "decode", "--op", "expert up", "--json",
        "--set", "scenarios.decode.framework=frameworks/default",
    )  # fmt: skip
    (found,) = json.loads(bound.out)["operators"]
    assert (found["time"], found["basis"]) == (pytest.approx(bare), "roofline")
    assert "xeon-6454s-rtx-4090d.yaml:" in found["origins"]["hardware.node.host.bandwidth"]
    shown = run("explain", "deepseek_v3_hybrid", "--scenario", "decode", "--op", "expert up", "--verbose").out
    assert "host bf16 peak per device" in shown


def test_a_host_without_a_stated_peak_is_said_to_have_none(run):
    change = "hardware.node.host.peak={int8: 256 TFLOP/s}"
    done = run(
        "explain", "deepseek_v3_hybrid", "--scenario", "decode", "--op", "expert up", "--set", change, "--verbose"
    )
    assert "no source states" in done.out


def test_quantised_operands_are_shown_by_their_width(run):
    weights = run("explain", "deepseek_v3_hybrid", "--scenario", "decode", "--op", "output projection", "--json")
    (found,) = json.loads(weights.out)["operators"]
    assert (found["family"], found["inputs"]["bytes per element, left operand"]) == ("gemm_weight_only", 2)
    assert found["inputs"]["bytes per element, right operand"] == pytest.approx(0.6025)
    changes = ("--set", "scenarios.decode.precision.kv_cache=int8", "--set", "scenarios.decode.precision.kv_group=64")
    cache = run(
        "explain", "deepseek_v3_hybrid", "--scenario", "decode", "--op", "attention core", "--json", *changes
    )  # fmt: skip
    (core,) = json.loads(cache.out)["operators"]
    assert core["inputs"]["bytes per element, KV cache"] == 1 + 2 / 64


def test_a_fitted_kernel_states_its_form_parameters_correction_and_file(run, tmp_path):
    devices = tmp_path / "hardware" / "devices"
    devices.mkdir(parents=True)
    (devices / "my-a100.yaml").write_text(
        "schema: costmodel/device@1\nextends: devices/a100-sxm-80gb\nname: my-a100\n"
        "calibration: {default: {gemm: cublas-vllm}, inherit: a100-sxm-80gb}\n"
    )
    done = run(
        "explain", "llama2_70b_a100", "--scenario", "prefill", "--op", "ffn up", "--json",
        "--path", str(tmp_path), "--set", "hardware.node.device=devices/my-a100",
    )  # fmt: skip
    assert done.code == 0, done.err
    (found,) = json.loads(done.out)["operators"]
    parameters = found["parameters"]
    assert "\nseconds = t * residual_factor * repeats\n" in found["equation"]
    assert (found["file"], found["section"]) == ("costmodel/cost/gemm.py", "docs/method.md, section 7.5")
    assert 0 < parameters["launch"] < 1e-4
    assert 0.5 < parameters["hbm_efficiency"] <= 1.3
    assert found["terms"]["residual_factor"] == pytest.approx(1, abs=0.5)
    assert found["considered"][-1].startswith("calibrations/a100-sxm-80gb/cublas-vllm (default of my-a100)")
    assert found["origins"]["fit"] == "calibrations/a100-sxm-80gb/cublas-vllm"
    low, high = found["interval"]
    assert low < found["time"] < high < 1.5 * low
    assert 0.05 < found["site_and_run"] < 0.5  # of whole runs of inference


MIX = """
schema: costmodel/workload@1
model:
  name: mix
  hidden: 4096
  vocabulary: 32000
  layers:
    - repeat: 32
      mixer:
        type: attention
        q_heads: 32
        head_groups:
          - {share: 0.375, pattern: {kind: window, window: 1024}}
          - {share: 0.375, pattern: {kind: strided_blocks, block: 64, local: 8, stride: 16}}
          - {share: 0.25, pattern: {kind: full}}
      ffn: {type: glu, intermediate: 11008}
scenarios:
  prefill: {phase: prefill, cluster: nodes/hgx-h800, input_tokens: 8192, tokens_per_device: 8192}
"""


def test_a_users_own_mix_of_patterns_shows_the_pairs_bytes_and_bound_of_each(run, tmp_path):
    path = tmp_path / "mix.yaml"
    path.write_text(MIX)
    pairs = {"window": 8192 * 1024 - 1024 * 1023 / 2, "full": 8192 * 8193 / 2}
    blocks = sum(min(row + 1, 8) + max(0, row - 7) // 16 for row in range(128))
    for kind, expected in {**pairs, "strided_blocks": 64 * 64 * blocks}.items():
        done = run("explain", str(path), "--op", f"attention core ({kind})", "--json")
        assert done.code == 0, done.err
        (found,) = json.loads(done.out)["operators"]
        assert found["inputs"]["query-key pairs per head"] == expected
        assert found["inputs"]["traffic"] > 0
        assert found["bound"] in ("compute", "memory")


BUSY = """
schema: costmodel/workload@1
model: models/llama-3-8b
scenarios:
  serving: {phase: serving, cluster: nodes/h100-x1, framework: vllm, rate: 4 /s, input_tokens: 3000, output_tokens: 500}
"""


def test_a_wait_in_the_pipeline_is_explained_by_its_equation(run):
    layout = [f"scenarios.decode.parallel.{each}" for each in ("pp=2", "dp=64", "ep=64")]
    changes = [word for change in layout for word in ("--set", change)]
    (found,) = explained(run, "--scenario", "decode", *changes, "--op", "pipeline wait")["operators"]
    terms = found["terms"]
    assert found["family"] == "wait"
    assert found["time"] == pytest.approx(terms["count"] * (terms["step"] - terms["times.latency"]))
    assert found["time"] > 0
    assert terms["step"] == pytest.approx(2 * terms["slowest"])  # a stage works on one of two sets


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("rooter", "has no operator, metric or term 'rooter'; did you mean `router`"),
        ("gizmo", "has no operator, metric or term 'gizmo'; the longest: "),
    ],
)
def test_a_name_that_no_operator_has_is_told_in_one_line(run, name, told):
    done = run("explain", "deepseek_v3", "--scenario", "training", "--op", name)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
    assert len(done.err.splitlines()) == 1


FULL = ("--scenario", "decode", "--set", "scenarios.decode.batch_per_device=1280")


def test_what_does_not_fit_is_explained_as_such(run):
    for asked in ((), ("--op", "expert up")):
        done = run("explain", FLAGSHIP, *FULL, *asked)
        assert done.code == 3
        assert done.out.startswith("infeasible: does not fit in memory: the most-loaded of 128 devices needs")
        document = json.loads(run("explain", FLAGSHIP, *FULL, *asked, "--json").out)
        assert "Lower `batch_per_device`" in document["reason"]
        assert document["operators"]
    assert "reason" not in explained(run, "--scenario", "decode")


def test_every_operator_of_the_shipped_workloads_can_be_explained():
    explained = set()
    names = ("deepep", "deepseek_v3_serving", "gpt3_175b_a100", "mixtral_8x7b_h100")
    for workload, scenario in ((each, scenario) for each in map(costmodel.load, names) for scenario in each.scenarios):
        phase = workload.scenario(scenario).result_kind
        for line in explain.lines(workload, scenario):
            if line.operators and (phase, line.name) not in explained:  # the same line is the same code
                assert all(one.time for one in explain.explain(workload, scenario, line.name))
                explained.add((phase, line.name))


def test_both_tiles_of_a_form_with_two_are_explained(run):
    on_a100 = ("--set", "scenarios.prefill.cluster=nodes/dgx-a100", "--set", "scenarios.prefill.framework=vllm")
    asked = ("--op", "expert up", "--scenario", "prefill", *on_a100, "--json")
    found = json.loads(run("explain", "mixtral_8x7b_h100", *asked).out)["operators"][0]
    parameters = found["parameters"]
    assert parameters["small_compute_efficiency"] > 0 < parameters["large_compute_efficiency"]
    assert "small_reread_share" not in parameters
    assert (found["terms"]["m_t"], found["terms"]["n_t"]) == (64, 64)  # the large tile


@pytest.mark.parametrize(("scenario", "headline"), [("prefill", "ttft"), ("decode", "tpot"), ("training", "step_time")])
def test_a_step_is_explained_by_what_adds_up_and_what_overlaps(run, scenario, headline):
    (found,) = explained(run, "--scenario", scenario, "--op", "step")["operators"]
    simulated = json.loads(run("simulate", FLAGSHIP, "--scenario", scenario, "--json").out)["scenarios"][scenario]
    assert found["time"] == found["terms"][headline] == pytest.approx(simulated["metrics"][headline], rel=1e-12)
    assert found["blocks"][0]["equations"][0].startswith(f"{headline} = ")
    assert all(re.fullmatch(r"costmodel/[\w/]+\.py:\d+", block["place"]) for block in found["blocks"])
    terms = next(each["terms"] for each in found["blocks"] if each["function"] == "_own_span")
    path = {name: seconds for name, seconds in found["inputs"].items() if "on the longest path" in name}
    counts = [float(re.search(r"(\d+) on the longest path", name)[1]) for name in path]
    on_path = math.fsum(count * seconds for count, seconds in zip(counts, path.values(), strict=True))
    assert on_path + terms["sends"] * terms["transfer"] == pytest.approx(terms["span"])
    assert ("\nbubble = " in found["equation"]) is (scenario == "training")


def test_a_step_of_many_micro_batches_is_two_of_fewer_and_names_the_file_of_its_schedule(run):
    longer = ("--set", "scenarios.selective.global_batch=15360", "--scenario", "selective", "--op", "step")
    (found,) = json.loads(run("explain", "gpt3_175b_a100", *longer, "--json").out)["operators"]
    span = next(each["terms"] for each in found["blocks"] if each["function"] == "makespan")
    grown = span["shorter"] + span["periods"] * (span["longer"] - span["shorter"])
    assert span["span"] == pytest.approx(max(grown, span["busiest"]))
    assert [each["function"] for each in found["blocks"]].count("_own_span") == 2
    assert any("costmodel/workload/schedules/orders.py:" in note for note in found["notes"])


def test_a_pass_is_its_streams_and_their_contention(run):
    (found,) = explained(run, "--scenario", "prefill", "--op", "step")["operators"]
    terms = found["terms"]
    assert terms["overlap"] == terms["compute"] + terms["all_to_all"] - terms["times.span"]
    hidden = terms["overlap"] * (1 - 1 / terms["slowdown"]) - terms["idle"]
    assert hidden > 0
    assert terms["contention"] == pytest.approx(hidden)
    assert found["time"] == pytest.approx(terms["span"] + terms["contention"])  # one pipeline stage


def test_an_overlapped_action_of_a_step_is_computation_with_contention(run):
    (found,) = explained(run, "--scenario", "training", "--op", "step")["operators"]
    terms = next(each["terms"] for each in found["blocks"] if each["function"] == "action_times")
    busy = max(terms["pair.compute"] + terms["slower"], terms["sent"])
    name = found["notes"][0].rpartition("time: ")[2]
    assert next(value for key, value in found["inputs"].items() if key.endswith(name)) == pytest.approx(busy)
    own = next(each["terms"] for each in found["blocks"] if "pipeline.durations" in each["terms"])
    assert any(each == pytest.approx(busy) for each in own["pipeline.durations"])
    assert "message_contention" in [each["function"] for each in found["blocks"]]


@pytest.mark.parametrize("scenario", ["training", "prefill"])
def test_what_exchanges_add_is_explained_by_the_step(run, scenario):
    (line,) = (
        line for line in explained(run, "--scenario", scenario)["operators"] if line["name"] == "slowed by exchanges"
    )
    for name in ("slowed by exchanges", "all-to-all contention"):
        (found,) = explained(run, "--scenario", scenario, "--op", name)["operators"]
        assert found["time"] == pytest.approx(line["time"])
        assert "(1 - 1 / slowdown)" in found["equation"]


def test_the_scenario_that_is_explained_is_named(run):
    for asked in ((), ("--op", "step")):
        assert run("explain", FLAGSHIP, "--scenario", "decode", *asked).out.startswith("decode: ")


def test_metrics_are_listed_and_each_name_works_with_spaces(run):
    listed = explained(run, "--scenario", "training")
    assert {"step_time", "mfu", "cost_per_trillion_tokens", "energy_per_token"} <= set(listed["metrics"])
    assert {"weights", "activations", "total"} <= set(listed["memory"])
    shown = run("explain", FLAGSHIP, "--scenario", "training").out
    assert "metrics: step_time, " in shown
    (found,) = explained(run, "--scenario", "training", "--op", "exposed communication")["operators"]
    assert (found["family"], "exposed_communication_time" in found["terms"]) == ("metric", True)


def test_the_runs_of_an_operator_are_said_to_make_its_line(run):
    done = run("explain", FLAGSHIP, "--scenario", "decode", "--op", "attention core", "--verbose")
    (line,) = (each for each in explained(run, "--scenario", "decode")["operators"] if each["name"] == "attention core")
    (found,) = explained(run, "--scenario", "decode", "--op", "attention core")["operators"]
    assert line["runs"] == 2 * 61  # micro-batches and layers
    assert line["runs"] * found["time"] == pytest.approx(line["time"])
    assert "line `attention core` of the list: 18.92 ms, 34%; 122 runs on a device" in done.out
    assert "FLOP and traffic: costmodel/workload/operators.py; docs/method.md, section 2.3" in done.out


def test_a_line_of_many_operators_lists_them(run):
    done = run("explain", FLAGSHIP, "--op", "casts")
    assert len(done.out.splitlines()) < 50
    assert "expert up transposed casts" in done.out
    assert '--op "weight cast"' in done.out  # the longest of them


def test_a_stream_of_experts_names_the_file_of_its_products(run, tmp_path):
    workload = tmp_path / "mixtral.yaml"
    workload.write_text(
        "schema: costmodel/workload@1\nmodel: mixtral-8x7b\nscenarios:\n  d: {phase: decode, cluster: nodes/dgx-h100, "
        "framework: sglang, batch_per_device: 16, input_tokens: 1000, output_tokens: 100, precision: bf16}\n"
    )
    up, total = (
        json.loads(run("explain", str(workload), "--op", name, "--json").out)["operators"][0]["considered"][-1]
        for name in ("expert up", "expert sum")
    )
    assert "(made together with that of grouped_gemm/bf16)" in total
    assert total.partition(" ")[0] == up.partition(" ")[0] == "calibrations/h100-sxm/triton-sglang"


PREFIXES = BUSY.replace("output_tokens: 500", "output_tokens: 50, requests: {prefix: {tokens: 300, groups: 4}}")


def test_explaining_a_closed_form_that_simulate_leaves_says_so(run, tmp_path):
    path = tmp_path / "prefixes.yaml"
    path.write_text(PREFIXES, encoding="utf-8")
    shown, plain = run("explain", str(path), "--op", "ttft"), run("explain", FLAGSHIP, "--op", "step_time")
    assert "requests one by one" in shown.out
    assert "requests.prefix" in shown.out
    assert "one by one" not in plain.out
    assert "requests.prefix" in json.loads(run("explain", str(path), "--json").out)["note"]


def test_a_wait_that_has_no_end_is_explained(run, tmp_path):
    path = tmp_path / "full.yaml"
    path.write_text(
        "schema: costmodel/workload@1\nmodel: models/llama-3-8b\nscenarios:\n  chat: {phase: serving, cluster: "
        "nodes/rtx-4090-x1, framework: vllm, input_tokens: 1000, output_tokens: 200, rate: 400 /s}\n",
        encoding="utf-8",
    )
    shown = run("explain", str(path), "--op", "ttft")
    assert shown.code == 0, shown.err
    assert "chat: ttft has no end" in shown.out
    (found,) = json.loads(run("explain", str(path), "--op", "ttft", "--json").out)["operators"]
    assert found["value"] is None
