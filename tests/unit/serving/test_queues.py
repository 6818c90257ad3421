"""The request engine's waits: as queueing theory has them for one seat, in steady state and under overload."""

import numpy as np
import pytest
from serving_engines import POLICY, serve, stream

from costmodel.analytic.serving.waiting import queue_wait, waiting_share

ONE_SEAT = POLICY._replace(max_seqs=1, overlapped=False, blocks=10_000)
COUNT = 3000


def service_time(output: int) -> float:
    """Return how long a request with a prompt of one token takes alone."""
    _, progress, _ = serve(stream([0.0], [(1, output)]), ONE_SEAT)
    return float(progress["finish"][0])


def waits(arrival: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """Return how long each request waits for the seat."""
    requests = stream(arrival, np.stack([np.ones(len(arrival)), outputs], axis=1))
    _, progress, _ = serve(requests, ONE_SEAT)
    return progress["scheduled"] - arrival


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_equal_requests_wait_as_in_m_d_1(load: float) -> None:
    """W = rho / (2 (1 - rho)) * service [Khinchin, 1932]."""
    service = service_time(1)
    arrival = np.cumsum(np.random.default_rng(1).exponential(service / load, COUNT))
    expected = load / (2.0 * (1.0 - load)) * service
    assert waits(arrival, np.ones(COUNT)).mean() == pytest.approx(expected, rel=0.1)


def test_requests_of_random_length_wait_as_in_m_g_1() -> None:
    """W = lambda E[S^2] / (2 (1 - rho)) [Pollaczek, 1930]; of geometric lengths nearly that of M/M/1."""
    draw, load = np.random.default_rng(2), 0.5
    outputs = draw.geometric(1.0 / 8.0, COUNT)
    known = {output: service_time(int(output)) for output in np.unique(outputs)}
    service = np.array([known[output] for output in outputs])
    arrival = np.cumsum(draw.exponential(service.mean() / load, COUNT))
    rate = COUNT / arrival[-1]
    expected = rate * (service**2).mean() / (2.0 * (1.0 - rate * service.mean()))
    assert waits(arrival, outputs).mean() == pytest.approx(expected, rel=0.1)
    assert expected == pytest.approx(load / (1.0 - load) * service.mean(), rel=0.15)


def test_a_queue_grows_under_overload_and_drains_after_it() -> None:
    """Twice the rate for as long as N services leaves N waiting; half the rate drains one in two services."""
    service, number = service_time(1), 400
    crowd = service / 2.0 * np.arange(2 * number)
    quiet = crowd[-1] + 2.0 * service * np.arange(1, 2 * number)
    arrival = np.concatenate([crowd, quiet])
    waited = waits(arrival, np.ones(len(arrival)))
    assert np.diff(waited[: 2 * number]) == pytest.approx(service / 2.0)
    assert waited[2 * number - 1] == pytest.approx(number * service, rel=0.01)
    recovered = 2 * number + int(np.argmax(waited[2 * number :] < 1e-9))
    assert arrival[recovered] - crowd[-1] == pytest.approx(2.0 * number * service, rel=0.01)
    assert waited[recovered:] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("load", [0.6, 0.8])
def test_requests_wait_for_one_of_several_seats_as_in_closed_form(load: float) -> None:
    """Allen and Cunneen's formula, and the rest of the running step; of runs that are long enough, over several."""
    seats, count, output = ONE_SEAT._replace(max_seqs=8), 2000, 20
    lengths = np.tile([1, output], (count, 1))
    _, full, _ = serve(stream(np.zeros(400), lengths[:400]), seats)
    ends = np.sort(full["finish"])
    rate = float((400 - 48) / (ends[-9] - ends[39]))
    expected = queue_wait(waiting_share(load, 8.0), 1.0, 8.0 / rate, 8.0, load)
    means = []
    for seed in range(4):
        arrival = np.cumsum(np.random.default_rng(seed).exponential(1.0 / (load * rate), count))
        _, progress, _ = serve(stream(arrival, lengths), seats)
        means.append(float((progress["scheduled"] - arrival).mean()))
    step = 8.0 / rate / output
    assert np.mean(means) == pytest.approx(expected + 0.5 * step, rel=0.2)
