"""The request engine's answer for a serving scenario: metrics, percentiles, intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from costmodel.analytic.metrics import invested, spent
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.serving.continuous_batching import ServingEvaluation, without_effect
from costmodel.analytic.serving.engine_state import most_running
from costmodel.analytic.serving.pools import fuller_ledger
from costmodel.analytic.serving.token_bill import load_of, token_bill
from costmodel.analytic.stream_times import Perturbations, PhaseEvaluation
from costmodel.cost.calibration import Calibration, other_of
from costmodel.equations import equation
from costmodel.quantities import Quantity, sum_of
from costmodel.records import Record, replace
from costmodel.result import Entry, Metrics
from costmodel.serving.deployment import engine_count, kinds_of, replica_count
from costmodel.serving.distributions import ERROR, Served
from costmodel.serving.simulation import MOST_KEPT, WINDOW, Simulation
from costmodel.serving.summary import Outcome, Tally, changes, of_classes, percentiles, sums, totals, verdict
from costmodel.workload.engine_memory import kv_pool
from costmodel.workload.memory import Ledger
from costmodel.workload.plans import Serving
from costmodel.workload.pools import Pools
from costmodel.workload.scenario import Scenario

SATURATING = 1000  # requests that arrive at once
EARLY, LATE = 0.1, 0.8  # of these, between which an engine's rate is counted
SLOWDOWNS = (0.8, 0.9, 1.0, 1.1, 1.25)  # of step times; replays at these give the metrics between them


_PLAYED = ("waiting for", "client and front end", "kv transfer")  # lines of the closed form that are of requests
Run = TypeVar("Run", Served, Outcome)


class Options(Record, kw_only=True):
    """How requests are run.

    checkpoint: file that keeps the state.
    workers: threads for replicas that serve independently of each other, or tasks of `executor`, if any.
    on_progress: receives the share of runs that are done.
    keeps: every request of a long run, for a table of them.
    """

    checkpoint: Path | None = None
    workers: int = 1
    executor: Executor | None = None
    on_progress: Callable[[float], None] | None = None
    keeps: bool = False

    def simulation(self, scenario: Scenario, plan: Serving | Pools, calibration: Calibration) -> Simulation:
        """Return a simulation that is run so."""
        keeps = self.keeps or self.checkpoint is not None
        simulation = Simulation(scenario, plan, calibration, self.workers, keeps=keeps)
        simulation.executor = self.executor
        return simulation


DEFAULT = Options()


def known(value: Quantity | None) -> Quantity:
    """Return a value that a server has."""
    assert value is not None
    return value


def sum_known(values: Sequence[Quantity | None]) -> Quantity | None:
    """Return the sum of values, null where any of them is not known."""
    return None if None in values else sum_of(map(known, values))


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
        self._kinds = [scenario.alone, *plan.replicas.others]
        self.ledger: Ledger | None = fuller_ledger(*self._kinds) if plan.replicas.others else self._pool.ledger

    @cached_property
    def simulation(self) -> Simulation:
        """Return the simulation, its step times priced."""
        return self._options.simulation(self._scenario, self._plan, self._calibration)

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
        return Outcome.of(served, Tally.of(served, self._plan.slo, self._plan.classes, kinds_of(self._plan)))

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
        return self._closed_of(self._scenario.alone, self.outcome, self._calibration)

    @cached_property
    def _parts(self) -> list[tuple[Scenario, Outcome, ServingEvaluation, float]]:
        """Return each kind of engines, what became of it, its closed form, and its share of the requests."""
        run = self.outcome
        if len(self._kinds) == 1:
            return [(self._scenario, run, self.closed, 1.0)]
        parts = []
        for number, each in enumerate(self._kinds):
            own, fits = run.of_kind(number), self._calibration
            fits, served = other_of(fits, number - 1) if number else fits, own.tally.served
            closed = self._closed_of(each, own if served else run, fits)
            parts.append((each, own, closed, served / run.tally.served))
        return parts

    def _closed_of(self, scenario: Scenario, run: Outcome, calibration: Calibration) -> ServingEvaluation:
        tally, running = run.tally, max(round(totals(run)["running"]), 1)
        assert isinstance(scenario.plan, Serving), "as the scenario whose requests they share"
        plan = replace(
            scenario.plan,
            requests=self._plan.requests,
            concurrency=float(running),
            rate=None,
            input_tokens=max(float(np.rint(tally.mean("input_tokens"))), 1.0),
            output_tokens=max(float(np.rint(tally.mean("output_tokens"))), 2.0),
        )
        if plan.requests is not None and plan.requests.sessions is not None:
            plan = replace(plan, prefix_hit_rate=tally.mean("cached_tokens") / tally.mean("input_tokens"))
        return ServingEvaluation(replace(scenario, plan=plan), plan, calibration)

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
        perturbed, unperturbed = (
            sum_of(share * known(closed.metrics(each)["tpot"]) for _, _, closed, share in self._parts)
            for each in (perturbations, None)
        )
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
            "kv_blocks": float(run.fleet.members["blocks"][run.fleet.prefill :].mean()),
            "kv_use": total["kv_use"],
            "prefix_hit_rate": total["cached_tokens"] / total["input_tokens"],
            "highest_stable_rate": None,
            "goodput": run.tally.sums["good"] / elapsed,
            "preemptions": total["preemptions"],
            **self._bill(tokens, devices, total["busy_share"]),
        }

    def _bill(self, tokens: float, devices: float, busy: float) -> Metrics:
        """Return money and energy at a rate of output tokens. busy: share of time in which engines work."""
        if self._plan.replicas.others:
            parts = [self._bill_of(part, tokens) for part in range(len(self._kinds))]
            return {name: sum_known([each[name] for each in parts]) for name in parts[0]}
        return {
            **spent(self._scenario.cluster.node, devices, tokens, busy * self.closed.work()),
            **invested(self._scenario, devices),
        }

    def _busy_of(self, own: Outcome) -> float:
        """Return the share of the run's time in which the engines of a kind work."""
        return sums(own.engines.occupancy)["busy"] / (len(own.engines.state) * self.outcome.tally.end)

    def _bill_of(self, kind: int, tokens: float) -> Metrics:
        """Return what a kind of engines adds to the money and energy of all at a rate of output tokens."""
        scenario, own, closed, _ = self._parts[kind]
        work = self._busy_of(own) * closed.work()
        part = spent(scenario.cluster.node, scenario.devices, tokens, work)
        return {**part, **invested(scenario, scenario.devices)}

    def _devices(self, run: Outcome) -> float:
        """Return the devices that are paid for: of all engines, or on average of those that an autoscaler rents."""
        if self._plan.replicas.others:
            return float(self._scenario.devices)
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
        rates = [self._saturated(number) for number in range(len(self._kinds))]
        shares = np.ones(len(rates))
        if self._plan.replicas.routing in ("round_robin", "random"):  # each kind gets its part, however busy it is
            weights = zip(rates, (1.0, *self._plan.replicas.weights), self._kinds, strict=True)
            shares = np.array([weight * engine_count(each, each.plan) for _, weight, each in weights])
            shares = shares / shares.sum()
            return None if None in rates else float(np.min(np.array(rates) / shares))
        return None if None in rates else float(sum(rates))  # type: ignore[arg-type]

    def _saturated(self, kind: int) -> float | None:
        """Return the rate that the engines of a kind serve which always have work [1/s]."""
        scenario, simulation = self._kinds[kind], self.simulation
        plan = scenario.plan
        assert isinstance(plan, Serving), "as the scenario whose requests they share"
        if kind:
            plan = replace(plan, rate=self._plan.rate, requests=self._plan.requests)
            fits = other_of(self._calibration, kind - 1)
            simulation = Simulation(replace(scenario, plan=plan), plan, fits, self._options.workers)
        seats = int(most_running(scenario, plan, kv_pool(scenario, plan)))
        ends = np.sort(self._counted(simulation.saturated(SATURATING, seats)).requests["finish"])
        first, last = round(EARLY * (len(ends) - 1)), round(LATE * (len(ends) - 1))
        if ends[last] <= ends[first]:
            return None
        random, devices = plan.replicas.breakdowns, scenario.parallel.all_devices
        up = 1.0 if random is None else float(random.up_share(devices))
        return float((last - first) / (ends[last] - ends[first])) * replica_count(plan) * up

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
        engine |= {"kinds": self._of_kinds()} if self._plan.replicas.others else self._of_tokens()
        return {**engine, "requests": {**totals(self.outcome), **changes(self.outcome), "step_time_error": error}}

    def _of_kinds(self) -> list[dict[str, Any]]:
        """Return what each kind of engines serves and costs. Requests, tokens, power and rent add up to those of all.

        share = served / all.served
        power = energy_per_token * all.tokens_per_second
        """
        run, known = self.outcome, []
        tokens = run.tally.sums["output_tokens"] / run.tally.duration
        for number, (scenario, own, _, share) in enumerate(self._parts):
            bill, total = self._bill_of(number, tokens), totals(own) if own.tally.served else {}
            energy = bill["energy_per_token"]
            means = of_classes(run.tally, run.tally.served / run.tally.duration, {"own": own.tally})["own"]
            known.append({
                "cluster": scenario.cluster.name, "count": float(scenario.plan.replicas.count),  # type: ignore[union-attr]
                "devices": float(scenario.devices), **means, "share": share,
                "requests_per_second": own.tally.served / run.tally.duration,
                "busy_share": self._busy_of(own), "kv_use": total.get("kv_use", 0.0),
                "power": None if energy is None else float(energy) * tokens, "cost_rate": bill["cost_rate"],
            })  # fmt: skip
        return known

    def _of_tokens(self) -> Mapping[str, object]:
        """Return what each kind of tokens takes: the run's power, by the closed form's shares with as much cached."""
        closed, metrics = self.closed, {name: float(value or 0.0) for name, value in self.times().items()}
        busy = totals(self.outcome)["busy_share"]
        load = load_of(self._devices(self.outcome), metrics, busy, busy * closed.work())
        cached = closed.with_cached(metrics["prefix_hit_rate"])
        return token_bill(self._scenario.cluster.node, load, cached.token_shares())

    def operators(self) -> list[TimedOperator]:
        """Return the operators of the closed form's steps."""
        return [operator for _, _, closed, _ in self._parts for operator in closed.operators()]

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
        entries = []
        for number, (_, _, closed, share) in enumerate(self._parts):
            for entry in closed.breakdown():
                if entry.name.startswith(_PLAYED):
                    continue
                entry.name = f"kind {number + 1}: {entry.name}" if number else entry.name
                entry.time, entry.hidden, entry.count = entry.time * share, entry.hidden * share, entry.count * share
                entries.append(entry)
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
        notes = [*why, *self._of_histograms(), *load, *self._of_fleet(), *self._of_lengths()]
        notes += without_effect(self._plan)
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

    def _of_lengths(self) -> Iterator[str]:
        """Yield that users whose requests are all alike stay in step."""
        stream = self.simulation.stream
        drawn = (stream.trace, stream.pairs, stream.sessions, *(each for each in (stream.input, stream.output) if each))
        is_alike = not any(drawn) and stream.arrivals == "closed_loop" and stream.ramp == 0.0
        if is_alike and not self._plan.classes and float(self._plan.concurrency or 0) > 1:
            yield (
                "requests are all alike, so those that start together end together and their prompts wait for each "
                "other; `requests.ramp`, or `requests.output` with a distribution, spreads them as users' are"
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
