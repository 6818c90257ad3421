"""The smallest step of reinforcement learning of a model on a cluster: its engines, its optimizer step, its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from costmodel.analytic.model_layouts import TRAINING, Found, Question, choose, question_of, scenario_lines
from costmodel.records import Record, replace
from costmodel.workload.plans import Serving

_PROMPTS, _SAMPLES = 64, 32
_ANSWER, _LONGEST = 1024, 3072
_STATED = ("concurrency", "output_tokens")  # of an engine, which the step has of its own


class Step(Record):
    """A step and what it consists of.

    lines: of a workload, those of the step first, then those of its engines and of its training.
    assumed: what is assumed of the engines, for people.
    serving, training: question and choice of each part.
    """

    lines: tuple[str, ...]
    assumed: str
    serving: tuple[Question, Found]
    training: tuple[Question, Found]


def reinforcement(
    model: str, cluster: str, name: str, changes: Mapping[str, object], search_path: Sequence[str | Path]
) -> Step:
    """Return the step `name` of a model: GRPO as NeMo RL starts it, engines and training in turn on the same devices.

    Training takes the fewest whole nodes that hold it, an engine the fewest devices, as many engines as fill them.
    Prompts have 1,024 tokens, answers as many in the mean, spread exponentially up to 4,096 in all (the example's
    longest): round numbers, since no source states lengths.
    Raises InputError where model or cluster are unknown, or no layout is valid.
    """
    rollout, train = (f"{part}{name.removeprefix('rl')}" for part in ("rollout", "train"))
    training = replace(question_of(model, cluster, {train: TRAINING}, changes, search_path), learns=True)
    serving = question_of(model, cluster, {rollout: "serving"}, changes, search_path)
    trained, served = choose(training), choose(serving)
    devices = trained.scenarios[train].devices
    engines = max(int(devices // served.scenarios[rollout].devices), 1)
    own = [
        f"  {name}:",
        "    phase: rl",
        "    rollout: rollout",
        "    train: train",
        f"    prompts: {_PROMPTS}                              # NVIDIA-NeMo/RL, examples/configs/grpo_math_8B.yaml",
        f"    samples: {_SAMPLES}",
        "    offload: all                             # training states wait in host memory while devices generate",
    ]
    answers = _PROMPTS * _SAMPLES
    output = f"{{distribution: exponential, mean: {_ANSWER}, high: {_LONGEST}}}"
    generates = [
        *(line for line in scenario_lines(serving, rollout, served.choices[rollout]) if not _is_stated(line)),
        f"    replicas: {{count: {engines}}}                   # as many as the training's devices hold",
        f"    concurrency: {-(-answers // engines)}                          # what an engine does not hold waits",
        "    # Round lengths: no source states them, and answers of other lengths move the step most.",
        f"    requests: {{arrivals: closed_loop, count: {answers}, output: {output}}}",
    ]
    lines = (*own, *generates, *scenario_lines(training, train, trained.choices[train]))
    engine = served.scenarios[rollout]
    assert isinstance(engine.plan, Serving), "its phase says so"
    parallel = engine.parallel
    at = f"{engines:,} engine{'' if engines == 1 else 's'} of {cluster} (tp {parallel.tp:g}, pp {parallel.pp:g})"
    prompts = f"{_PROMPTS} prompts of {engine.plan.input_tokens:,.0f} tokens"
    lengths = f"{_ANSWER:,} tokens in the mean and at most {_LONGEST:,}"
    assumed = f"{model} on {at}: {prompts}, {_SAMPLES} answers to each of {lengths}"
    return Step(lines, assumed, (serving, served), (training, trained))


def _is_stated(line: str) -> bool:
    return line.partition(":")[0].strip() in _STATED
