"""What the host starts of a step with prompts while the step before runs, by events."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import yaml

import costmodel
from costmodel.analytic.evaluation import evaluate
from costmodel.analytic.serving.open_loop import OpenLoopEvaluation
from costmodel.serving.loop import with_starts
from costmodel.serving.state import Engine, EngineState
from costmodel.serving.step_times import StepPricer
from costmodel.workload.plans import Serving


def served(folder: Path, **changes: Any) -> costmodel.Workload:
    """Return DeepSeek-V3 in FP8 on eight B200 under TensorRT-LLM, with short outputs."""
    run: dict[str, Any] = {
        "phase": "serving",
        "cluster": "nodes/hgx-b200",
        "framework": "trt-llm",
        "parallel": {"tp": 8},
    }
    run |= {
        "input_tokens": 1024,
        "output_tokens": 64,
        "concurrency": 32,
        "requests": {"arrivals": "closed_loop", "count": 200},
    }
    run |= {"precision": {"compute": "fp8-inference", "fallback": "bf16"}, **changes}
    content = {"schema": "costmodel/workload@1", "model": "models/deepseek-v3", "scenarios": {"run": run}}
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return costmodel.load(folder / "run.yaml")


def tpot(folder: Path, **changes: Any) -> float:
    return float(served(folder, **changes).points(engine="event")["run"].metrics["tpot"])  # type: ignore[arg-type]


def test_an_engine_that_prepares_no_step_hides_nothing_and_one_user_has_no_step_to_hide_behind(tmp_path: Path) -> None:
    alone = {"concurrency": 1}
    assert tpot(tmp_path) < tpot(tmp_path, scheduler={"async": False})
    assert tpot(tmp_path, **alone) <= tpot(tmp_path, scheduler={"async": False}, **alone)


class OneEngine(NamedTuple):
    """What an engine knows of its time."""

    state: EngineState


def test_the_host_of_the_event_engine_begins_when_it_has_started_the_step_before() -> None:
    """Of two prompt steps in a row the first begins 20 ms ahead of the device, the second has no head start."""
    engine = OneEngine(EngineState(*[0.0] * len(EngineState.__annotations__)))
    first = with_starts(cast(Engine, engine), 1.0, 1.02, 0.04, 0.094)
    second = with_starts(cast(Engine, engine), 1.02, 1.02 + first, 0.04, 0.094)
    assert [first, second] == pytest.approx([0.074, 0.094])


@pytest.mark.parametrize(("model", "latent"), [("llama-3-8b", False), ("deepseek-v3", True)])
def test_the_host_starts_attention_of_prompts_and_of_decoding_requests_in_one_call_unless_they_differ(
    tmp_path: Path, model: str, latent: bool
) -> None:
    """A latent cache is read in other products by those that decode; the closed form counts as the requests' steps."""
    workload = served(tmp_path, concurrency=None, rate="5 /s", requests=None).changed({"model": f"models/{model}"})
    scenario = workload.scenario("run")
    calibration, plan = workload.calibration(scenario), scenario.plan
    closed = evaluate(scenario, calibration)
    assert isinstance(plan, Serving)
    assert isinstance(closed, OpenLoopEvaluation)
    alone, beside = StepPricer(scenario, plan, calibration).prompt_floor()
    assert (beside > alone) == latent
    mixed = closed._exact[1].models[0]
    assert beside == pytest.approx(sum(stage.count * float(stage.host) for stage in mixed.stages))
