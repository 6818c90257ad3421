"""Messages from the shipped fits: published DeepEP figures, copies over PCIe, and what a changed link does."""

from __future__ import annotations

import pytest

import costmodel
from costmodel.calibration.fit_files import default_framework
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.calibration.fit_selection import Chooser, Kernel
from costmodel.cost.operator_time import operator_time
from costmodel.cost.time import Machine
from costmodel.hardware import Cluster
from costmodel.records import replace
from costmodel.schema.files import load_node
from costmodel.study.published.reproduce import load_cases, reproduce
from costmodel.workload.operators import Collective, Group


def test_deepep_on_h800_is_within_the_bar():
    cases, unread = load_cases(["deepep"])
    comparisons, problems = reproduce(cases)
    assert not unread
    assert not problems
    errors = [abs(one.error) for one in comparisons]
    assert len(errors) == 40
    assert sum(errors) / len(errors) < 0.08


@pytest.mark.parametrize(("peer_to_peer", "published"), [(False, 25.8e9), (True, 41.4e9)])
def test_copies_between_rtx_4090_come_within_a_tenth_of_the_published_rates(peer_to_peer, published):
    """Both directions together, 160 MB; tinygrad/open-gpu-kernel-modules, issue 6."""
    node = load_node("rtx-4090-x8")
    kernels = replace(default_framework(), implementations={"collective": ("nccl",)})
    fit = load_calibration(node.device, kernels).fit(copy := Collective("copy", "send_recv", 160e6, Group(2.0)))
    cluster = Cluster("pair", replace(node, peer_to_peer=peer_to_peer), 1.0, None)
    machine = Machine(node.device, kernels, node.device.processors, cluster=cluster)
    assert 2 * 160e6 / operator_time(copy, machine, cluster, fit).seconds == pytest.approx(published, rel=0.1)
    assert fit.basis == "transferred"


def dispatch(path: str, **changes: object) -> tuple[float, str]:
    prefix = f"scenarios.{path}"
    point = costmodel.load("deepep", set={f"{prefix}.{name}": value for name, value in changes.items()}).evaluate(path)
    document = point.at()
    (entry,) = [one for one in document["breakdown"] if one["name"] == "dispatch"]
    return entry["time"], entry["basis"]


@pytest.mark.parametrize("name", ["low_latency", "normal"])
def test_a_scenario_prices_its_exchange_by_the_fit_and_a_faster_nic_helps(name):
    before, basis = dispatch(name)
    after, _ = dispatch(name, **{"hardware.node.nic.bandwidth": "800 Gbit/s"})
    assert basis in ("measured", "fitted", "extrapolated")
    assert after < 0.8 * before


def test_fewer_processors_for_communication_move_tokens_more_slowly():
    few, _ = dispatch("normal", **{"communication.processors": 4})
    many, _ = dispatch("normal", **{"communication.processors": 24})
    assert few > 1.2 * many


@pytest.mark.parametrize(
    ("device", "family", "variant", "kernel", "file"),
    [
        ("h800-sxm", "moe_dispatch_low_latency", "", Kernel("deepep@ebfe47e", "deep_ep", ""), "h800-sxm/deepep-first"),
        ("h800-sxm", "moe_dispatch_low_latency", "", Kernel("deepep@new", "deep_ep", ""), "h800-sxm/deepep"),
        ("h100-sxm", "moe_combine", "", Kernel("another 1.0", "deepep", ""), "h100-sxm/deepep"),
        ("h800-sxm", "collective", "all_reduce", Kernel("", "", ""), "h100-sxm/nccl"),
        ("h100-sxm", "collective", "all_reduce", Kernel("vllm 0.99", "vLLM_custom_graph", ""), "h100-sxm/peers-vllm"),
        ("a100-sxm-80gb", "collective", "broadcast", Kernel("nccl 3", "nccl", ""), "a100-sxm-80gb/nccl"),
        ("rtx-4090", "send_recv", "send_recv", Kernel("nccl", "nccl", ""), "l40s/nccl"),
    ],
)
def test_the_nearest_kernel_stands_in_for_an_unknown_one(device, family, variant, kernel, file):
    assert Chooser(device).choose(family, variant, kernel).why.startswith(file)
