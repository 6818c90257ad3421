"""One collective by itself: both engines keep to what a fit says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from builders import FRAMEWORK

from costmodel.analytic.messages import CollectiveRequest, CollectiveTime, Routing, answer
from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.machine import Machine
from costmodel.cost.time import Time, message
from costmodel.errors import InputError
from costmodel.hardware import Cluster
from costmodel.network.collectives import collective_time
from costmodel.network.group_links import group_links
from costmodel.schema.files import load_cluster
from costmodel.workload.operators import Group

MPFT = load_cluster("h800-2048-mpft")
V3 = Routing(7168.0, 256.0, 8, 8.0, 4)
MIB = 2.0**20


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A form as a fit might give it: 30 us and 35 GB/s, whatever the operator."""

    SECTION: ClassVar[str] = "8.6"
    EQUATION: ClassVar[str] = "t = 30 us + bytes / 35 GB/s"

    def time(self, operator: Any, machine: Machine) -> Time:  # noqa: ARG002
        size = getattr(operator, "size", None)
        if size is None:
            size = operator.tokens * operator.token_bytes
        return message(30e-6 + size / 35e9, 30e-6)

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
    fitted = 30e-6 + 256 * MIB / 35e9
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
