"""Changes relative to what the files say: `2x`, `+10%`."""

from __future__ import annotations

import pytest

import costmodel
from costmodel.errors import InputError
from costmodel.schema.overrides import factor_of

NIC = "hardware.node.nic.bandwidth"
BATCH = "scenarios.decode.batch_per_device"


@pytest.mark.parametrize(
    ("text", "factor"),
    [
        ("2x", 2.0),
        ("0.5 x", 0.5),
        ("+10%", 1.1),
        ("-25 %", 0.75),
        ("-2x", -2.0),
        ("10%", None),
        ("2", None),
        ("x", None),
        (2.0, None),
    ],
)
def test_a_factor_is_told_from_a_value(text: object, factor: float | None) -> None:
    assert factor_of(text) == (None if factor is None else pytest.approx(factor))


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        (NIC, "2x", 100e9),
        (NIC, "-10%", 45e9),
        (BATCH, "0.5x", 64.0),
        ("scenarios.decode.communication.launch", "2x", None),  # no such field
        ("hardware.processors", "+10%", 145.0),  # 145.2: a whole number
        ("hardware.clock", "2x", 2 * 1.83e9),  # for the tensor reference clock
        ("hardware.memory.hbm.bandwidth", "1.5x", 1.5 * 3.35e12),
        ("hardware.memory.hbm.capacity", "0x", None),  # the value obeys the same rules
    ],
)
def test_a_factor_is_of_what_the_files_say(path: str, text: str, value: float | None) -> None:
    if value is None:
        with pytest.raises(InputError, match=path.rpartition(".")[2]):
            costmodel.load("deepseek_v3", {path: text}, scenarios=["decode"])
        return
    changed = costmodel.load("deepseek_v3", {path: text}, scenarios=["decode"]).resolved
    full = {"hardware.clock": "hardware.clock.tensor_reference"}.get(path, path)
    assert changed.value(full) == pytest.approx(value)


def test_each_scenario_has_its_own_value_to_multiply() -> None:
    """The step on H800 and decoding on B200: twice each one's own bandwidth."""
    workload = costmodel.load("llama3_8b_rtx4090", scenarios=["chat"], cluster=["nodes/rtx-4090-x1", "nodes/a100-x1"])
    doubled = workload.changed({"hardware.memory.hbm.bandwidth": "2x"})
    for name in workload.scenarios:
        path = f"scenarios.{name}.hardware.device.memory"
        before, after = (each.resolved.value(path)[-1]["bandwidth"] for each in (workload, doubled))
        assert after == pytest.approx(2 * before)


def test_a_factor_of_a_change_is_of_the_changed_value() -> None:
    workload = costmodel.load("deepseek_v3", {NIC: "25 GB/s"}, scenarios=["decode"])
    assert workload.changed({NIC: "2x"}).resolved.value(NIC) == pytest.approx(50e9)


def test_values_that_vary_may_be_factors() -> None:
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    factors = workload.evaluate("decode", {NIC: ["0.5x", "1x", "+100%"]}).metrics["tpot"]
    values = workload.evaluate("decode", {NIC: [25e9, 50e9, 100e9]}).metrics["tpot"]
    assert factors == pytest.approx(values)


def test_a_sweep_takes_factors_and_ranges_of_them() -> None:
    from costmodel.study.sweep import plan_sweep

    workload = costmodel.load("deepseek_v3", scenarios=["training", "decode"])
    (axis,) = plan_sweep(workload, [f"{NIC}=0.5x..2x:3:log,+10%"]).axes
    assert axis.values == pytest.approx([25e9, 50e9, 100e9, 55e9])
    on_both = costmodel.load("llama3_8b_rtx4090", scenarios=["chat"], cluster=["nodes/rtx-4090-x1", "nodes/a100-x1"])
    with pytest.raises(InputError, match="differs among scenarios"):
        plan_sweep(on_both, ["hardware.memory.hbm.bandwidth=1x,2x"])


def test_nothing_is_multiplied_that_no_file_knows() -> None:
    with pytest.raises(InputError, match="relative to a value that is not known"):
        costmodel.load("deepseek_v3", {"hardware.power.limit": "2x"}, scenarios=["decode"])
