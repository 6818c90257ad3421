from __future__ import annotations

import json

import pytest

from costmodel.schema.references import Library
from costmodel.study.published.refits import named, read_terms

KEYS = [
    "id", "publication", "class", "metric", "unit", "published", "predicted", "low", "high", "error", "verdict",
    "source", "state", "interval_unseen", "group",
]  # fmt: skip
HEAD = 'schema: costmodel/case@1\nsource: {cite: "a book", verified: true}\ncases:\n'
KV = "  - {id: %s, class: counting, scenario: {model: models/deepseek-v3}, expect: [%s]}\n"
BOUND = "  - {id: %s, class: %s, scenario: {workload: deepseek_v3, scenario: decode_ep_bound%s}, expect: [%s]}\n"
STEP = "  - {id: %s, class: %s, scenario: {workload: deepseek_v3, scenario: training}, expect: [%s]}\n"


@pytest.fixture
def held(run, tmp_path):
    """Return a function that runs `reproduce` on cases and returns the run and its rows."""

    def ran(*cases, code=0):
        file = tmp_path / "mine.yaml"
        file.write_text(HEAD + "".join(cases), encoding="utf-8")
        done = run("reproduce", file, "--json")
        assert done.code == code, done.err
        return json.loads(done.out), done.err

    return ran


def test_json_is_a_list_of_the_documented_rows(run):
    done = run("reproduce", "ins_t1_v3", "ins_ep_ib", "--json")
    assert (done.code, done.err) == (0, "")
    rows = json.loads(done.out)
    assert [list(row) for row in rows] == [KEYS, KEYS]
    assert rows[0] == {
        "id": "ins_t1_v3", "publication": "insights_deepseek_v3", "class": "counting",
        "metric": "kv_cache_bytes_per_token", "unit": "B", "published": 70272.0,
        "predicted": 70272.0, "low": 70272.0, "high": 70272.0, "error": 0.0, "verdict": "pass",
        "source": "Insights into DeepSeek-V3, arXiv 2505.09343 (ISCA 2025)",
        "state": "unseen", "interval_unseen": True, "group": "ins_t1_v3 kv_cache_bytes_per_token",
    }  # fmt: skip


def test_a_failed_figure_is_information_not_an_error(held):
    (row,), _ = held(KV % ("a", "{metric: kv_cache_bytes_per_token, value: 60 kB, tolerance: 1 %}"))
    assert row["verdict"] == "fail"
    assert row["error"] == pytest.approx(70.272 / 60 - 1)


@pytest.mark.parametrize(
    ("check", "verdict"),
    [
        ("value: 70 kB, check: lower", "pass"),
        ("value: 71 kB, check: lower", "fail"),
        ("value: 71 kB, check: upper", "pass"),
        ("value: 70 kB, check: upper", "fail"),
        ("value: 70 kB, check: upper, tolerance: 1 %", "pass"),
        ("value: [69 kB, 71 kB], check: range", "pass"),
        ("value: [71 kB, 72 kB], check: range", "fail"),
    ],
)
def test_one_sided_checks_and_ranges_are_held_but_not_scored(held, check, verdict):
    (row,), _ = held(KV % ("a", f"{{metric: kv_cache_bytes_per_token, {check}}}"))
    assert (row["verdict"], row["error"]) == (verdict, None)


def test_ratio_and_order_are_taken_to_a_baseline(held):
    faster = ", set: {scenarios.decode_ep_bound.cluster: nodes/gb200-nvl72}"
    rows, _ = held(
        BOUND % ("slow", "communication", "", "{metric: tpot, value: 14.76 ms, tolerance: 1 %}"),
        BOUND % ("fast", "communication", faster, "{metric: tpot, check: ordering, baseline: slow}"),
        BOUND
        % (
            "how",
            "communication",
            faster,
            "{metric: tpot, value: 0.0556, tolerance: 1 %, check: ratio, baseline: slow}",
        ),
    )
    assert [row["verdict"] for row in rows] == ["pass", "pass", "pass"]
    assert rows[2]["predicted"] == pytest.approx(50 / 900)


def test_a_skipped_case_says_why(held):
    (row,), _ = held("  - {id: later, skip: configuration not published}\n")
    assert (row["verdict"], row["reason"]) == ("skip", "configuration not published")


def test_what_does_not_fit_is_infeasible_but_its_memory_is_compared(held):
    case = (
        "  - {id: big, class: memory, scenario: {workload: deepseek_v3, scenario: training, set: "
        "{scenarios.training.recompute: none}}, expect: [{metric: step_time, value: 20 s, tolerance: 10 %}, "
        "{metric: memory.activations, value: 80 GB, tolerance: 20 %}]}\n"
    )
    (time, memory), _ = held(case)
    assert (time["verdict"], time["predicted"]) == ("infeasible", None)
    assert "memory" in time["reason"]
    assert memory["verdict"] in ("pass", "fail")


GOOD = KV % ("good", "{metric: kv_cache_bytes_per_token, value: 70.272 kB, tolerance: 0.5 %}")


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (KV % ("odd", "{metric: kv_cach_bytes_per_token, value: 1 kB}"), "kv_cache_bytes_per_token"),
        (KV % ("odd", "{metric: step_time, value: 1 s}"), "needs a scenario"),
        (KV % ("odd", "{metric: kv_cache_bytes_per_token, value: 2, check: ratio, baseline: god}"), "`good`"),
        (GOOD.replace("id: good", "id: odd").replace("models/deepseek-v3", "models/deepsek-v3"), "deepseek-v3"),
        (BOUND % ("odd", "memory", "", "{metric: memory.weights, value: 1 GB}"), "holds nothing in memory"),
        (STEP % ("odd", "memory", "{metric: memory.weigths, value: 1 GB}"), "`weights`"),
        (BOUND % ("odd", "training", "", "{metric: schedule.bubble, value: 1 s}"), "a part of a training step"),
        (BOUND % ("odd", "training", "", "{metric: mfu, value: 40 %}"), "mfu"),
        ("  - {id: odd, class: training}\n", "is missing"),
    ],
)  # fmt: skip
def test_one_broken_case_is_told_and_stops_no_other(held, broken, told):
    rows, err = held(broken, GOOD, code=2)
    assert [row["id"] for row in rows] == ["good"]
    assert "mine.yaml" in err
    assert told in err


def test_an_unknown_convention_is_told(held):
    case = (
        "  - {id: odd, class: training, scenario: {workload: deepseek_v3, scenario: training}, conventions: "
        "{attention: caussal}, expect: [{metric: mfu, value: 40 %}]}\n"
    )
    rows, err = held(case, GOOD, code=2)
    assert [row["id"] for row in rows] == ["good"]
    assert "`causal`" in err


def test_conventions_decide_what_a_utilisation_counts(held):
    def figure(name, metric, conventions):
        return (
            f"  - {{id: {name}, class: training, scenario: {{workload: deepseek_v3, scenario: training}}, conventions: "
            f"{{{conventions}}}, expect: [{{metric: {metric}, value: 1 {'TFLOP/s' if 'rate' in metric else ''}}}]}}\n"
        )

    rows, _ = held(
        figure("causal", "mfu", "attention: causal, peak: bf16"),
        figure("full", "mfu", "attention: full, peak: bf16"),
        figure("fp8", "mfu", "attention: causal, peak: fp8"),
        figure("rate", "flop_rate_per_device", "attention: causal, flop: model"),
        figure("hardware", "hfu", "attention: causal, peak: bf16"),
    )
    value = {row["id"]: row["predicted"] for row in rows}
    assert value["full"] / value["causal"] == pytest.approx(280.9 / 250.46, rel=1e-2)
    assert value["causal"] / value["fp8"] == pytest.approx(1978.9 / 989.4)
    assert value["rate"] == pytest.approx(value["causal"] * 989.4e12, rel=1e-3)
    assert 1.0 < value["hardware"] / value["causal"] < 4 / 3
    for row in rows:
        assert row["low"] <= row["predicted"] <= row["high"]


def test_parts_of_a_step_have_intervals_too(run):
    rows = json.loads(run("reproduce", "insights_deepseek_v3", "--json").out)
    parts = [row for row in rows if (row["metric"] or "").startswith("schedule.")]
    assert len(parts) == 12
    for row in parts:
        assert row["low"] <= row["predicted"] <= row["high"]
        assert row["low"] < row["high"]


def test_what_is_farthest_off_is_listed_before_what_has_no_error(run):
    errors = {row["id"]: row["error"] for row in json.loads(run("reproduce", "systems", "--json").out)}
    listed = run("reproduce", "systems").out
    known = sorted((abs(error), name) for name, error in errors.items() if error is not None)
    assert all(f"{name} " in listed for _, name in known[-5:])
    assert not any(f"\n{name} " in listed for _, name in known[: len(known) // 2])


def test_the_terminal_shows_figures_and_a_summary_per_class(run):
    named = "insights_deepseek_v3", "korthikanti_2022", "deepseek_online"
    short = run("reproduce", *named).out.splitlines()
    assert "the 8 that are farthest off, of " in "".join(short)
    assert len(short) < 25
    done = run("reproduce", *named, "--verbose")
    assert done.code == 0
    assert "class" in done.out
    for name in ("counting", "communication", "memory", "training", "serving", "training korthikanti_2022", "median"):
        assert name in done.out
    assert "mean absolute error" in done.out
    assert "bias" in done.out
    assert "45.56 GiB" in done.out


def test_a_class_of_cases_can_be_picked(run):
    rows = json.loads(run("reproduce", "korthikanti_2022", "--class", "memory", "--json").out)
    assert len(rows) == 6
    assert {row["class"] for row in rows} == {"memory"}
    done = run("reproduce", "--class", "memroy")
    assert done.code == 2
    assert "did you mean `memory`" in done.err


def test_leaving_out_changes_nothing_without_declared_terms(run, tmp_path):
    folder = tmp_path / "hardware/fit_plans"
    folder.mkdir(parents=True)
    (folder / "end_to_end.yaml").write_text(
        "schema: costmodel/fit_plan@1\nname: end_to_end\nterms: []\n", encoding="utf-8"
    )
    plain = run("reproduce", "mt_nlg", "--json")
    assert run("reproduce", "mt_nlg", "--leave-out", "--path", tmp_path, "--json").out == plain.out


def test_leaving_out_takes_the_fits_that_are_kept_next_to_the_plan(run, tmp_path):
    plan = tmp_path / "hardware/fit_plans/end_to_end.yaml"
    plan.parent.mkdir(parents=True)
    plan.write_text(
        "schema: costmodel/fit_plan@1\nname: end_to_end\nrefits: fits.json\nterms:\n  - {path: framework.launch, "
        "bounds: [1 us, 50 us], frameworks: [megatron, megatron-2021], classes: [training], "
        "publications: [megascale, mt_nlg, narayanan_2021]}\n",
        encoding="utf-8",
    )
    asked = ("reproduce", "mt_nlg", "--cross-validate", "--path", tmp_path, "--json")
    assert "python -m reports.fits.frameworks" in run(*asked).err
    fitted = {"values": [7e-6], "figures": 1, "before": 0.1, "after": 0.1}
    kept = {"terms": named(read_terms(Library([tmp_path]))), "everything": fitted, "without": {"mt_nlg": fitted}}
    plan.with_name("fits.json").write_text(json.dumps(kept), encoding="utf-8")
    (row,) = json.loads(run(*asked).out)
    assert row["terms"] == {"scenarios.case.framework.launch": 7e-6}


def test_a_case_of_a_device_is_held_against_its_file(held):
    case = (
        "  - {id: %s, class: counting, device: devices/h800-sxm, expect: [{metric: %s, value: %s, tolerance: 1 %%}]}\n"
    )
    rows, _ = held(case % ("a", "device.math.bf16.peak", "989.4 TFLOP/s"), case % ("b", "device.power.tdp", "70 W"))
    assert [(row["verdict"], row["unit"]) for row in rows] == [("pass", "FLOP/s"), ("fail", "W")]
    _, told = held(case % ("c", "device.math.bf17.peak", "1 TFLOP/s"), code=2)
    assert "bf16" in told
    _, told = held(
        STEP % ("d", "counting", "{metric: device.math.bf16.peak, value: 1 TFLOP/s, tolerance: 1 %}"), code=2
    )
    assert "needs a device" in told


KERNEL = (
    "  - {id: %s, class: kernel, kernel: {device: H800_SXM, op: %s, dtype_in: bf16, m: 4096, n: 4096, %s: 4096}, "
    "expect: [{metric: %s, value: %s, tolerance: 50 %%}]}\n"
)


def test_a_kernel_is_priced_as_a_row_of_a_measurement_table(held):
    rows, _ = held(
        KERNEL % ("a", "gemm", "k", "time", "200 us"), KERNEL % ("b", "gemm", "k", "flop_rate", "700 TFLOP/s")
    )
    assert rows[0]["predicted"] * rows[1]["predicted"] == pytest.approx(2 * 4096**3)
    assert all(row["low"] < row["predicted"] < row["high"] for row in rows)
    assert {row["verdict"] for row in rows} == {"pass"}


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (KERNEL % ("a", "gemm", "kk", "time", "1 us"), "did you mean `k`"),
        (KERNEL % ("a", "gemn", "k", "time", "1 us"), "no such operator"),
        ((KERNEL % ("a", "gemm", "k", "time", "1 us")).replace("H800_SXM", "H801"), "H801"),
        ((KERNEL % ("a", "gemm", "k", "time", "1 us")).replace("m: 4096", "m: -1"), "'-1' is impossible"),
        (KERNEL % ("a", "gemm", "k", "step_time", "1 us"), "step_time"),
    ],
)
def test_a_kernel_that_is_none_is_told(held, case, told):
    _, err = held(case, code=2)
    assert told in err


def test_cases_are_found_on_the_search_path_and_by_file_name(run, tmp_path):
    folder = tmp_path / "workloads/published"
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text(HEAD + GOOD, encoding="utf-8")
    for name in ("good", "own", "published/own"):
        assert [row["id"] for row in json.loads(run("reproduce", name, "--path", tmp_path, "--json").out)] == ["good"]


def test_facts_of_expert_layers_are_figures_too(held):
    """DeepSeek-V3's serving units: 32 replicas, nine experts a GPU at EP32 and two at EP144."""
    served = "{workload: deepseek_v3, scenario: decode, set: {%s: '{dp: %d, ep: %d}', %s: 32}}"
    parallel, redundant = "scenarios.decode.parallel", "scenarios.decode.routing.redundant"
    cases = [
        f"  - {{id: ep{ep}, class: serving, scenario: {served % (parallel, ep, ep, redundant)}, "
        f"expect: [{{metric: routing.experts_held, value: {slots}, tolerance: 1 %}}]}}\n"
        for ep, slots in ((32, 9), (144, 2))
    ]
    rows, _ = held(*cases)
    assert [row["predicted"] for row in rows] == [9, 2]
    assert {row["verdict"] for row in rows} == {"pass"}
    _, told = held(STEP % ("b", "training", "{metric: routing.nothing, value: 1, tolerance: 1 %}"), code=2)
    assert "routing.nothing" in told
    _, told = held(BOUND % ("c", "inference", "", "{metric: routing.expert_load, value: 1, tolerance: 1 %}"), code=2)
    assert "expert layers" in told


def test_a_single_case_brings_the_baseline_of_its_ratio(run):
    done = run("reproduce", "DU-01", "--json")
    assert (done.code, done.err) == (0, "")
    assert {row["id"] for row in json.loads(done.out)} == {"DU-01"}
    assert " 2.18x " in run("reproduce", "DU-01").out  # a ratio of two times is no time


def test_a_summary_says_how_accurate_unseen_figures_are(run):
    done = run("reproduce", "ins_t1_v3", "ins_t4_mpft_time_step", "--summary", "--json")
    assert (done.code, done.err) == (0, "")
    (counting,) = json.loads(done.out)
    assert (counting["class"], counting["figures"], counting["mean"]) == ("counting", 1, 0.0)
    shown = run("reproduce", "ins_t1_v3", "--summary")
    assert "counting" in shown.out
    assert "independent" in shown.out
