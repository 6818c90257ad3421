"""Predictions written out: a case per phase, engine and kind of attention, and messages by themselves.

A change that moves one shows by how much.

`--update-golden` rewrites the files and prints the largest moves in per cent. Cases are compared by key, so that a new
key of a result moves nothing else.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import run_here

import costmodel
from costmodel.analytic.messages import COLLECTIVES
from costmodel.workload.architecture import Attention

pytestmark = pytest.mark.core

FOLDER = Path(__file__).parent
TOLERANCE = 1e-9  # relative: rounding of other processors and libraries, and nothing else
LINES = 8  # of a breakdown, the longest first
SHOWN = 10  # moves of an update, the largest first


@dataclass(frozen=True)
class Case:
    """A workload of `workloads/`, the scenarios of it that are compared (none: all), and the engine."""

    workload: str
    scenarios: tuple[str, ...] = ()
    engine: str = "analytic"

    @property
    def name(self) -> str:
        """Return the name of its file."""
        return "-".join((Path(self.workload).name, *self.scenarios, self.engine))


PHASES = [
    Case("deepseek_v3"),  # training, prefill, decode, ep_bound
    Case("gpt3_175b_a100", ("selective",)),  # training with tensor and pipeline parallelism
    Case("mixtral_8x7b_h100"),
    Case("llama3_8b_rtx4090"),  # generate, serving
    Case("deepseek_v3_serving"),  # two pools
    Case("deepseek_v3", ("training",), "event"),
    Case("deepseek_v3", ("prefill",), "event"),
    Case("deepseek_v3", ("decode",), "event"),
]
ATTENTION = {  # kind of mixer or pattern -> a system that has it
    "full": "attention_full_h32", "window": "titans_mal", "sink_recent": "duoattention_7b", "chunked": "titans_mac",
    "elastic_window": "moa_7b", "strided_blocks": "s2_attention", "neighbourhood": "nat_mini",
    "chunk_topk": "longheads", "kv_budget": "task_kv", "predicted_sparse": "sparsifiner", "spans": "combiner",
    "mixed": "ir_diffusion", "Mla": "mote", "Recurrence": "mom_340m", "NeuralMemory": "titans_lmm",
    "Convolution": "mobilevitv2_1_0", "Spectral": "spectformer_t", "Gate": "titans_mag", "MilPool": "acmil",
}  # fmt: skip
FABRICS = ("h800-2048-mpft", "nodes/dgx-h100")  # planes of two levels; NICs on one switch
MESSAGES = ("64KiB", "256MiB")
CASES = [*PHASES, *(Case(f"systems/{name}") for name in ATTENTION.values())]


def answers(case: Case) -> dict[str, object]:
    """Return what is compared of a case by dotted key, numbers to 12 digits."""
    document = costmodel.load(case.workload).simulate(case.scenarios or None, engine=case.engine)
    leaves = {f"model.{key}": value for key, value in document["model"].items()}
    for name, scenario in document["scenarios"].items():
        leaves |= {f"{name}.{key}": value for key, value in leaves_of(scenario)}
    return {path: float(f"{value:.12g}") if isinstance(value, float) else value for path, value in leaves.items()}


def message_times() -> dict[str, object]:
    """Return the time of each collective and expert all-to-all on two fabrics, on one by flows too, to 12 digits."""
    flows = (FABRICS[0], "flow", MESSAGES[-1])
    found: dict[str, object] = {}
    for cluster, engine, size in (*itertools.product(FABRICS, ("analytic",), MESSAGES), flows):
        for kind in COLLECTIVES:
            arguments = [kind, "--cluster", cluster, "--ranks", "64", "--size", size, "--engine", engine, "--json"]
            time = json.loads(run_here("collective", *arguments).out)["time"]
            found[f"{cluster}.{engine}.{kind}.{size}"] = float(f"{time:.12g}")
    return found


def leaves_of(scenario: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """Yield what is compared of a scenario: metrics, headline's interval, bound, basis, memory, longest lines."""
    yield "bound", scenario["bound"]
    yield from scenario["metrics"].items()
    for metric, ends in list(scenario["intervals"].items())[:1]:
        yield from (
            (f"interval.{metric}.{end}", value) for end, value in zip(("low", "high"), ends or (), strict=False)
        )
    for part in ("schedule", "memory", "basis"):
        yield from ((f"{part}.{key}", value) for key, value in scenario.get(part, {}).items())
    yield from ((f"breakdown.{line['name']}", line["time"]) for line in scenario["breakdown"][:LINES])


@dataclass(frozen=True)
class Move:
    """A key that moved. size: |log(after / before)|, infinite of one that is new, gone or no number; text: as shown."""

    size: float
    text: str


def moved(before: object, after: object) -> Move | None:
    """Return how a value moved, None where it did not."""
    if isinstance(before, int | float) and isinstance(after, int | float):
        if math.isclose(before, after, rel_tol=TOLERANCE, abs_tol=0.0):
            return None
        text = f"{before:.6g} -> {after:.6g}" + (f" ({100 * (after / before - 1):+.3g} %)" if before else "")
        return Move(abs(math.log(after / before)) if before and after / before > 0 else math.inf, text)
    return None if before == after else Move(math.inf, f"{before} -> {after}")


def differences(before: Mapping[str, object], after: Mapping[str, object]) -> list[Move]:
    """Return the keys that moved, appeared or went, the largest moves first."""
    moves = [Move(math.inf, f"{key}: gone") for key in before if key not in after]
    moves += [Move(math.inf, f"{key}: new, {after[key]}") for key in after if key not in before]
    both = ((key, moved(before[key], after[key])) for key in after if key in before)
    moves += [Move(move.size, f"{key}: {move.text}") for key, move in both if move]
    return sorted(moves, key=lambda move: -move.size)


def largest(moves: Sequence[Move]) -> list[str]:
    """Return the lines of the largest moves and how many more there are."""
    more = len(moves) - SHOWN
    lines = [move.text for move in sorted(moves, key=lambda move: -move.size)[:SHOWN]]
    return [*lines, f"and {more:,} smaller moves"] if more > 0 else lines


@pytest.fixture(scope="module")
def updated(pytestconfig: pytest.Config) -> Iterator[list[Move]]:
    """Yield the moves that an update accepts, of all cases. The largest are printed at its end."""
    moves: list[Move] = []
    yield moves
    plugins = pytestconfig.pluginmanager
    with plugins.get_plugin("capturemanager").global_and_fixture_disabled():
        for line in largest(moves):
            plugins.get_plugin("terminalreporter").write_line(f"  {line}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_gives_its_golden_numbers(case: Case, pytestconfig: pytest.Config, updated: list[Move]) -> None:
    _compare(case.name, answers(case), pytestconfig, updated)


def test_messages_take_their_golden_times(pytestconfig: pytest.Config, updated: list[Move]) -> None:
    _compare("network", message_times(), pytestconfig, updated)


def _compare(name: str, now: Mapping[str, object], pytestconfig: pytest.Config, updated: list[Move]) -> None:
    path = FOLDER / f"{name}.json"
    is_update = pytestconfig.getoption("--update-golden")
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() or not is_update else {}
    moves = differences(before, now)
    if is_update and moves:
        path.write_text(json.dumps(now, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
        updated += (
            [Move(move.size, f"{name}: {move.text}") for move in moves] if before else [Move(math.inf, f"{name}: new")]
        )
    elif moves:
        shown = ["moved (--update-golden accepts it; say by how much in CHANGELOG):", *largest(moves)]
        pytest.fail("\n".join(shown), pytrace=False)


def test_every_kind_of_attention_has_a_golden_case() -> None:
    for kind, system in ATTENTION.items():
        scenario = next(iter(costmodel.load(f"systems/{system}").resolved.scenarios.values()))
        mixers = [layer.mixer for layer in scenario.architecture.layers]
        patterns = {
            group.pattern.kind for mixer in mixers if isinstance(mixer, Attention) for group in mixer.head_groups
        }
        assert kind in patterns | {type(mixer).__name__ for mixer in mixers}, (kind, system)


def test_a_moved_number_is_shown_in_per_cent_and_by_key() -> None:
    moves = differences({"a": 2.0, "b": 1, "gone": 3}, {"a": 2.1, "b": 1, "new": 4})
    assert largest(moves) == ["gone: gone", "new: new, 4", "a: 2 -> 2.1 (+5 %)"]


def test_only_the_largest_moves_are_shown() -> None:
    before = {str(i): 100.0 for i in range(1, 13)}
    lines = largest(differences(before, {key: 100.0 + int(key) for key in before}))
    assert lines[0] == "12: 100 -> 112 (+12 %)"
    assert lines[-2:] == ["3: 100 -> 103 (+3 %)", "and 2 smaller moves"]
