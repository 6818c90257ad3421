"""One collective by itself: both engines keep to what a fit says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from builders import FRAMEWORK

from costmodel.analytic.messages import CollectiveRequest, CollectiveTime, Routing, answer
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.collective import CollectiveForm
from costmodel.cost.time import Machine, Time, message
from costmodel.errors import InputError
from costmodel.hardware import Cluster
from costmodel.network.collectives import collective_time
from costmodel.network.group_links import group_links
from costmodel.records import replace
from costmodel.schema.files import load_cluster
from costmodel.workload.operators import Group

MPFT = load_cluster("h800-2048-mpft")
V3 = Routing(7168.0, 256.0, 8, 8.0, 4)
MIB = 2.0**20


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A form as a fit might give it: 30 us and 10 GB/s, whatever the operator."""

    SECTION: ClassVar[str] = "8.6"
    EQUATION: ClassVar[str] = "t = 30 us + bytes / 10 GB/s"

    def time(self, operator: Any, machine: Machine) -> Time:  # noqa: ARG002
        size = getattr(operator, "size", None)
        if size is None:
            size = operator.tokens * operator.token_bytes
        return message(30e-6 + size / 10e9, 30e-6)

    def features(self, operator: Any) -> Any:  # noqa: ARG002
        return {"bytes": np.asarray(0.0)}


FAMILIES = ("collective", "send_recv", "moe_dispatch", "moe_combine", "moe_dispatch_low_latency")
FITTED = Calibration("fitted", dict.fromkeys(FAMILIES, FamilyFit(form=Measured(), basis="fitted")))
BARE = Calibration()


def ask(
    engine: str, kind: str, ranks: int = 64, cluster: Cluster = MPFT, fits: Calibration = BARE, **more: Any
) -> CollectiveTime:
    asked = CollectiveRequest(kind, ranks, 256 * MIB, routing=V3, **more)
    return answer(asked, cluster, fits, FRAMEWORK, engine)


@pytest.mark.parametrize(
    "kind", ["all_reduce", "all_gather", "all_to_all", "broadcast", "send_recv", "dispatch", "combine"]
)
@pytest.mark.parametrize("ranks", [8, 16, 64])
def test_flows_that_meet_no_others_keep_to_a_fit(kind: str, ranks: int) -> None:
    fitted = 30e-6 + 256 * MIB / 10e9
    closed, flows = (ask(engine, kind, ranks, fits=FITTED) for engine in ("analytic", "flow"))
    assert closed.time == pytest.approx(fitted, rel=1e-9)
    assert flows.time == pytest.approx(fitted, rel=1e-6)
    assert flows.latency == pytest.approx(30e-6)
    assert flows.basis == "fitted"


def test_what_meets_others_is_slower_than_a_fit_by_what_it_loses() -> None:
    assert MPFT.network is not None
    lost = replace(MPFT, network=replace(MPFT.network, failed=("plane0",)))
    fitted, failed = (ask("flow", "all_to_all", cluster=cluster, fits=FITTED) for cluster in (MPFT, lost))
    assert (failed.time - failed.latency) / (fitted.time - fitted.latency) == pytest.approx(8 / 7)
    assert fitted.latency == pytest.approx(30e-6)
    assert failed.latency == pytest.approx(30e-6 + 3.33e-6)  # forwarded at both ends instead of one


@dataclass(frozen=True, slots=True, eq=False)
class OfLinks(Measured):
    """A fit of 30 us and 80 % of the bandwidth of the links that a cluster has."""

    def time(self, operator: Any, machine: Machine) -> Time:
        assert machine.cluster is not None
        links = replace(group_links(operator.group, machine.cluster), intra_latency=0.0, inter_latency=0.0)
        return message(30e-6 + collective_time(operator.kind, operator.size, links) / 0.8, 30e-6)


def test_flows_over_a_narrow_fabric_lose_no_more_than_without_a_fit() -> None:
    assert MPFT.network is not None
    narrow = replace(MPFT, network=replace(MPFT.network, oversubscription=4.0, radix=32.0))
    fits = Calibration("links", {"collective": FamilyFit(form=OfLinks(), basis="fitted")})
    bare, fitted = (ask("flow", "all_to_all", 512, narrow, each) for each in (BARE, fits))
    assert fitted.time - fitted.latency == pytest.approx((bare.time - bare.latency) / 0.8, rel=1e-3)
    assert bare.bottleneck.startswith("links between switches")
    assert ask("analytic", "all_to_all", 512, narrow).bottleneck == "links between switches"
    assert ask("analytic", "all_to_all", 512).bottleneck == "NICs"


@pytest.mark.parametrize("engine", ["analytic", "flow"])
def test_circuits_are_set_once_more_than_a_fit_knows(engine: str) -> None:
    assert MPFT.network is not None
    form = CollectiveForm(
        launch=3e-6, small_step=0.5, small_efficiency=0.2, large_latency=1e-5, large_step=0.5, large_efficiency=0.7,
        protocol_switch=1e6, switch_sharpness=6.0,
    )  # fmt: skip
    fits = Calibration("nccl", {"collective": FamilyFit(form=form, basis="fitted")})
    slow, quick = (
        replace(MPFT, network=replace(MPFT.network, topology="ocs", planes=1.0, reconfiguration=each))
        for each in (10e-3, 0.0)
    )
    for kind in ("all_reduce", "all_gather"):
        with_setup, without = (ask(engine, kind, 32, cluster, fits).time for cluster in (slow, quick))
        assert with_setup - without == pytest.approx(10e-3, rel=1e-6)


@pytest.mark.parametrize("engine", ["analytic", "flow"])
def test_a_share_of_the_network_holds_for_both_engines(engine: str) -> None:
    half = Calibration("half", {"collective": FamilyFit(network_efficiency=0.5)})
    launch = FRAMEWORK.launch
    whole, part = (ask(engine, "all_to_all", fits=fits).time - launch for fits in (BARE, half))
    assert part == pytest.approx(2 * whole)


def test_without_a_fit_the_closed_form_is_a_launch_and_the_wire() -> None:
    found = ask("analytic", "all_reduce")
    wire = collective_time("all_reduce", 256 * MIB, group_links(Group(64.0), MPFT))
    assert found.time == pytest.approx(float(FRAMEWORK.launch + wire))
    assert found.document()["busbw"] == pytest.approx(2 * 63 / 64 * 256 * MIB / found.time)


def test_an_exchange_counts_the_bytes_that_deepep_counts() -> None:
    once = ask("flow", "dispatch")
    assert once.document()["busbw"] == pytest.approx(3.629 * 256 * MIB / once.time, rel=1e-3)
    each = ask("flow", "dispatch", mode="low_latency")
    assert each.document()["busbw"] == pytest.approx(8 * 256 * MIB / each.time)
    assert ask("flow", "dispatch", 8).document()["busbw"] < 8 * 256 * MIB / ask("flow", "dispatch", 8).time


@pytest.mark.parametrize(
    ("engine", "more", "message"),
    [
        ("analytic", {"stride": 2}, "the closed form knows no stride"),
        ("analytic", {"groups": 2}, "the closed form knows no groups"),
        ("flow", {"chunks": 2}, "flows know no chunks"),
        ("psychic", {}, "no engine is named 'psychic'"),
    ],
)
def test_what_an_engine_does_not_know_is_told(engine: str, more: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(engine, "all_to_all", **more)


def test_one_rank_sends_nothing() -> None:
    for engine in ("analytic", "flow"):
        found = ask(engine, "all_reduce", 1)
        assert (found.time, found.latency, found.bottleneck) == (0.0, 0.0, "none")
        assert found.document()["algbw"] == 0.0
