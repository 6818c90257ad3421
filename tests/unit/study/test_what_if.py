"""What changes are worth: ceilings by hand, levers as two evaluations, no saving beyond its ceiling."""

from __future__ import annotations

import pytest
from builders import CLUSTER, DENSE_MODEL, PREFILL, scenario

import costmodel
from costmodel.analytic.breakdown import ALL_TO_ALL_CONTENTION
from costmodel.errors import InputError
from costmodel.result import Entry
from costmodel.schema.what_if import AlternativeFile, load_what_if
from costmodel.study.what_if import LEVERS, Whole, ceiling, ratio_of, with_waves, worths

CHOSEN = scenario(PREFILL, DENSE_MODEL, cluster=CLUSTER)  # on 100 processors


def line(name: str, seconds: float, dtype: str | None = None, *, message: bool = False) -> Entry:
    entry = Entry(name, seconds, traffic=None if message else 1e6)
    if dtype is not None:
        entry.by_dtype[dtype] = 1.0
    return entry


RATE = {"scenarios.serving.rate": "1000 /s", "scenarios.serving.concurrency": None}

# 10 s: 4 of FP8 products, 2 of others, 1.5 of messages, 0.5 of interference, 1 of waits; 1 s of bubble beside them
STEP = Whole("training", 10.0, (
    line("up", 4.0, "fp8"), line("core", 2.0, "bf16"), line("combine", 1.5, message=True),
    line(ALL_TO_ALL_CONTENTION, 0.5), line("pipeline wait", 1.0),
))  # fmt: skip


@pytest.mark.parametrize(("changes", "expected"), [
    ({"hardware.memory.hbm.bandwidth": (2e12, 4e12)}, 0.5 * 0.85),       # all but messages, at most twice as fast
    ({"communication.processors": (20.0, 0.0)}, 0.2 * 0.85),             # 80 of 100 processors
    ({"communication.processors": (0.0, 20.0)}, 0.0),                    # the other way nothing is saved
    ({"hardware.math.fp8.accumulate": ("fp22", "fp32")}, 0.65),          # FP8 products, interference, waits and bubble
    ({"hardware.math.bf16.peak": (1e15, 2e15)}, 0.5 * 0.45),
    ({"hardware.node.nic.bandwidth": (5e10, 1e11)}, 0.4),                # messages, interference, waits and bubble
    ({"hardware.node.nic.bandwidth": (5e10, 5.5e10)}, 1 - 1 / 1.1),
    ({"communication.combine": ("bf16", "fp8")}, 0.4),
    ({"communication.combine": ("fp8", "bf16")}, 0.0),
    ({"communication.in_network": (False, True)}, 0.4),
    ({"parallel.tp": (1, 2)}, 0.5),                                      # anything may change, at most twice as fast
    ({"hardware.node.nic.latency": (2e-6, 0.0)}, 0.4),
])  # fmt: skip
def test_ceilings_by_hand(changes: dict[str, tuple[object, object]], expected: float) -> None:
    assert ceiling(STEP, CHOSEN, changes) == pytest.approx(expected, rel=1e-12)


def test_a_server_has_no_ceiling() -> None:
    """Shorter steps leave fewer requests at once: a line saves more than its share."""
    changes = {"hardware.node.nic.bandwidth": (5e10, 1e11)}
    assert ceiling(STEP._replace(phase="serving"), CHOSEN, changes) is None


def test_freed_processors_may_save_a_wave() -> None:
    """Half of what kernels, interference and waits take, 8.5 s, and the messages with what waits for them, 4 s."""
    assert with_waves(STEP, {"communication.processors": (20.0, 0.0)}) == pytest.approx(0.5 * 0.85 + 0.4)
    assert with_waves(STEP, {"hardware.memory.hbm.bandwidth": (1.0, 2.0)}) is None


def levers(*terms: str) -> list[AlternativeFile]:
    listed = {one.term: one for one in load_what_if(LEVERS).file.alternatives}
    return [listed[term] for term in terms] if terms else list(listed.values())


def test_a_lever_is_two_evaluations_and_those_above_it_add_up() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    memory, nic = worths(workload, "decode", levers("device memory twice as fast", "NICs twice as fast"))
    hbm, port = "scenarios.decode.hardware.memory.hbm.bandwidth", "scenarios.decode.hardware.node.nic.bandwidth"
    both = workload.changed({hbm: 6.7e12, port: 1e11}, ["decode"]).evaluate("decode").metrics["tpot"]
    alone = workload.changed({port: 1e11}, ["decode"]).evaluate("decode").metrics["tpot"]
    assert nic.after == alone
    assert nic.together == both
    assert memory.together == memory.after
    assert nic.ratio is not None
    assert nic.ratio[0] <= nic.after / nic.before <= nic.ratio[1]
    assert nic.saved is not None
    assert nic.ceiling is not None
    assert 0.0 < nic.saved < nic.ceiling < 1.0


def test_what_a_scenario_lacks_or_has_already_is_told() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    freed, fabric = worths(
        workload, "decode", levers("communication co-processor, no processors for messages", "fabric latency halved")
    )
    assert freed.refused == "the scenario has it already"
    assert fabric.refused is not None
    assert "latency.same_leaf" in fabric.refused
    assert freed.saved is fabric.saved is None


def test_a_scenario_that_cannot_run_has_no_levers() -> None:
    small = costmodel.load("deepseek_v3", set={"hardware.memory.hbm.capacity": "30 GB"}, scenarios=["decode"])
    with pytest.raises(InputError, match="cannot run: does not fit"):
        worths(small, "decode", levers())
    busy = costmodel.load("llama3_8b_rtx4090", set=RATE, scenarios=["serving"])
    with pytest.raises(InputError, match="cannot run: overloaded"):
        worths(busy, "serving", levers())


def test_a_ratio_is_that_of_two_predictions_and_what_both_share_cancels() -> None:
    base = costmodel.load("deepseek_v3", scenarios=["decode"])
    faster = base.changed({"hardware.node.nic.bandwidth": "2x"})
    before, after = (each.evaluate("decode") for each in (base, faster))
    ratio, ends = ratio_of(base, "decode", faster, "decode")
    assert ratio == pytest.approx(after.metrics["tpot"] / before.metrics["tpot"])
    assert ends is not None
    assert ends[0] <= ratio <= ends[1]
    low, high = before.interval("tpot")
    assert ends[1] / ends[0] < (high / low) ** 0.5  # of one prediction alone, most of which both have
    assert ratio_of(base, "decode", base, "decode") == (1.0, (1.0, 1.0))
    other = costmodel.load("deepseek_v3", cluster="nodes/dgx-h100", scenarios=["decode"])
    apart, wide = ratio_of(base, "decode", other, "decode")
    assert wide is not None
    assert wide[0] < apart < wide[1]
    assert wide[1] / wide[0] > ends[1] / ends[0]  # kernels of two devices are measured apart
