"""Offloaded inference: a grid is its points, better hosts are never slower, and nothing is lost between memories."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import few, served

from costmodel.analytic.evaluation import evaluate, ledger_of
from costmodel.analytic.grid import evaluate_grid, evaluate_point, evaluate_single
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array
from costmodel.records import replace
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.operators import HostTransfer
from costmodel.workload.scenario import Disaggregated, Offload, Parallelism, Scenario

SHARES = np.array([0.0, 0.25, 0.6, 1.0])


@st.composite
def offloaded(draw: st.DrawFn) -> Scenario:
    """Draw a scenario of inference with its experts, and shares of the rest, on the host where that can be."""
    of = draw(served())
    split = max(pool.ep for pool in layouts(of))
    hosts = split == 1 and any(isinstance(layer.ffn, MoeFfn) for layer in of.architecture.layers)
    share = st.sampled_from([0.0, 0.3, 1.0])
    offload = Offload(
        weights=draw(share),
        kv_cache=draw(share),
        overlap=draw(st.booleans()),
        experts=draw(st.sampled_from(["device", "host"])) if hosts else "device",
    )
    return replace(of, offload=offload)


def layouts(of: Scenario) -> list[Parallelism]:
    """Return the layout of a scenario, or of both of its pools."""
    plan = of.plan
    return [plan.prefill.parallel, plan.decode.parallel] if isinstance(plan, Disaggregated) else [of.parallel]


def headline(of: Scenario) -> float:
    value = next(iter(evaluate_single(of, Calibration()).metrics.values()))
    assert isinstance(value, float)
    return value


def with_share(of: Scenario, field: str, share: float | Array) -> Scenario:
    return replace(of, offload=replace(of.offload, **{field: share}))  # type: ignore[arg-type]


def with_host(of: Scenario, factor: float) -> Scenario:
    host = of.cluster.node.host
    assert host.bandwidth is not None
    better = replace(host, bandwidth=host.bandwidth * factor)
    return replace(of, cluster=replace(of.cluster, node=replace(of.cluster.node, host=better)))


@few
@given(of=served(), overlap=st.booleans())
def test_a_share_of_zero_equals_none(of: Scenario, overlap: bool) -> None:
    none = replace(of, offload=Offload(weights=0.0, kv_cache=0.0, overlap=overlap))
    assert headline(none) == headline(of)
    grid = replace(of, offload=Offload(weights=np.zeros(2), kv_cache=np.zeros(2), overlap=overlap))
    times = np.asarray(next(iter(evaluate_grid(grid, Calibration(), (2,)).metrics.values())))
    assert times == pytest.approx(headline(of), rel=1e-12)


@few
@given(field=st.sampled_from(["weights", "kv_cache"]), of=offloaded())
def test_a_grid_of_shares_is_its_points_and_more_is_never_faster(field: str, of: Scenario) -> None:
    together = evaluate_grid(with_share(of, field, SHARES), Calibration(), SHARES.shape)
    ledger = ledger_of(with_share(of, field, SHARES))
    assert ledger is not None
    for at, share in enumerate(SHARES):
        alone = evaluate_single(with_share(of, field, float(share)), Calibration())
        for name, metric in alone.metrics.items():
            found = together.metrics[name]
            if metric is not None and found is not None:
                assert np.asarray(found)[at] == pytest.approx(metric, rel=1e-9)
        point = ledger_of(with_share(of, field, float(share)))
        assert point is not None
        assert float(np.broadcast_to(ledger.total, SHARES.shape)[at]) == pytest.approx(float(point.total))
        assert float(np.broadcast_to(ledger.on_host, SHARES.shape)[at]) == pytest.approx(float(point.on_host))
    times = np.asarray(next(iter(together.metrics.values())))
    assert np.all(np.diff(times) >= -1e-12 * times[:-1])


@few
@given(of=offloaded(), factor=st.sampled_from([1.01, 2.0, 100.0]))
def test_a_faster_host_memory_is_never_slower(of: Scenario, factor: float) -> None:
    assert headline(with_host(of, factor)) <= headline(of) * (1 + 1e-12)


@few
@given(of=offloaded())
def test_overlap_is_never_slower(of: Scenario) -> None:
    together, apart = (replace(of, offload=replace(of.offload, overlap=each)) for each in (True, False))
    assert headline(together) <= headline(apart) * (1 + 1e-12)


@few
@given(of=offloaded())
def test_a_pass_takes_at_least_what_its_link_carries_and_its_lines_sum_to_it(of: Scenario) -> None:
    point = evaluate_point(of, Calibration())
    value = point.metrics[point.headline]
    assert value is not None
    assert sum(entry.time for entry in point.breakdown) == pytest.approx(value, rel=1e-9)
    arriving = {
        priced.operator.name for priced in evaluate(of, Calibration()).operators()
        if isinstance(priced.operator, HostTransfer) and priced.operator.name.endswith("from the host")
    }  # fmt: skip
    copied = sum(entry.time + entry.hidden for entry in point.breakdown if entry.name in arriving)
    assert value >= copied * (1 - 1e-9) or of.parallel.pp > 1


@few
@given(of=offloaded())
def test_no_weight_and_no_cached_token_is_lost_between_the_memories(of: Scenario) -> None:
    """What the host keeps, the device has less, but for the room of two layers that streams need."""
    kept, whole = ledger_of(of), ledger_of(replace(of, offload=Offload()))
    assert kept is not None
    assert whole is not None
    here = float(kept.weights + kept.kv_cache + kept.on_host)
    everything = float(whole.weights + whole.kv_cache)
    assert here >= everything * (1 - 1e-9)
    assert float(kept.weights + kept.kv_cache) <= everything * (1 + 1e-9)
