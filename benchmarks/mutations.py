"""Changes of formulas, each of which a test has to notice: the share that is noticed without the goldens.

python -m benchmarks.mutations                  all; python -m benchmarks.mutations 3 17    some, by their numbers
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("costmodel", "tests", "hardware", "workloads", "reports", "benchmarks", "docs", "pyproject.toml")


@dataclass(frozen=True, slots=True)
class Mutation:
    """One change of a formula. module: under `costmodel/`; tests: the files that should notice, under `tests/`."""

    module: str
    old: str
    new: str
    tests: str


FORMS = "unit/cost/test_collective_forms.py"
CORES = "unit/cost/test_attention_forms.py"
KEYS = "unit/workload/test_keys.py unit/workload/test_patterns.py"
CHUNKS = "unit/analytic/test_chunks.py"
POWER = "unit/cost/test_power.py"
RINGS = "unit/network/test_collectives.py"
EXCHANGES = "unit/network/test_expert_all_to_all.py"
STEPS = "unit/analytic/test_training.py unit/analytic/test_mechanisms.py"
QUEUES = "unit/analytic/test_queueing.py"
ENGINE = "unit/event/test_engine.py"
MUTATIONS = (
    Mutation("cost/attention.py", "self.wave_tail_loss * (ceil(filled) - filled)", "self.wave_tail_loss * 0.0", CORES),
    Mutation("cost/attention.py", "attention.qk_pairs / attention.q_len / kv_tile + 0.5", "attention.qk_pairs / attention.q_len / kv_tile", CORES),
    Mutation("cost/attention.py", "self.combine_latency + self.combine_per_split * cta[\"splits\"]", "self.combine_latency", CORES),
    Mutation("cost/attention.py", "minimum(keys, attention.kv_len) * attention.kv_token_bytes", "keys * attention.kv_token_bytes", CORES),
    Mutation("cost/kernels.py", "waves * attention.serial_cycles", "attention.serial_cycles", "unit/workload/test_recurrences.py"),
    Mutation("cost/kernels.py", "8.0 * gemm.groups * gemm.m * gemm.n * (tile.split - 1)", "4.0 * gemm.groups * gemm.m * gemm.n * (tile.split - 1)", "unit/cost/test_kernels.py"),
    Mutation("cost/elementwise.py", "hits / self.l2_efficiency + misses / self.hbm_efficiency", "hits / self.hbm_efficiency + misses / self.hbm_efficiency", "unit/cost/test_elementwise_form.py"),
    Mutation("cost/expert_all_to_all.py", "form.inter_hops * links.inter_latency + form.inter_setup", "form.inter_setup", FORMS),
    Mutation("cost/expert_all_to_all.py", "copies.reached + self.forward_cost * copies.inter", "copies.reached + copies.inter", FORMS),
    Mutation("cost/expert_all_to_all.py", "maximum(links.nodes / 2.0, 1.0) ** self.fabric_exponent", "maximum(links.nodes, 1.0) ** self.fabric_exponent", FORMS),
    Mutation("cost/power.py", "ELEMENT_BYTES[operator.dtype] / SIXTEEN_BIT", "1.0", POWER),
    Mutation("cost/power.py", "power.busy * draw.busy + draw.work, power.tdp", "power.busy * draw.busy + draw.work, 1e9", POWER),
    Mutation("cost/power.py", "node.host.power / node.count", "node.host.power", POWER),
    Mutation("network/collectives.py", "local * links.inter), links.inter)", "links.inter), links.inter)", RINGS),
    Mutation("network/collectives.py", "2 * ring_transfer(size, links) + 2 * steps", "2 * ring_transfer(size, links) + steps", RINGS),
    Mutation("network/collectives.py", "(1 / local - 1 / n) * size / links.inter", "(1 / local) * size / links.inter", RINGS),
    Mutation("network/collectives.py", "return (steps - 1 + chunks) * (whole", "return (steps + chunks) * (whole", "unit/network/test_collectives.py unit/network/test_simulation.py"),
    Mutation("network/collectives.py", "(n - local) / n * size, links)", "(n - 1) / n * size, links)", RINGS),
    Mutation("network/expert_all_to_all.py", "to_ranks * (1 - 1 / local)", "to_ranks", EXCHANGES),
    Mutation("network/expert_all_to_all.py", "to_nodes * (1 - 1 / links.nodes)", "to_nodes", EXCHANGES),
    Mutation("network/group_links.py", "node.host.bandwidth / (2 * node.count)", "node.host.bandwidth / node.count", "unit/network/test_collectives.py unit/analytic/test_messages.py unit/analytic/test_host_offload.py"),
    Mutation("analytic/actions.py", "minimum(pair.expert_all_to_alls, slowdown * pair.compute)", "pair.expert_all_to_alls", STEPS),
    Mutation("analytic/inference.py", "maximum(overlap * (1.0 - 1.0 / slowdown) - idle, 0.0)", "overlap * (1.0 - 1.0 / slowdown)", "unit/analytic/test_inference.py unit/event/test_evaluation.py"),
    Mutation("analytic/inference.py", "self.latency + (sets - 1.0) * self.slowest", "sets * self.latency", f"{CHUNKS} unit/analytic/test_generation.py"),
    Mutation("analytic/training.py", "return total * micro_batches / scenario.parallel.pp", "return total * micro_batches", POWER + " unit/analytic/test_money.py unit/analytic/test_inference_energy.py"),
    Mutation("analytic/queueing.py", "return square / (2.0 * mean)", "return mean / 2.0", QUEUES),
    Mutation("analytic/queueing.py", "(2.0 * (seats + 1.0)) ** 0.5 - 1.0", "(2.0 * seats) ** 0.5 - 1.0", QUEUES),
    Mutation("analytic/queueing.py", "(2.0 / 3.0 * in_system", "(in_system", QUEUES + " unit/analytic/test_open_loop.py"),
    Mutation("analytic/disaggregation.py", "self._plan.prefill.parallel.pp * self._passes * times.prefill.slowest", "self._plan.prefill.parallel.pp * times.prefill.slowest", f"unit/analytic/test_disaggregation.py {CHUNKS}"),
    Mutation("workload/passes.py", "kv_len - (computed - new) / 2.0", "kv_len", CHUNKS),
    Mutation("workload/patterns.py", "maximum(self._most_keys() - kv_len, 0.0) if self.projected", "self._most_keys() if self.projected", KEYS),
    Mutation("workload/patterns.py", "ramp * prefix + ramp * (ramp + 1) / 2 + (q_len - ramp) * width", "ramp * prefix + ramp * ramp / 2 + (q_len - ramp) * width", KEYS),
    Mutation("workload/recurrences.py", "chunk * (q + v) + 2 * q * v + delta_rule", "chunk * (q + v) + q * v + delta_rule", "unit/workload/test_recurrences.py"),
    Mutation("workload/optimizer.py", "count * (stored + read), kind=\"cast\"", "count * stored, kind=\"cast\"", "unit/analytic/test_training.py"),
    Mutation("workload/plans.py", "kept = kept * self.acceptance", "kept = self.acceptance", "unit/analytic/test_speculative.py"),
    Mutation("workload/context.py", "maximum(value / degree, 1.0)", "value / degree", "unit/analytic/test_sharding.py unit/workload/test_layers.py unit/workload/test_counting.py"),
    Mutation("workload/order_statistics.py", "(count - 0.375) / (count + 0.25)", "count / (count + 1.0)", "unit/workload/test_order_statistics.py"),
    Mutation("event/engine.py", "1 - share + share * nominal / free", "nominal / free", ENGINE),
    Mutation("event/engine.py", "speed /= self._graph.moe_comm_slowdown", "speed /= 1.0", ENGINE),
    Mutation("event/goodput.py", "            if gap < restart:\n                continue\n", "", "unit/event/test_scenario.py"),
)  # fmt: skip


def main(numbers: Sequence[str]) -> int:
    """Print which mutations no test notices, and the share that one does."""
    chosen = [int(each) for each in numbers] or list(range(len(MUTATIONS)))
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        for number in chosen:
            began = time.perf_counter()
            killed = _is_killed(copy, MUTATIONS[number])
            if not killed:
                missed.append(number)
            told = "killed" if killed else "SURVIVED"
            print(f"{number:2} {MUTATIONS[number].module}: {told} in {time.perf_counter() - began:.0f} s", flush=True)
    print(f"{len(chosen) - len(missed)} of {len(chosen)} killed; survived: {missed}")
    return int(bool(missed))


def _is_killed(copy: Path, mutation: Mutation) -> bool:
    """Tell whether a test fails with a mutation. Raises ValueError where the formula is not there exactly once."""
    path = copy / "costmodel" / mutation.module
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.module} has {text.count(mutation.old)} of {mutation.old!r}, not one")
    stamp = time.time() + 10.0 * len(mutation.old)  # compiled files are told apart by time
    try:
        path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
        os.utime(path, (stamp, stamp))
        process = multiprocessing.get_context("spawn").Process(target=_tested, args=(str(copy), mutation.tests))
        process.start()
        process.join()
        return process.exitcode != 0
    finally:
        path.write_text(text, encoding="utf-8")
        os.utime(path, (stamp - 5.0, stamp - 5.0))


def _tested(copy: str, tests: str) -> None:
    """Exit with one where a test fails in a copy of the checkout."""
    os.chdir(copy)
    sys.path[:] = [copy, *(each for each in sys.path if Path(each or ".").resolve() != ROOT)]
    os.environ["PYTHONPATH"] = copy
    import pytest

    arguments = ["-q", "-x", "-n", "0", "-p", "no:cacheprovider", *(f"tests/{each}" for each in tests.split())]
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        code = int(pytest.main(arguments))
    if code not in (0, 1):
        sys.stderr.write(f"{tests}: pytest ended with {code}\n")
    sys.exit(code == 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
