"""Step times of an engine, as tables of the project's own prices.

    t(step) = t_rows(tokens) + t_sequences(sequences) + t_attention(decoding requests, their keys, chunks, their keys)

The first two are priced at each number of tokens and sequences up to a few hundred, and at ends of tiles beyond.
Attention over a grid of its sizes. Between points tables are linear. `StepTimes.error` compares tables with direct
prices at steps drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from costmodel.analytic.inference import pass_model_of, pass_times
from costmodel.analytic.operator_timing import operator_timer
from costmodel.analytic.segments import ELSEWHERE
from costmodel.analytic.serving.engine_state import starts_ahead
from costmodel.analytic.stream_times import Perturbations, stream_times
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Count
from costmodel.records import Record, replace
from costmodel.serving.prices import Tables, step_time
from costmodel.serving.state import Step
from costmodel.workload.context import Context
from costmodel.workload.framework_parts import EagerPrompts
from costmodel.workload.linear import SERVED
from costmodel.workload.mixed import fuses_mixed_attention
from costmodel.workload.operators import AttentionKernel, HostTime, MixedAttention, Operator
from costmodel.workload.passes import NEXT, Pass, PassWork, pass_work, prompt_context, request_context
from costmodel.workload.plans import Serving, draft_passes, drafted_tokens
from costmodel.workload.scenario import Framework, Scenario
from costmodel.workload.work import EXPERTS, FROM_EXPERTS, TO_EXPERTS, LayerWork

EVERY = 256  # tokens of a step up to which each number has a price of its own
TILE = 128  # rows that a block computes together in most products (`tile.m` of GEMM forms): one more takes a tile
ROWS_RATIO, KEYS_RATIO, PROMPT_RATIO, MIXED_RATIO = 1.02, 1.1, 1.25, 1.6  # between neighbours on an axis
PROBES = 64

Keep = Callable[[LayerWork, Operator], bool]


class Sizes(Record):
    """The largest step of an engine: its sequences, tokens, and keys of one sequence."""

    sequences: int
    tokens: int
    keys: int


class Steps(Record):
    """Some steps. decodes: requests that decode; keys: of each with the new one, on average; chunks: of prompts;
    rows: tokens of all chunks; chunk_keys: keys of a chunk's last token, on average.
    """

    decodes: Count
    keys: Count
    chunks: Count
    rows: Count
    chunk_keys: Count


def _without_floor(scenario: Scenario) -> Framework:
    """Return the framework of a scenario without the least time of a step with prompts."""
    framework = scenario.framework
    if np.any(scenario.eager_prompts.layer):  # no graph that a recurrence could end
        framework = replace(framework, host=replace(framework.host, recurrence=0.0))
    return replace(framework, eager_prompts=EagerPrompts())


class StepPricer:
    """Prices steps of one engine directly, any number at once, whole or in part."""

    def __init__(self, scenario: Scenario, plan: Serving, calibration: Calibration) -> None:
        self._scenario, self._plan = scenario, plan
        self._without_host = replace(scenario, framework=_without_floor(scenario))
        self._timer = operator_timer(scenario, calibration)
        self.drafts, self.batches = float(drafted_tokens(plan.speculative)), plan.micro_batches
        self.ahead = bool(np.all(starts_ahead(scenario, plan)))
        self.lockstep, self.padded = bool(scenario.parallel.lockstep > 1.0), scenario.framework.padded_ranks
        self.has_pool = scenario.parallel.expert_pool is not None
        decode, prompt = (self._work((part,)) for part in (self.decoding(1.0, 64.0), self.prompt(1.0, 64.0, 64.0)))
        names = [{operator.name for operator in work.operators()} for work in (decode, prompt)]
        self._shared = names[0] & names[1]
        self.fused = fuses_mixed_attention(self.decoding(1.0, 64.0))

    def decoding(self, decodes: Count, keys: Count) -> Context:
        """Return requests that decode."""
        return request_context(self._scenario, decodes / self._plan.micro_batches, keys, self.drafts)

    def prompt(self, chunks: Count, rows: Count, keys: Count) -> Context:
        """Return chunks of prompts with `rows` tokens together."""
        tokens = rows / chunks
        return prompt_context(self._scenario, chunks / self._plan.micro_batches, tokens, np.maximum(keys, tokens))

    def _work(self, parts: Sequence[Context]) -> PassWork:
        return pass_work(self._pass(parts))

    def _pass(self, parts: Sequence[Context]) -> Pass:
        return Pass(tuple(parts), self._plan.micro_batches, draft_passes(self._plan.speculative))

    def time(self, *parts: Context, keep: Keep | None = None, perturbations: Perturbations = None) -> Any:
        """Return the time of a step, or of the operators of it that `keep` chooses [s]."""
        work = self._work(parts)
        if keep is not None:
            body = work.body
            work = replace(
                work,
                body=replace(
                    body,
                    embedding=_kept(body.embedding, keep),
                    layers=tuple(_kept(layer, keep) for layer in body.layers),
                    head=_kept(body.head, keep),
                ),
                drafts=tuple((count, _kept(layer, keep)) for count, layer in work.drafts),
            )
        scenario = self._scenario if keep is None else self._without_host
        model = pass_model_of(scenario, self._pass(parts), work, self._timer)
        return pass_times(model, perturbations).round(self._scenario.parallel.pp)

    def elsewhere(self, rows: Array, perturbations: Perturbations = None) -> tuple[Array, int]:
        """Return the seconds of devices that hold experts only: of their kernels, and of messages to and from them.

        rows: tokens of steps. And how often a step goes there, 0 where experts are no devices of their own.
        """
        forward = self._pass((self.decoding(rows / (1.0 + self.drafts), 1.0),))
        model = pass_model_of(self._without_host, forward, pass_work(forward), self._timer)
        seconds, runs = np.zeros((3, len(rows))), 0
        places = {ELSEWHERE[EXPERTS]: 0, ELSEWHERE[TO_EXPERTS]: 1, ELSEWHERE[FROM_EXPERTS]: 2}
        for repeats, layer in zip(model.stages[0].repeats, model.segments, strict=True):
            for segment in layer:
                row = places.get(segment.placement.stream)
                if row is not None:
                    number = repeats * segment.runs(forward.micro_batches)
                    seconds[row] += (
                        self._scenario.pace.decodes
                        * number
                        * np.asarray(stream_times(segment.operators, perturbations).total)
                    )
                    runs += number if row == 0 else 0
        return seconds, runs

    def prompt_floor(self) -> Array:
        """Return the least time of a step with prompts, alone and with requests that decode: the host's [s]."""
        eager, floors = self._scenario.eager_prompts, np.zeros(2)
        if not np.any(eager.layer) and not np.any(eager.operator):
            return floors
        prompt = self.prompt(1.0, 1.0, 1.0)
        for number, parts in enumerate(((prompt,), (self.decoding(1.0, 1.0), prompt))):
            model = pass_model_of(self._scenario, self._pass(parts), self._work(parts), self._timer)
            floors[number] = sum(stage.count * np.max(stage.host) for stage in model.stages)
        return self._scenario.pace.prompts * floors

    def by_contexts(self, _: LayerWork, operator: Operator) -> bool:
        """Tell whether an operator's time depends on each request: on its keys, or on its adapter."""
        own = isinstance(operator, AttentionKernel | MixedAttention) or operator.name.startswith(SERVED)
        return own or operator.name not in self._shared

    def by_sequences(self, layer: LayerWork, operator: Operator) -> bool:
        """Tell whether an operator's time depends on the number of sequences."""
        by_name = layer.name.endswith(("head", NEXT)) or "vocabulary" in operator.name
        counted = by_name or isinstance(operator, HostTime)
        return counted and not self.by_contexts(layer, operator)

    def by_rows(self, layer: LayerWork, operator: Operator) -> bool:
        """Tell whether an operator's time depends on the tokens of a step."""
        return not self.by_contexts(layer, operator) and not self.by_sequences(layer, operator)

    def shared(self, layer: LayerWork, operator: Operator) -> bool:
        """Tell whether an operator serves the tokens of all ranks that step together: from dispatch to combine."""
        names = [each.name for each in layer.forward]
        if "dispatch" not in names or "combine" not in names:
            return False
        return operator.name in names[names.index("dispatch") : names.index("combine") + 1]

    def seconds(self, steps: Steps) -> Any:
        """Return the times of steps that all have decoding requests and chunks [s]."""
        return self.time(
            self.decoding(steps.decodes, steps.keys), self.prompt(steps.chunks, steps.rows, steps.chunk_keys)
        )


def _kept(layer: LayerWork, keep: Keep) -> LayerWork:
    """Return the operators that `keep` chooses, of those on the devices of the layer itself."""
    own = (operator for operator in layer.forward if operator.name not in layer.elsewhere)
    return replace(layer, forward=tuple(operator for operator in own if keep(layer, operator)))


def axis(first: float, last: float, ratio: float) -> Array:
    """Return whole numbers from `first` to `last`, neighbours at most `ratio` apart where these are not the next."""
    points = [float(first)]
    while points[-1] < last:
        points.append(min(max(points[-1] + 1.0, np.floor(points[-1] * ratio)), last))
    return np.array(points)


def row_axis(last: float) -> Array:
    """Return numbers of a step's tokens from 1 to `last`: each up to `EVERY`, then the ends of tiles and their next."""
    whole = TILE * np.unique(np.ceil(axis(EVERY, max(last, EVERY), ROWS_RATIO) / TILE))
    points = np.concatenate([np.arange(1.0, EVERY), whole, whole + 1.0, [last]])
    return np.unique(points[points <= last])


def distinct_prompts(chunks: Array, rows: Array, keys: Array) -> tuple[Array, npt.NDArray[np.intp]]:
    """Return the prompts of a grid that can be, each once, and the position of every point of the grid among them.

    A chunk has a token at least, and its last token as many keys as it has tokens: points that lie below are those.
    """
    grid = np.stack(np.meshgrid(chunks, rows, keys, indexing="ij"))
    grid[1] = np.maximum(grid[1], grid[0])
    grid[2] = np.maximum(grid[2], grid[1] / grid[0])
    distinct, places = np.unique(grid.reshape(3, -1), axis=1, return_inverse=True)
    return distinct, places.reshape(grid.shape[1:])


def make_tables(pricer: StepPricer, sizes: Sizes, perturbations: Perturbations = None) -> Tables:
    """Return the tables of an engine's steps up to the largest one."""
    drafts = 1.0 + pricer.drafts
    rows = row_axis(sizes.tokens + sizes.sequences * drafts)
    sequences = np.arange(1.0, 2.0 * sizes.sequences + 1)
    keys = axis(1, sizes.keys + 1, KEYS_RATIO)
    decodes = np.arange(1.0, sizes.sequences + 1)

    def time(*parts: Context, keep: Keep) -> Array:
        return np.asarray(pricer.time(*parts, keep=keep, perturbations=perturbations))

    by_rows = time(pricer.decoding(rows / drafts, 1.0), keep=pricer.by_rows)
    shared = np.zeros(1)  # experts of a pool are no part of a rank's own step
    if pricer.lockstep and not pricer.has_pool:
        shared = time(pricer.decoding(rows / drafts, 1.0), keep=pricer.shared)
    by_sequences = time(pricer.decoding(sequences, 1.0), keep=pricer.by_sequences)
    decode = time(pricer.decoding(decodes[:, None], keys), keep=pricer.by_contexts)
    chunks, chunk_rows = axis(1, sizes.sequences, 2.0), axis(1, sizes.tokens, PROMPT_RATIO)
    chunk_keys = axis(1, sizes.keys, PROMPT_RATIO)
    prompt = time(pricer.prompt(chunks[:, None, None], chunk_rows[:, None], chunk_keys), keep=pricer.by_contexts)
    mixed_axes = (
        axis(1, sizes.sequences, MIXED_RATIO), axis(1, sizes.keys + 1, MIXED_RATIO), axis(1, sizes.sequences, 4.0),
        axis(1, sizes.tokens, MIXED_RATIO), axis(1, sizes.keys, MIXED_RATIO),
    )  # fmt: skip
    mixed = np.zeros((1, 1, 1, 1, 1))
    if pricer.fused:
        n, k, *prompts = mixed_axes
        parts, places = distinct_prompts(*prompts)
        known = time(pricer.decoding(n[:, None, None], k[:, None]), pricer.prompt(*parts), keep=pricer.by_contexts)
        mixed = known[..., places]
    pool, pooled = pricer.elsewhere(rows, perturbations) if pricer.has_pool else (np.zeros((3, 1)), 0)
    axes = (rows, keys, chunks, chunk_rows, chunk_keys, *mixed_axes)
    return Tables(
        axes=np.concatenate(axes),
        ends=np.cumsum([0, *(len(points) for points in axes)]),
        by_rows=np.broadcast_to(by_rows, rows.shape).copy(),
        by_sequences=np.concatenate([[0.0], np.broadcast_to(by_sequences, sequences.shape)]),
        decode=np.concatenate([np.zeros((1, len(keys))), np.broadcast_to(decode, (len(decodes), len(keys)))]),
        prompt=np.broadcast_to(prompt, (len(chunks), len(chunk_rows), len(chunk_keys))).copy(),
        mixed=np.ascontiguousarray(mixed),
        fused=pricer.fused,
        prompt_floor=pricer.prompt_floor(),
        ahead=pricer.ahead,
        pool=pool,
        batches=pricer.batches,
        shared=np.broadcast_to(shared, rows.shape if pricer.lockstep else (1,)).copy(),
        padded=pricer.padded,
        pooled=pooled,
    )


class StepTimes(Record):
    """Step times of an engine: call it with the sizes of a step. error: mean and largest relative error of `PROBES`
    decoding steps, and of as many with chunks, against direct prices.
    """

    tables: Tables
    sizes: Sizes
    drafts: float

    def __call__(
        self, decodes: float, keys: float, chunks: float = 0.0, rows: float = 0.0, chunk_keys: float = 0.0
    ) -> float:
        """Return the time of a step [s]. keys, chunk_keys: of one decoding request, and of one chunk, on average."""
        step = Step(decodes, decodes * keys, chunks, rows, rows * chunk_keys, 0.0)
        tokens = decodes * (1.0 + self.drafts) + rows
        return float(step_time(self.tables, step, tokens))

    def error(self, pricer: StepPricer, seed: int = 0) -> dict[str, float]:
        """Return the error of interpolation at random steps, log-uniform in every size."""
        draw, sizes = np.random.default_rng(seed), self.sizes

        def numbers(last: float) -> Array:
            return np.floor(np.exp(draw.uniform(0.0, np.log(last + 1.0), PROBES)))

        decodes, keys = numbers(sizes.sequences), numbers(sizes.keys)
        rows = numbers(sizes.tokens)
        chunks = np.minimum(np.minimum(numbers(8), rows), sizes.sequences)
        chunk_keys = np.minimum(np.ceil(rows / chunks) + numbers(sizes.keys), sizes.keys)
        chunk_keys = np.maximum(chunk_keys, np.ceil(rows / chunks))
        direct = {
            "decode": pricer.time(pricer.decoding(decodes, keys)),
            "mixed": pricer.seconds(Steps(decodes, keys, chunks, rows, chunk_keys)),
        }
        interpolated = {
            "decode": [self(*point) for point in zip(decodes, keys, strict=True)],
            "mixed": [self(*point) for point in zip(decodes, keys, chunks, rows, chunk_keys, strict=True)],
        }
        errors = {name: np.abs(np.array(interpolated[name]) / direct[name] - 1.0) for name in direct}
        return {
            f"{name}_{kind}": float(take(error))
            for name, error in errors.items()
            for kind, take in (("mean", np.mean), ("largest", np.max))
        }


def step_times(scenario: Scenario, plan: Serving, calibration: Calibration, sizes: Sizes) -> StepTimes:
    """Return the step times of a scenario's engine."""
    pricer = StepPricer(scenario, plan, calibration)
    return StepTimes(make_tables(pricer, sizes), sizes, pricer.drafts)
