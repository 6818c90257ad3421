"""The request engine's answer for a serving scenario: metrics, percentiles, intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from costmodel.analytic.metrics import invested, spent
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.serving.continuous_batching import ServingEvaluation, without_effect
from costmodel.analytic.serving.engine_state import most_running
from costmodel.analytic.serving.token_bill import load_of, token_bill
from costmodel.analytic.stream_times import Perturbations, PhaseEvaluation
from costmodel.cost.calibration import Calibration
from costmodel.equations import equation
from costmodel.quantities import Quantity
from costmodel.records import Record, replace
from costmodel.result import Entry, Metrics
from costmodel.serving.deployment import replica_count
from costmodel.serving.distributions import ERROR
from costmodel.serving.served import Served
from costmodel.serving.simulation import MOST_KEPT, WINDOW, Simulation
from costmodel.serving.summary import Outcome, Tally, changes, of_classes, percentiles, totals, verdict
from costmodel.workload.engine_memory import kv_pool
from costmodel.workload.memory import Ledger
from costmodel.workload.plans import Serving
from costmodel.workload.scenario import Scenario

SATURATING = 1000  # requests that arrive at once
EARLY, LATE = 0.1, 0.8  # of these, between which an engine's rate is counted
SLOWDOWNS = (0.8, 0.9, 1.0, 1.1, 1.25)  # of step times; replays at these give the metrics between them


_PLAYED = ("waiting for", "client and front end", "kv transfer")  # lines of the closed form that are of requests
Run = TypeVar("Run", Served, Outcome)


class Options(Record, kw_only=True):
    """How requests are run.

    checkpoint: file that keeps the state.
    workers: threads for replicas that serve independently of each other.
    on_progress: receives the share of runs that are done.
    keeps: every request of a long run, for a table of them.
    """

    checkpoint: Path | None = None
    workers: int = 1
    on_progress: Callable[[float], None] | None = None
    keeps: bool = False


DEFAULT = Options()


class RequestEvaluation(PhaseEvaluation[Metrics]):
    """A serving scenario with its requests simulated.

    why: they are though no engine was asked for. Null: it was.
    """

    headline = "latency"

    def __init__(
        self, scenario: Scenario, plan: Serving, calibration: Calibration, options: Options = DEFAULT
    ) -> None:  # fmt: skip
        self._scenario, self._plan, self._calibration = scenario, plan, calibration
        self._options, self._runs = options, 0
        self.why: str | None = None
        self._pool = kv_pool(scenario, plan)
        self.ledger: Ledger | None = self._pool.ledger

    @cached_property
    def simulation(self) -> Simulation:
        """Return the simulation, its step times priced."""
        options = self._options
        keeps = options.keeps or options.checkpoint is not None
        return Simulation(self._scenario, self._plan, self._calibration, options.workers, keeps=keeps)

    @cached_property
    def served(self) -> Served:
        """Return what became of each request, or of the first ones where not all are kept."""
        return self._counted(self.simulation.run(checkpoint=self._options.checkpoint, on_progress=self._of_run))

    @cached_property
    def outcome(self) -> Outcome:
        """Return what became of the run."""
        if self.simulation.streams:
            return self._counted(self.simulation.streamed(self._plan.slo))
        return self._outcome(self.served)

    def _outcome(self, served: Served) -> Outcome:
        return Outcome.of(served, Tally.of(served, self._plan.slo, self._plan.classes))

    @cached_property
    def _replays(self) -> list[Metrics]:
        """Return the metrics of the requests, the first ones where not all are kept, with step times at each of
        `SLOWDOWNS`.
        """
        usual = self.metrics_of(self._outcome(self.served))
        return [usual if each == 1.0 else self.metrics_of(self._outcome(self._slower(each))) for each in SLOWDOWNS]

    def _slower(self, factor: float) -> Served:
        """Return what became of the same requests at other step times."""
        return self._counted(self.simulation.run(factor, on_progress=self._of_run))

    def _counted(self, run: Run) -> Run:
        """Return what one run gave, and tell how many runs are done: that, the saturated one and the replays."""
        self._runs += 1
        self._of_run(0.0)
        return run

    def _of_run(self, share: float) -> None:
        """Tell how many runs are done, and the share of the one that is under way."""
        if self._options.on_progress is not None:
            self._options.on_progress(min((self._runs + share) / (1 + len(SLOWDOWNS) + self.simulation.streams), 1.0))

    @cached_property
    def closed(self) -> ServingEvaluation:
        """Return the closed form with as many requests running as the simulation had on average.

        It tells how the operators share the time of a step, and how uncertain they are.
        """
        tally, running = self.outcome.tally, max(round(totals(self.outcome)["running"]), 1)
        plan = replace(
            self._plan,
            concurrency=float(running),
            rate=None,
            input_tokens=max(float(np.rint(tally.mean("input_tokens"))), 1.0),
            output_tokens=max(float(np.rint(tally.mean("output_tokens"))), 2.0),
        )
        if plan.requests is not None and plan.requests.sessions is not None:
            plan = replace(plan, prefix_hit_rate=tally.mean("cached_tokens") / tally.mean("input_tokens"))
        return ServingEvaluation(replace(self._scenario, plan=plan), plan, self._calibration)

    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics. With families perturbed those at the closed form's change of a step's time."""
        if perturbations is None:
            return self.times()
        ratio, replays = self._slowdown(perturbations), self._replays
        perturbed: Metrics = {}
        for name, value in self.times().items():
            if name == "highest_stable_rate":  # all of a saturated engine's times grow alike
                perturbed[name] = None if value is None else value / ratio
                continue
            values = [replay[name] for replay in replays]
            usual = values[SLOWDOWNS.index(1.0)]
            if value is None or not usual or all(each == usual for each in values):
                perturbed[name] = value
                continue
            # The first requests of a long run show by what factor all change; of others they are all.
            factor = 1.0 if value == usual else value / usual
            perturbed[name] = factor * np.interp(ratio, SLOWDOWNS, np.array(values, dtype=np.float64))
        return perturbed

    def _slowdown(self, perturbations: Perturbations) -> Quantity:
        perturbed, unperturbed = (self.closed.metrics(each)["tpot"] for each in (perturbations, None))
        assert perturbed is not None
        assert unperturbed is not None
        return perturbed / unperturbed

    def _evaluate(self, perturbations: Perturbations) -> Metrics:  # noqa: ARG002  metrics handle perturbations
        return {**self.metrics_of(self.outcome), "highest_stable_rate": self.stable_rate}

    @equation
    def metrics_of(self, run: Outcome) -> Metrics:
        """Return the metrics of requests that were simulated one by one.

        ttft := mean of requests, from arrival to the end of the step that gives the first token, as measured ones are
        tpot := mean of requests, (latency - ttft) / (tokens - 1)
        latency := mean of requests, from arrival to the last token
        requests_per_second = total.requests / elapsed
        tokens_per_second = total.output_tokens / elapsed
        kv_blocks := of the cache of an engine (costmodel/workload/engine_memory.py)
        kv_use := blocks in use over all, mean over the time in which engines work
        prefix_hit_rate = total.cached_tokens / total.input_tokens      of a request: `start_request`, serving/engine.py
        """
        times, total, devices, elapsed = run.tally.times, totals(run), self._devices(run), run.tally.duration
        rate = total["requests"] / elapsed
        tokens = total["output_tokens"] / elapsed
        tpot = times["tpot"].mean if times["tpot"].count else None
        first = times["ttft"].mean * self._scenario.pace.first
        return {
            "ttft": first,
            "tpot": tpot,
            "latency": times["e2e"].mean + (first - times["ttft"].mean),
            "requests_per_second": rate,
            "input_tokens_per_second": total["input_tokens"] / elapsed,
            "tokens_per_second": tokens,
            "tokens_per_second_per_device": tokens / devices,
            "tokens_per_second_per_user": 1.0 / tpot if tpot else None,
            "concurrency": total["running"] * total["busy_share"],
            "max_concurrency": float(most_running(self._scenario, self._plan, self._pool)),
            "kv_blocks": float(run.policy.blocks),
            "kv_use": total["kv_use"],
            "prefix_hit_rate": total["cached_tokens"] / total["input_tokens"],
            "highest_stable_rate": None,
            "goodput": run.tally.sums["good"] / elapsed,
            "preemptions": total["preemptions"],
            **self._bill(tokens, devices, total["busy_share"]),
        }

    def _bill(self, tokens: float, devices: float, busy: float) -> Metrics:
        """Return money and energy at a rate of output tokens. busy: share of time in which engines work."""
        return {
            **spent(self._scenario.cluster.node, devices, tokens, busy * self.closed.work()),
            **invested(self._scenario, devices),
        }

    def _devices(self, run: Outcome) -> float:
        """Return the devices that are paid for: of all engines, or on average of those that an autoscaler rents."""
        own = float(self._scenario.parallel.all_devices) / float(self._scenario.parallel.dp)
        if self._plan.replicas.autoscale is None:
            return own * len(run.engines.state)
        return own * run.rented / run.tally.end

    @cached_property
    def stable_rate(self) -> float | None:
        """Return the rate that engines serve which always have work [1/s]. None of a burst, of a closed loop, of
        conversations, and where prompts share prefixes: all at once they would find fewer of them cached.

        Some of the requests arrive at one replica at once, the first in the midst of their lives. Between the end of a
        tenth and of four fifths of them it serves as many as it can.
        """
        requests = self.simulation.requests
        is_open = bool(np.isfinite(requests.arrival).all() and requests.arrival.any())
        if not is_open or self._plan.replicas.prefill or self.outcome.tally.sums["cached_tokens"]:
            return None
        seats = int(most_running(self._scenario, self._plan, self._pool))
        ends = np.sort(self._counted(self.simulation.saturated(SATURATING, seats)).requests["finish"])
        first, last = round(EARLY * (len(ends) - 1)), round(LATE * (len(ends) - 1))
        if ends[last] <= ends[first]:
            return None
        random, devices = self._plan.replicas.breakdowns, self._scenario.parallel.all_devices
        up = 1.0 if random is None else float(random.up_share(devices))
        return float((last - first) / (ends[last] - ends[first])) * replica_count(self._plan) * up

    def verdict(self) -> str | None:
        """Return whether the engines keep up with the requests."""
        return verdict(self.outcome.tally)

    def percentiles(self) -> Mapping[str, Mapping[str, float]] | None:
        """Return quantiles of the requests' times, and of gaps between tokens [s]."""
        return percentiles(self.outcome.tally, self.outcome.engines.gaps)

    def details(self) -> Mapping[str, object]:
        """Return what results hold beside metrics: sums over the run, and the error of the step times' tables."""
        error = self.simulation.times.error(self.simulation.pricer)
        engine: dict[str, object] = {} if self.why is None else {"engine": "event"}
        classes = of_classes(self.outcome.tally, self.outcome.tally.served / self.outcome.tally.duration)
        engine |= {"classes": classes} if classes else {}
        engine |= self._of_tokens()
        return {**engine, "requests": {**totals(self.outcome), **changes(self.outcome), "step_time_error": error}}

    def _of_tokens(self) -> Mapping[str, object]:
        """Return what each kind of tokens takes: the run's power, by the closed form's shares with as much cached."""
        closed, metrics = self.closed, {name: float(value or 0.0) for name, value in self.times().items()}
        busy = totals(self.outcome)["busy_share"]
        load = load_of(self._devices(self.outcome), metrics, busy, busy * closed.work())
        cached = closed.with_cached(metrics["prefix_hit_rate"])
        return token_bill(self._scenario.cluster.node, load, cached.token_shares())

    def operators(self) -> list[TimedOperator]:
        """Return the operators of the closed form's steps."""
        return self.closed.operators()

    def breakdown(self) -> list[Entry]:
        """Return what a request's latency consists of: waiting, and steps as the closed form divides them."""
        tally = self.outcome.tally
        wait = Entry("waiting for the engine", tally.times["wait"].mean)
        wait.by_bound["capacity"] = wait.by_basis["fitted"] = wait.time
        front = Entry("client and front end", tally.mean("front_end"))
        front.by_bound["latency"] = front.by_basis["fitted"] = front.time
        moves = Entry("transfer of the prompt's cache", tally.mean("transfer"))
        moves.by_bound["latency"] = moves.by_basis["fitted"] = moves.time
        own = [wait, front, *([moves] if moves.time > 0 else [])]
        entries = [entry for entry in self.closed.breakdown() if not entry.name.startswith(_PLAYED)]
        latency = self.times()["latency"]
        assert latency is not None
        engine = float(latency) - self.outcome.tally.times["ttft"].mean * (float(self._scenario.pace.first) - 1.0)
        factor = (engine - sum(entry.time for entry in own)) / sum(entry.time for entry in entries)
        for entry in entries:
            entry.time, entry.hidden, entry.count = entry.time * factor, entry.hidden * factor, entry.count * factor
        return sorted([*own, *entries], key=lambda entry: -entry.time)

    def notes(self) -> tuple[str, ...]:
        """Return why requests were simulated, what arrived and was rejected, and whether prompts gathered."""
        why = () if self.why is None else (f"by requests one by one (`--engine event`): {self.why}",)
        served, stable = self.times()["requests_per_second"], self.times()["highest_stable_rate"]
        assert served is not None
        load = self._of_load(float(served), None if stable is None else float(stable))
        notes = [*why, *self._of_histograms(), *load, *self._of_fleet(), *without_effect(self._plan)]
        if stable is not None and served > stable and self._scenario.parallel.lockstep > 1:
            notes.append(
                f"this run served {float(served):.3g} requests/s, more than the highest stable rate: prompts of ranks "
                "in lockstep shared steps, which ends once a burst takes every seat"
            )
        return tuple(notes)

    def _of_histograms(self) -> Iterator[str]:
        """Yield of what percentiles and intervals of a long run are."""
        if self.simulation.streams:
            yield (
                f"percentiles: within {ERROR:.1%}, of a histogram of {self.outcome.tally.served:,} requests, for a run "
                f"of more than {MOST_KEPT:,} keeps none; intervals: from its first {WINDOW:,}"
            )

    def _of_load(self, served: float, stable: float | None) -> Iterator[str]:
        """Yield what arrives as a share of the highest stable rate, and that it is more than is served."""
        arriving = self.outcome.tally.arrival_rate
        if arriving is None:
            return
        if stable is not None:
            yield f"load: {arriving / stable:.0%} of the highest stable rate"
        is_open = not int(self.outcome.fleet.state["rejected"][0])
        if stable is not None and arriving > stable and is_open and self.verdict() != "overloaded":
            yield (
                f"overloaded in the long run: {stable:.3g} requests/s can be served; in this run of "
                f"{self.outcome.tally.arrived:,} the queue does not show yet"
            )
        if self.verdict() == "overloaded":
            can = f"{served:.3g} are served" if stable is None or stable > arriving else f"{stable:.3g} can be served"
            yield (
                f"overloaded: {arriving:.3g} requests/s arrive, {can}; the queue only grows, and times with the length "
                "of the run; rates, cost and energy are of what is served"
            )

    def _of_fleet(self) -> Iterator[str]:
        """Yield which requests were rejected, and that none of the breakdowns that may come did."""
        fleet, tally = self.outcome.fleet, self.outcome.tally
        rejected, random = int(fleet.state["rejected"][0]), self._plan.replicas.breakdowns
        if rejected:
            yield (
                f"{rejected / tally.arrived:.0%} turned away: {rejected:,} of {tally.arrived:,} requests met a full "
                "queue (`replicas.max_waiting`); times, rates and the verdict are of the others"
            )
        if random is not None and not fleet.state["failures"][0]:
            elapsed = tally.duration
            yield (
                f"no breakdown fell into this run of {elapsed:.3g} s, in which "
                f"{elapsed * len(fleet.breakdowns) / fleet.mtbf:.2g} are expected: its times are those without; more "
                "`requests` make it longer"
            )
