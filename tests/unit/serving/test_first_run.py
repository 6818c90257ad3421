"""Long runs whose loops are not compiled yet: the same numbers in parts, and compiled where parts take too long."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import costmodel
from costmodel.cli.main import _warnings_once
from costmodel.errors import Notice
from costmodel.schema import catalogue
from costmodel.serving import first_run
from costmodel.serving.checkpoint import is_over
from costmodel.serving.deployment import new_service
from costmodel.serving.first_run import Loop, run_as_python, try_python
from costmodel.serving.fleet import run_apart, run_together
from costmodel.serving.routing import Service
from costmodel.serving.simulation import Simulation
from costmodel.workload.plans import Serving

CHANGES = {
    "scenarios.serving.concurrency": None, "scenarios.serving.rate": "4 /s", "scenarios.serving.output_tokens": 24,
    "scenarios.serving.scheduler.max_num_seqs": 16, "scenarios.serving.requests": {"count": 200},
}  # fmt: skip


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    workload = costmodel.load("llama3_8b_rtx4090", set=CHANGES, scenarios=["serving"])
    scenario = workload.scenario("serving")
    assert isinstance(scenario.plan, Serving)
    return Simulation(scenario, scenario.plan, workload.calibration(scenario))


@pytest.fixture(autouse=True)
def _nothing_spent() -> Iterator[None]:
    """Begin as a process does, whatever ran in this one before."""
    token = first_run._spent_here.set(0.0)
    yield
    first_run._spent_here.reset(token)


def new(simulation: Simulation) -> Service:
    tables = simulation.times.tables
    return new_service(simulation.scenario, simulation.plan, simulation.requests, simulation.policy, tables)


@pytest.mark.parametrize("loop", [run_apart, run_together])
def test_parts_give_the_numbers_of_the_whole(simulation: Simulation, loop: Loop) -> None:
    whole, parts = new(simulation), new(simulation)
    assert run_as_python(loop, whole, np.inf) == -1
    with pytest.warns(Notice, match="run as Python"):
        assert try_python(loop, parts, np.inf) == -1
    assert is_over(parts)
    np.testing.assert_array_equal(parts.requests["finish"], whole.requests["finish"])
    np.testing.assert_array_equal(parts.engines.gaps, whole.engines.gaps)


def test_what_takes_too_long_goes_on_compiled_where_it_was(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(first_run, "COMPILATION", 1e-9)  # over after the first part
    service = new(simulation)
    with pytest.warns(Notice, match="run as Python"), pytest.warns(Notice, match="compiling"):
        assert try_python(run_apart, service, np.inf) is None
    assert not is_over(service)
    assert np.isfinite(service.requests["finish"]).any()
    run_as_python(run_apart, service, np.inf)
    np.testing.assert_array_equal(service.requests["finish"], simulation.run().requests["finish"])


def tried(simulation: Simulation) -> int | None:
    with pytest.warns(Notice):
        return try_python(run_apart, new(simulation), np.inf)


def test_time_as_python_adds_up_over_programs(
    simulation: Simulation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(catalogue.VARIABLE, str(tmp_path))
    assert tried(simulation) == -1
    found = catalogue.recall(first_run._SPENT)
    assert found is not None
    assert found.answer > 0.0
    first_run._spent_here.set(0.0)  # another program
    monkeypatch.setattr(first_run, "COMPILATION", found.answer)
    assert tried(simulation) is None


def test_time_as_python_adds_up_in_a_program_that_keeps_nothing(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert catalogue.folder() is None
    assert tried(simulation) == -1
    monkeypatch.setattr(first_run, "COMPILATION", first_run._spent_here.get())
    assert tried(simulation) is None


def test_a_notice_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    show = _warnings_once()
    with warnings.catch_warnings():
        for _ in range(2):
            show(first_run.COMPILING, Notice, "file.py", 1)
    assert capsys.readouterr().err == f"note: {first_run.COMPILING}\n"


def test_without_numba_a_long_run_says_what_would_shorten_it(
    simulation: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("costmodel.serving.simulation.has_numba", lambda: False)
    monkeypatch.setattr("costmodel.serving.simulation.FEW_EVENTS", 0)
    with pytest.warns(Notice, match=r"Numba is not installed: `pip install 'costmodel\[fast\]'`"):
        simulation.run()
