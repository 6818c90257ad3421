"""`costmodel topology` and `costmodel collective`."""

from __future__ import annotations

import json

import pytest

from costmodel.units import parse
from reports.network.__main__ import printed

TABLE_3 = printed()
COLLECTIVE = ("collective", "all_to_all", "--cluster", "h800-2048-mpft", "--ranks", "64", "--size", "1GiB")


def collective(run, *arguments: str, kind: str = "all_to_all", ranks: str = "64", size: str = "1GiB"):
    return run(
        "collective", kind, "--cluster", "h800-2048-mpft", "--ranks", ranks, "--size", size, "--json", *arguments
    )


def test_table_3_of_the_paper(run):
    rows = json.loads(run("topology", *TABLE_3, "--json").out)
    assert [row["name"] for row in rows] == list(TABLE_3)
    for row in rows:
        published = TABLE_3[row["name"]]
        for part in ("endpoints", "switches", "links"):
            assert row[part] == int(published[part])
        for price in ("cost", "cost_per_endpoint"):
            assert row[price] == pytest.approx(parse(published[price], "money"), rel=0.03)
    assert [row["diameter"] for row in rows] == [2, 2, 4, 2, 3]
    assert rows[0]["bisection_bandwidth"] == 1_024 * 50e9


def test_all_topologies_are_listed_with_the_same_keys(run):
    rows = json.loads(run("topology", "--json").out)
    assert set(TABLE_3) < {row["name"] for row in rows}
    keys = {"name", "endpoints", "switches", "links", "cost", "cost_per_endpoint", "diameter", "bisection_bandwidth"}
    assert all(set(row) == keys for row in rows)
    shown = run("topology", "ft2", "nvlink-nvl72").out
    assert "9,005,088 $" in shown
    assert "51.2 TB/s" in shown


def test_messages_are_those_of_the_framework_that_is_named(run):
    asked = ("--cluster", "nodes/dgx-h100", "--ranks", "8", "--size", "64KiB", "--json")
    nccl, own = (
        json.loads(run("collective", kind, *asked).out) for kind in ("all_reduce", "all_reduce:framework=vllm")
    )
    assert (nccl["fit"], own["fit"]) == ("calibrations/h100-sxm/nccl", "calibrations/h100-sxm/peers-vllm")
    assert own["time"] < nccl["time"]  # why engines have one
    told = run("collective", "all_reduce:framework=vlm", *asked)
    assert (told.code, "frameworks/vlm not found; did you mean" in told.err) == (2, True)


def test_an_unknown_topology_is_told_with_the_nearest(run):
    told = run("topology", "mpfd")
    assert told.code == 2
    assert "did you mean `mpft`?" in told.err


@pytest.mark.parametrize("engine", ["analytic", "flow"])
@pytest.mark.parametrize(
    "kind",
    ["all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all", "send_recv", "dispatch", "combine"],
)
def test_every_kind_on_both_engines_answers_with_the_same_keys(run, kind, engine):
    found = json.loads(collective(run, "--engine", engine, kind=kind).out)
    assert {"time", "algbw", "busbw", "latency_part", "bottleneck"} <= set(found)
    assert 0 < found["latency_part"] < found["time"]
    assert found["algbw"] == pytest.approx(found["size"] / found["time"])


@pytest.mark.parametrize("kind", ["all_to_all", "all_gather", "dispatch", "combine", "send_recv"])
def test_the_engines_agree_where_nothing_contends(run, kind):
    closed, flows = (
        json.loads(collective(run, "--engine", e, kind=kind, size="8GiB").out) for e in ("analytic", "flow")
    )
    assert flows["time"] == pytest.approx(closed["time"], rel=0.13)


def test_options_after_the_kind_choose_algorithm_payload_and_place(run):
    ring = json.loads(collective(run, kind="all_reduce:ring").out)
    assert ring["algorithm"] == "ring"
    half = json.loads(collective(run, kind="dispatch:fp8").out)
    assert half["size"] == pytest.approx(2**30 * (1 + 4 / 128) / 2)
    apart = json.loads(collective(run, "--engine", "flow", kind="all_to_all:stride=32").out)
    assert apart["latency_part"] > json.loads(collective(run, "--engine", "flow").out)["latency_part"]
    chunked = json.loads(collective(run, kind="broadcast:ring,chunks=4").out)
    assert chunked["time"] > json.loads(collective(run, kind="broadcast:ring").out)["time"]


def test_hardware_can_be_changed_and_can_fail(run):
    base = json.loads(collective(run, "--engine", "flow").out)["time"]
    failed = json.loads(collective(run, "--engine", "flow", "--set", "hardware.network.failed=[plane2]").out)
    assert failed["time"] / base == pytest.approx(8 / 7, rel=1e-3)
    faster = json.loads(collective(run, "--set", "hardware.node.nic.bandwidth=800 Gbit/s").out)
    assert faster["time"] < base


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--ranks", "4096"), 2, "rank 4095 is outside the cluster"),
        (("--ranks", "11"), 2, "write --ranks 8 or 16"),
        (("--size", "64"), 2, "has no unit"),
        (("--size", "-1 GiB"), 2, "negative"),
        (("--cluster", "nodes/dgx-h100"), 2, "--cluster: is given twice; ask for one cluster at a time"),
        (("--set", "hardware.network.failed=[plane9]", "--engine", "flow"), 2, "no part 'plane9'"),
        (("--set", "hardware.network.failed=[plane0]"), 2, "closed forms do not support failed parts"),
        (("--set", "hardware.network.oversubscription=0.5"), 2, "too small"),
        (("--set", "hardware.node.nic.bandwidth=0 GB/s"), 2, "write a value above zero"),
        (("--set", "model.hidden=4096"), 2, "not part of the hardware"),
        (("--model", "llama-3-8b"), 0, ""),  # ignored: this collective reaches no experts
    ],
)
def test_bad_input_is_one_clear_error(run, arguments, code, message):
    told = run(*COLLECTIVE, *arguments)
    assert told.code == code
    assert message in told.err


def test_an_unknown_cluster_is_one_clear_error(run):
    told = run(*("nowhere" if word == "h800-2048-mpft" else word for word in COLLECTIVE))
    assert told.code == 2
    assert "unknown cluster or node 'nowhere'" in told.err


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("gossip", "no collective is named 'gossip'"),
        ("all_reduce:telepathy", "has no algorithm 'telepathy'"),
        ("all_reduce:ring,tree", "has no option 'tree'"),
        ("dispatch:ring", "has no option 'ring'"),
        ("all_gather:stride=x", "is no whole number"),
    ],
)
def test_bad_kinds_are_told(run, kind, message):
    told = collective(run, kind=kind)
    assert told.code == 2
    assert message in told.err


def test_a_parted_network_is_infeasible(run):
    parted = "hardware.network.failed=[plane0,plane1,plane2,plane3,plane4,plane5,plane6,plane7]"
    told = collective(run, "--engine", "flow", "--set", parted)
    assert told.code == 3
    assert "the failures disconnect the network" in told.err


def test_dispatch_needs_experts(run):
    told = collective(run, "--model", "llama-3-8b", kind="dispatch")
    assert told.code == 2
    assert "has no experts" in told.err
    assert collective(run, kind="dispatch", ranks="48").code == 2


def test_people_read_a_table(run):
    shown = run(*COLLECTIVE, "--engine", "flow")
    assert shown.code == 0
    assert "bus bandwidth" in shown.out
    assert "bound: NICs" in shown.out


def test_a_device_by_itself_sends_nothing(run):
    done = run("collective", "all_reduce", "--cluster", "nodes/hgx-h800", "--ranks", "1", "--size", "64MiB")
    assert done.code == 0
    assert "a single device has nothing to send" in done.out
    assert "algorithm: ;" not in done.out


def test_a_size_without_a_unit_is_told_with_its_place(run):
    done = run("collective", "all_reduce", "--cluster", "nodes/dgx-h100", "--ranks", "8", "--size", "1")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("--size: '1' has no unit")
