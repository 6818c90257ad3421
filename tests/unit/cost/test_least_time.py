"""The least time of a kernel by hand: its work at the highest clock, the bytes that no cache can hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from builders import DEVICE, MACHINE

from costmodel.calibration.row_prediction import predict
from costmodel.cost.physical_bound import floored, least_time
from costmodel.cost.time import Time
from costmodel.hardware import Cluster
from costmodel.measurements.raw_tables import RawTable
from costmodel.measurements.tables import table_of
from costmodel.records import replace
from costmodel.schema.files import load_node
from costmodel.workload.operators import Collective, Elementwise, Gemm, Group

GEMM = Gemm("product", m=4096.0, n=4096.0, k=8192.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0)


def test_a_product_takes_its_flop_over_the_peak() -> None:
    """2 * 4096 * 4096 * 8192 FLOP at 10,000 a cycle, 1 GHz and 100 processors: 275 us; its weights 34 us."""
    assert least_time(GEMM, MACHINE) == pytest.approx(2 * 4096 * 4096 * 8192 / 1e15)


def test_a_boosting_clock_and_half_the_processors_count() -> None:
    boosted = replace(MACHINE, device=replace(DEVICE, clock_max=2e9), processors=50.0)
    assert least_time(GEMM, boosted) == pytest.approx(2 * 4096 * 4096 * 8192 / 1e15)


def test_a_thin_product_takes_its_weights_over_the_bandwidth() -> None:
    thin = replace(GEMM, m=1.0)
    assert least_time(thin, MACHINE) == pytest.approx(4096 * 8192 * 2 / 2e12)


def test_what_l2_may_hold_needs_no_memory() -> None:
    """Of 250 MB that an element-wise kernel moves, 50 MB of L2 may be there before."""
    assert least_time(Elementwise("sum", 250e6), MACHINE) == pytest.approx(200e6 / 2e12)
    assert least_time(Elementwise("sum", 40e6), MACHINE) == 0.0


def test_element_wise_work_takes_the_vector_units() -> None:
    """128 FLOP a cycle of 100 processors at 1 GHz: 10 GFLOP take 781 us beside 100 us of bytes."""
    vector = replace(DEVICE.math["bf16"], flop_per_cycle=128.0, clock=1e9)
    machine = replace(MACHINE, device=replace(DEVICE, math={**DEVICE.math, "fp32": vector}))
    cosines = Elementwise("cosines", 250e6, work=1e10)
    assert least_time(cosines, machine) == pytest.approx(1e10 / (128 * 1e9 * 100))
    assert least_time(replace(cosines, work=1e9), machine) == pytest.approx(200e6 / 2e12)
    assert least_time(replace(cosines, special=4e9), machine) == pytest.approx(4e9 / (16 * 1e9 * 100))


def test_messages_take_their_bytes_over_the_links() -> None:
    """Of 8 ranks each gets 7/8 of 1 GB; of two nodes with 8 NICs half of it comes from the other one."""
    node = load_node("hgx-h800")
    assert node.nic is not None
    inside, size = node.intra.bandwidth, 1e9
    for kind in ("all_reduce", "all_gather", "all_to_all"):
        one = replace(MACHINE, cluster=Cluster("one", node, 1.0, None))
        assert least_time(Collective("x", kind, size, Group(8.0), calls=2.0), one) == pytest.approx(
            2 * 7 / 8 * size / inside
        )
    two = replace(MACHINE, cluster=Cluster("two", node, 2.0, None))
    assert least_time(Collective("x", "all_to_all", size, Group(16.0)), two) == pytest.approx(
        size / 2 / node.nic.bandwidth
    )
    assert least_time(Collective("x", "send_recv", size, Group(2.0)), one) == pytest.approx(size / inside)
    assert least_time(Collective("x", "all_reduce", size, Group(1.0)), one) == 0.0


def test_no_interval_of_a_message_starts_at_zero() -> None:
    """Eight RTX 5090 have an all-to-all by another device's rows, its interval wider than its time."""
    sizes = [str(2**power) for power in range(14, 22)]
    cells = {
        "device": "rtx-5090", "op": "all_to_all", "dtype_in": "bf16", "world_size": "8", "gpus_per_node": "8",
        "time_us": "-1",
    }  # fmt: skip
    columns = {name: [value] * len(sizes) for name, value in cells.items()} | {"bytes": sizes}
    found = predict(table_of(RawTable(Path("rows"), columns, list(range(len(sizes))))))
    assert (found.low > 0.0).all()
    assert (found.low <= found.seconds).all()


def test_a_time_below_the_least_is_raised_to_it() -> None:
    assert floored(Time(1.0, network=1.0), 3.0).seconds == 3.0
    assert floored(Time(3.0), 1.0).seconds == 3.0


def test_a_kernel_is_bound_by_what_makes_it_longer_than_its_fit() -> None:
    fitted = Time(1.0, memory=1.0)
    assert floored(fitted, 3.0, lambda: 2.0).bound == "memory"
    assert floored(fitted, 3.0, lambda: 3.0).bound == "compute"
    assert floored(fitted, 0.5, lambda: 0.5) is fitted
