"""Prompts that gather while a step runs: exact limits, and steps drawn one by one."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from costmodel.analytic.gathering import Gathering, quantiles
from costmodel.analytic.queueing import residual_step
from costmodel.quantities import Array
from costmodel.records import replace

STEPS = 60_000


def prompts(load: float, full: float, most: float, *, chunks: float = 1.0) -> Gathering:
    """Return prompts of one second each that take `load` of the time and fill `full` of the steps' room."""
    room = min(most, 3.0)
    base = full * room * (1.0 - load) / load
    mean, started = base / (1.0 - load), full * room
    return Gathering(
        rate=load / chunks, chunks=chunks, most=most, with_prompts=base + max(started, 1.0), decode_only=base,
        base=base, mean=mean, prompts=max(started, 1.0), arrival_scv=1.0,
    )  # fmt: skip


def rest(found: Gathering) -> float:
    """Return the mean rest of a step."""
    share = float(found.started) / float(found.prompts)
    return float(residual_step(found.with_prompts, found.decode_only, share) + found.longer)


def mean(found: Gathering, *, ahead: bool = False) -> float:
    """Return the mean time from arrival to the first token."""
    left = rest(found)
    behind = float(found.behind(left, 1.0)) + float(found.beside)
    return left + behind + float(found.chunks * found.with_prompts) + ahead * float(found.mean)


def drawn(found: Gathering, *, ahead: bool = False, separate: bool = False) -> Array:
    """Return times from arrival to first token, steps drawn one by one."""
    random, most, rate = np.random.default_rng(3), int(float(found.most)), float(found.rate)
    base, each, only = float(found.base), float(found.each), float(found.decode_only)
    now, coming = 0.0, float(random.exponential(1 / rate))
    waiting: deque[float] = deque()
    next_ones: list[float] = []
    times = []
    for _ in range(STEPS):
        chosen = [waiting.popleft() for _ in range(min(most, len(waiting)))]
        if ahead:
            chosen, next_ones = next_ones, chosen
        alone = only if separate and not chosen else base
        now += alone + each * len(chosen)
        while coming < now:
            waiting.append(coming)
            coming += float(random.exponential(1 / rate))
        times += [now - each_one for each_one in chosen]
    return np.array(times[1000:])


def test_one_prompt_a_step_is_a_single_server_with_vacations() -> None:
    """rate*S^2/(2*(1 - rate*S)) + a/2 before a prompt's own step S [Doshi, 1986]: exact."""
    found = prompts(0.5, 0.6, 1.0)
    service, rate = float(found.with_prompts), float(found.rate)
    waiting = rate * service**2 / (2.0 * (1.0 - rate * service)) + float(found.base) / 2.0
    assert mean(found) == pytest.approx(waiting + service, rel=1e-6)
    assert float(found.beside) == 0
    assert float(found.longer) == 0


def test_prompts_in_chunks_are_served_one_after_the_other() -> None:
    found = prompts(0.5, 0.6, 1.0, chunks=4.0)
    service, rate = 4.0 * float(found.with_prompts), float(found.rate)
    waiting = rate * service**2 / (2.0 * (1.0 - rate * service)) + float(found.base) / 2.0
    assert mean(found) == pytest.approx(waiting + service, rel=1e-6)


def test_any_number_of_prompts_shares_a_step_as_long_as_those_that_gathered() -> None:
    """Each prompt is one of 1/(1 - load^2) more in its step than the mean of all: exact for linear steps."""
    found = prompts(0.5, 0.9, 1e6)
    assert float(found.dispersion) == pytest.approx(1.0 / (1.0 - 0.25), rel=1e-5)
    assert float(found.behind(rest(found), 1.0)) == pytest.approx(0.0, abs=1e-9)
    assert mean(found) == pytest.approx(float(np.mean(drawn(found))), rel=0.02)
    assert mean(found, ahead=True) == pytest.approx(float(np.mean(drawn(found, ahead=True))), rel=0.02)


@pytest.mark.parametrize(("load", "full", "most"), [(0.2, 0.3, 2), (0.5, 0.6, 2), (0.5, 0.6, 5), (0.8, 0.6, 10)])
def test_steps_with_room_for_some_prompts_lie_between(load: float, full: float, most: int) -> None:
    found = prompts(load, full, float(most))
    assert mean(found) == pytest.approx(float(np.mean(drawn(found))), rel=0.09)


@pytest.mark.parametrize(("load", "full", "most"), [(0.5, 0.6, 1), (0.5, 0.6, 3), (0.5, 0.9, 1_000_000)])
@pytest.mark.parametrize("ahead", [False, True])
def test_the_chain_of_steps_has_the_tails(load: float, full: float, most: int, *, ahead: bool) -> None:
    found = prompts(load, full, float(most))
    shares = np.array([0.5, 0.9, 0.99])
    values, chances = found.times(ahead=ahead)
    assert quantiles(values, chances, shares) == pytest.approx(np.quantile(drawn(found, ahead=ahead), shares), rel=0.06)


def test_prompts_in_steps_of_their_own_stop_decoding() -> None:
    found = replace(prompts(0.5, 0.3, 1e6), base=0.0, with_prompts=1.0, prompts=1.0, decode_only=0.8)
    values, chances = found.times(ahead=False)
    times = drawn(found, separate=True)
    assert quantiles(values, chances, np.array([0.5, 0.99])) == pytest.approx(np.quantile(times, [0.5, 0.99]), rel=0.06)


def test_more_prompts_than_the_chain_counts_make_steps_alike() -> None:
    found = prompts(0.5, 0.9, 1e6)
    many = replace(
        found, rate=100.0 * found.rate, with_prompts=found.base + found.each * 270.0 / 100.0, prompts=270.0,
    )  # fmt: skip
    values, chances = many.times(ahead=False)
    assert float(many.started) == pytest.approx(270.0)
    assert float(values @ chances) == pytest.approx(mean(many), rel=0.01)
    assert chances.sum() == pytest.approx(1.0)


def test_even_arrivals_do_not_gather() -> None:
    found = replace(prompts(0.5, 0.6, 5.0), arrival_scv=0.0)
    assert float(found.behind(rest(found), 1.0)) == 0
    assert float(found.dispersion) == pytest.approx(float(found.kept))


def test_nobody_waits_where_nobody_comes() -> None:
    found = replace(prompts(0.2, 0.3, 4.0), rate=0.0)
    assert float(found.behind(0.0, 0.0)) == 0
    assert float(found.beside) == pytest.approx(0.0, abs=1e-12)
