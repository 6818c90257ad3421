"""The facade: what is loaded, what is refused, and that the same input gives the same bytes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from builders import spreads

import costmodel
from costmodel.analytic.grid import evaluate_point
from costmodel.api import Vary
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.spread import Spread
from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.result import PHASES

NVLINK = "hardware.links.nvlink.bandwidth"
SEQUENCE = "scenarios.training.sequence"
MEMORY_KEYS = {
    "weights", "gradients", "optimizer", "activations", "kv_cache", "communication", "reserve", "capacity", "fits",
}  # fmt: skip


def test_the_document_has_the_agreed_keys(v3: costmodel.Workload) -> None:
    document = v3.simulate()
    assert document["schema"] == "costmodel/result@1"
    assert list(document["scenarios"]) == ["training", "prefill", "decode", "decode_4k", "decode_ep_bound"]
    assert {"name", "parameters", "active_parameters", "kv_cache_bytes_per_token", "training_flop_per_token"} <= set(
        document["model"]
    )
    for found in document["scenarios"].values():
        assert set(found["metrics"]) == set(found["intervals"]) == set(PHASES[found["phase"]][1])
        assert set(found["memory"]) == MEMORY_KEYS
        assert sum(found["basis"].values()) == pytest.approx(1)
        assert found["bound"] in {"compute", "memory", "network", "latency", "capacity"}
        assert sum(entry["share"] for entry in found["breakdown"]) <= 1 + 1e-9
        for entry in found["breakdown"]:
            assert {"name", "time", "share", "bound", "basis", "hidden"} <= set(entry)


def test_every_number_is_finite_or_null(v3: costmodel.Workload) -> None:
    def check(value: object) -> None:
        if isinstance(value, dict):
            for part in value.values():
                check(part)
        elif isinstance(value, list):
            for part in value:
                check(part)
        elif isinstance(value, float):
            assert math.isfinite(value)

    check(v3.simulate())
    check(
        costmodel.load(
            "deepseek_v3", cluster="nodes/rtx-4090-x8", set={"scenarios.training.precision": "bf16"}
        ).simulate(["training"])
    )


def test_the_same_input_gives_the_same_bytes() -> None:
    first, second = (json.dumps(costmodel.load("deepseek_v3").simulate()) for _ in range(2))
    assert first == second


def test_an_interval_holds_every_metric_of_the_flagship(v3: costmodel.Workload) -> None:
    for name in v3.scenarios:
        result = v3.evaluate(name)
        for metric, value in result.metrics.items():
            pair = result.intervals[metric]
            if value is not None:
                assert pair is not None
                assert pair[0] <= value <= pair[1]


def test_uncalibrated_times_rest_on_the_roofline(v3: costmodel.Workload) -> None:
    plain = evaluate_point(v3.scenario("training"), Calibration()).document()
    assert plain["basis"]["roofline"] == pytest.approx(1)


def test_the_shipped_fits_carry_the_flagship(v3: costmodel.Workload) -> None:
    """Shares of the time, of which products and attention cores are most."""
    basis = v3.evaluate("training").at()["basis"]
    assert sum(basis.values()) == pytest.approx(1)
    assert basis["roofline"] < 0.5


def test_a_calibration_plugs_in(v3: costmodel.Workload) -> None:
    """Where a fit is given, its efficiency moves the time and its basis shows in the document."""
    training = v3.scenario("training")
    fit = FamilyFit(
        compute_efficiency=0.5, hbm_efficiency=0.5, spread=Spread((1.0,), (0.95,), (1.0,), (1.05,)), basis="fitted"
    )
    plain = evaluate_point(training, Calibration()).document()
    fitted = evaluate_point(training, Calibration("mine", {"grouped_gemm": fit}, ("grouped_gemm: a note",))).document()
    assert fitted["metrics"]["step_time"] > plain["metrics"]["step_time"]
    assert 0 < fitted["basis"]["fitted"] < 1
    assert fitted["basis"]["fitted"] + fitted["basis"]["roofline"] == pytest.approx(1)
    assert {entry["basis"] for entry in fitted["breakdown"] if entry["name"].startswith("expert up")} == {"fitted"}
    assert fitted["notes"] == [*plain["notes"], "grouped_gemm: a note"]
    low, high = fitted["intervals"]["step_time"]
    assert low < fitted["metrics"]["step_time"] < high
    everything = evaluate_point(training, Calibration("all", dict.fromkeys(spreads(1, 1, 1).families, fit))).document()
    assert everything["basis"]["fitted"] == pytest.approx(1)


def test_a_grid_has_an_axis_for_each_entry_in_key_order(v3: costmodel.Workload) -> None:
    result = v3.evaluate("training", vary={SEQUENCE: [2048, 4096], NVLINK: ["200 GB/s", "450 GB/s", "900 GB/s"]})
    assert np.asarray(result.metrics["step_time"]).shape == (2, 3)
    assert result.at(1, 0)["metrics"]["step_time"] == pytest.approx(
        v3.evaluate("training").metrics["step_time"], rel=1e-9
    )


def test_linked_paths_are_one_axis(v3: costmodel.Workload) -> None:
    linked = v3.evaluate("training", vary={(SEQUENCE, NVLINK): ([2048, 4096], [2e11, 4e11])})
    product = v3.evaluate("training", vary={SEQUENCE: [2048, 4096], NVLINK: [2e11, 4e11]})
    together = np.asarray(linked.metrics["step_time"])
    np.testing.assert_allclose(together, np.diag(np.asarray(product.metrics["step_time"])), rtol=1e-9)


def test_changes_of_load_hold_under_vary() -> None:
    fast = costmodel.load("deepseek_v3", set={NVLINK: "900 GB/s"}, scenarios=["training"])
    varied = fast.evaluate("training", vary={SEQUENCE: [4096]})
    assert np.asarray(varied.metrics["step_time"])[0] == pytest.approx(fast.evaluate("training").metrics["step_time"])


def test_a_single_result_reads_like_a_point(v3: costmodel.Workload) -> None:
    result = v3.evaluate("decode")
    assert result.fits is True
    assert result.reason == 0
    assert result.at() == v3.simulate(["decode"])["scenarios"]["decode"]
    assert [entry.name for entry in result.breakdown] == [entry["name"] for entry in result.at()["breakdown"]]


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ({"hardware.links.nvlinc.bandwidth": [1e11]}, "nvlin"),
        ({(SEQUENCE, NVLINK): ([1, 2], [1e11])}, "one as many"),
        ({SEQUENCE: []}, "at least one"),
        ({NVLINK: ["200 Gb/s"]}, "Gb/s"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused(v3: costmodel.Workload, vary: Vary, message: str) -> None:
    with pytest.raises(InputError) as caught:
        v3.evaluate("training", vary=vary)
    assert message in str(caught.value)


def test_unknown_scenarios_and_engines_are_refused(v3: costmodel.Workload) -> None:
    with pytest.raises(InputError, match="no scenario `trainig`"):
        v3.evaluate("trainig")
    with pytest.raises(InputError, match="unknown engine"):
        v3.evaluate("training", engine="guess")


def test_a_smaller_cluster_does_not_fit_and_says_so() -> None:
    small = costmodel.load(
        "deepseek_v3", set={"hardware.memory.hbm.capacity": "40 GB"}, scenarios=["training", "decode"]
    )
    for name in ("training", "decode"):
        result = small.evaluate(name)
        document = result.at()
        assert result.fits is False
        assert result.reason == 2
        assert document["memory"]["fits"] is False
        assert set(document["metrics"].values()) == {None}
        assert document["bound"] == "capacity"


def test_the_model_s_facts_do_not_depend_on_a_scenario_s_layout(v3: costmodel.Workload) -> None:
    decode = costmodel.load("deepseek_v3", scenarios=["decode"])
    assert decode.model() == v3.model()


def test_evaluating_does_not_change_a_workload(v3: costmodel.Workload) -> None:
    before = v3.evaluate("training").metrics["step_time"]
    v3.evaluate("training", vary={SEQUENCE: [1024, 2048]})
    assert v3.evaluate("training").metrics["step_time"] == before
    assert replace(v3.scenario("training"), name="other").name == "other"


def test_a_run_is_told_nothing_of_the_kernels_of_another_one() -> None:
    """Both share the fits of a device and framework; only an FP8 cache has no kernel of FlashMLA's."""

    def notes(cache: str) -> list[str]:
        changed = costmodel.load("deepseek_v3", set={"scenarios.decode.precision.kv_cache": cache})
        found: list[str] = changed.simulate(["decode"])["scenarios"]["decode"].get("notes", [])
        return [note for note in found if note.startswith("mla_decode")]

    assert notes("bf16") == []
    (note,) = notes("fp8")
    assert note.startswith("mla_decode/bf16_kvquant: h800-sxm has no fit of flashmla-dense")
    assert notes("bf16") == []


def test_a_device_alone_is_told_nothing_of_messages() -> None:
    """An RTX 4090 has no collectives of its own, which matters to eight of them."""

    def told(cluster: str, layout: dict[str, int]) -> bool:
        split = {"scenarios.decode.parallel": layout}
        found = costmodel.load("llama-3-8b", cluster=cluster, set=split).simulate(["decode"])["scenarios"]["decode"]
        return any(note.startswith("collective") for note in found.get("notes", []))

    assert not told("nodes/rtx-4090-x1", {"tp": 1})
    assert told("nodes/rtx-4090-x8", {"tp": 8})


ANCHORED = """\
schema: costmodel/workload@1
model: models/llama-3-8b
scenarios:
  base:
    phase: training
    cluster: nodes/dgx-h100
    framework: megatron
    parallel: {tp: 2, dp: 4}
    global_batch: 64
    sequence: 4096
    anchor: {metric: step_time, value: 4.5 s}
"""


def test_a_measured_step_stays_that_of_its_own_cluster_among_several(tmp_path: Path) -> None:
    file = tmp_path / "anchored.yaml"
    file.write_text(ANCHORED, encoding="utf-8")
    both = costmodel.load(file, cluster=["nodes/dgx-h100", "nodes/hgx-h200"])
    alone = {"base@dgx-h100": costmodel.load(file), "base@hgx-h200": costmodel.load(file, cluster="nodes/hgx-h200")}
    for name, workload in alone.items():
        first, second = both.evaluate(name).point(), workload.evaluate("base").point()
        assert (first.metrics, first.intervals) == (second.metrics, second.intervals)


def test_a_model_is_loaded_with_a_cluster_and_varied_on_each_of_several() -> None:
    many = {"scenarios.decode.input_tokens": np.array([512.0, 1024.0])}
    assert costmodel.load("qwen3-8b", many, cluster="nodes/h100-x1", phases=["decode"]).scenarios == ("decode",)
    workload = costmodel.load("qwen3-8b", cluster=["nodes/h100-x1", "nodes/a100-x1"], phases=["decode"])
    batches = {"scenarios.decode.batch_per_device": [8, 16]}
    fast, slow = (workload.evaluate(name, vary=batches).metrics["tpot"] for name in workload.scenarios)
    assert workload.asked()["cluster"] == ["nodes/h100-x1", "nodes/a100-x1"]
    assert np.all(fast < slow)


def test_workloads_and_results_are_shown_by_what_a_person_asks_of_them() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    assert repr(workload) == "Workload('deepseek_v3', scenarios=('decode',))"
    shown = repr(workload.evaluate("decode"))
    assert shown.startswith("Result(scenario='decode', metrics={'tpot': 0.05")
    assert shown.endswith("fits=True, reason=0)")
