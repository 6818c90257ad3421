"""A step of very many micro-batches costs no more to predict than its steady state, and takes what it would take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import costmodel
from costmodel.analytic.recurrence.program import compile_schedule, program_of
from costmodel.analytic.recurrence.tape import async_reduce_span, makespan
from costmodel.errors import InputError
from costmodel.workload.schedules.catalogue import SCHEDULES, folded_order
from costmodel.workload.schedules.schedule import steady_state

MANY = 640  # micro-batches: more than are run one by one
PP = 4


def programs(schedule: str):  # type: ignore[no-untyped-def]
    virtual = SCHEDULES[schedule].virtual or 2
    whole = program_of(folded_order(schedule, PP, virtual, MANY))
    return whole, compile_schedule(schedule, PP, virtual, MANY)


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "gpipe"])
def test_the_steady_state_gives_the_time_of_the_whole_step(schedule: str) -> None:
    whole, short = programs(schedule)
    assert len(short.slot) < len(whole.slot)
    assert short.slots == whole.slots
    assert short.mean_counts == pytest.approx(whole.mean_counts)
    durations = np.random.default_rng(1).uniform(1.0, 2.0, (len(whole.slots), 3))
    assert makespan(short, durations, 0.1) == pytest.approx(makespan(whole, durations, 0.1), rel=1e-9)


def test_reductions_beside_later_passes_have_a_steady_state_too() -> None:
    whole, short = programs("1f1b")
    head, rest, trail = np.random.default_rng(2).uniform(1.0, 2.0, (3, len(whole.slots), 2))
    reduces = [slot.backward is not None for slot in whole.slots]
    rest, trail = (part * np.array(reduces)[:, None] for part in (rest, trail))
    expected, found = (async_reduce_span(part, reduces, (head, rest, trail), 0.1) for part in (whole, short))
    assert found.span == pytest.approx(expected.span, rel=1e-9)
    assert found.left == pytest.approx(expected.left, rel=1e-9, abs=1e-9)
    assert found.waits == pytest.approx(expected.waits, rel=1e-6)


def test_short_steps_are_run_as_they_are() -> None:
    assert steady_state("1f1b", 8, 1, 512).repeats == 0
    steady = steady_state("interleaved", 8, 2, 8 * 1000)
    assert steady.shorter % 8 == steady.longer % 8 == 0
    assert steady.at(steady.shorter, steady.longer) == 8000


SMALL = """schema: costmodel/workload@1
model: models/llama-3-8b
scenarios:
  one: {phase: training, cluster: nodes/dgx-h100, parallel: {tp: 4, pp: 2}, global_batch: 4194304, sequence: 1024}
"""


def test_both_engines_take_a_batch_of_millions(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    small = costmodel.load(tmp_path / "small.yaml")
    analytic, event = (small.evaluate("one", engine=engine).metrics["step_time"] for engine in ("analytic", "event"))
    assert analytic is not None
    assert event is not None
    assert float(event) == pytest.approx(float(analytic), rel=1e-9)


def test_gpipe_keeps_everything_and_refuses_more_than_fits_anywhere() -> None:
    changes = {"schedule": "gpipe", "stages": "null", "global_batch": "4194304"}
    with pytest.raises(InputError, match="GPipe keeps the activations of all 32768 micro-batches"):
        costmodel.load("deepseek_v3", set={f"scenarios.training.{key}": value for key, value in changes.items()})


def test_noise_does_not_repeat(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    noisy = costmodel.load(tmp_path / "small.yaml", set={"scenarios.one.simulation.jitter": 0.1})
    with pytest.raises(InputError, match="would be simulated one by one"):
        noisy.evaluate("one", engine="event")
