"""What the host starts of a step with prompts while the step before runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import pytest
import yaml

import costmodel
from costmodel.analytic.lookahead import hidden_starts
from costmodel.serving.loop import with_starts
from costmodel.serving.state import CLOCKS, Engine


def pipeline(prompts: npt.NDArray[np.bool_], host: float, device: float, decoding: float) -> float:
    """Return the time of a row of steps: the host starts step i when it has started i - 1 and i - 2 has ended."""
    started = ended = before = 0.0
    for has_prompt in prompts:
        work, starts = (device, host) if has_prompt else (decoding, 0.0)
        begin = max(started, before)
        started, before = begin + starts, ended
        ended = max(ended + work, begin + max(work, starts))
    return ended


TIMES = {
    "host twice the device": (0.094, 0.040, 0.025),
    "long decoding": (0.030, 0.020, 0.045),
    "nearly the device": (0.050, 0.048, 0.020),
    "little of the device": (0.094, 0.001, 0.025),
}


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("name", list(TIMES))
def test_hidden_starts_are_those_of_a_random_row_of_steps(name: str, share: float) -> None:
    host, device, decoding = TIMES[name]
    prompts = np.random.default_rng(5).random(60_000) < share
    alone = prompts.mean() * host + (1.0 - prompts.mean()) * decoding
    found = (alone - pipeline(prompts, host, device, decoding) / len(prompts)) / prompts.mean()
    expected = float(hidden_starts(share, host - device, device, decoding))
    assert expected == pytest.approx(found, rel=0.04, abs=1e-5)
    # The mean step lies between the larger of the means of host and device, and the mean of the larger ones.
    mean = share * (host - expected) + (1.0 - share) * decoding
    assert max(share * host, share * device + (1.0 - share) * decoding) <= mean + 1e-12
    assert mean < share * host + (1.0 - share) * decoding


def test_nothing_hides_where_all_steps_have_prompts_or_the_device_takes_longer() -> None:
    assert hidden_starts(1.0, 0.05, 0.04, 0.025) == 0.0
    assert hidden_starts(0.5, 0.0, 0.04, 0.025) == 0.0


def test_a_lone_prompt_hides_the_step_before_it_or_all_that_the_host_takes_longer() -> None:
    assert hidden_starts(0.0, 0.054, 0.040, 0.025) == 0.025
    assert hidden_starts(0.0, 0.010, 0.040, 0.025) == 0.010


def test_hidden_starts_broadcast() -> None:
    share, idle = np.array([[0.0], [0.4], [1.0]]), np.array([0.0, 0.01, 0.06])
    found = np.asarray(hidden_starts(share, idle, 0.04, 0.025))
    assert found.shape == (3, 3)
    assert found[1, 2] == hidden_starts(0.4, 0.06, 0.04, 0.025)


def served(folder: Path, **changes: Any) -> costmodel.Workload:
    """Return DeepSeek-V3 in FP8 on eight B200 under TensorRT-LLM, with short outputs."""
    run: dict[str, Any] = {
        "phase": "serving",
        "cluster": "nodes/hgx-b200",
        "framework": "trt-llm",
        "parallel": {"tp": 8},
    }
    run |= {"input_tokens": 1024, "output_tokens": 64, "concurrency": 32}
    run |= {"precision": {"compute": "fp8-inference", "fallback": "bf16"}, **changes}
    content = {"schema": "costmodel/workload@1", "model": "models/deepseek-v3", "scenarios": {"run": run}}
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return costmodel.load(folder / "run.yaml")


def tpot(folder: Path, **changes: Any) -> float:
    return float(served(folder, **changes).points()["run"].metrics["tpot"])  # type: ignore[arg-type]


def test_an_engine_that_prepares_no_step_hides_nothing_and_one_user_has_no_step_to_hide_behind(tmp_path: Path) -> None:
    alone = {"concurrency": 1}
    assert tpot(tmp_path) < tpot(tmp_path, scheduler={"async": False})
    assert tpot(tmp_path, **alone) <= tpot(tmp_path, scheduler={"async": False}, **alone)


class OneEngine(NamedTuple):
    """The clocks of an engine."""

    clock: Any


def test_the_host_of_the_event_engine_begins_when_it_has_started_the_step_before() -> None:
    """Of two prompt steps in a row the first begins 20 ms ahead of the device, the second has no head start."""
    engine = OneEngine(np.zeros(CLOCKS))
    first = with_starts(cast(Engine, engine), 1.0, 1.02, 0.04, 0.094)
    second = with_starts(cast(Engine, engine), 1.02, 1.02 + first, 0.04, 0.094)
    assert [first, second] == pytest.approx([0.074, 0.094])
