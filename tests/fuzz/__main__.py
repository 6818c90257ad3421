"""Run mutations of every shipped file, or of other inputs and flags, and list what becomes of them.

PYTHONPATH=tests python -m fuzz --count 2000 --first 0 --output FILE.json
PYTHONPATH=tests python -m fuzz --slips      each quantity in wrong units: how many change an answer without a word
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path

from fuzz.accepted import reason
from fuzz.inputs import inputs, mutate_input
from fuzz.mutations import files, mutate
from fuzz.outcomes import ACCEPTED, BAD, WARNED, Outcome, good_files, judge, judge_input, record, warm
from fuzz.slips import KINDS_OF_FILES, NO_ANSWER, SILENT, cases, judge_slip


def main() -> int:
    """Run the mutations; print counts by outcome and what is bad; return 1 where something is."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=main.__doc__)
    parser.add_argument("--count", type=int, default=2000, help="mutations, spread over all files")
    parser.add_argument("--first", type=int, default=0, help="seed of the first round over the files")
    parser.add_argument("--minutes", type=float, default=10.0, help="no more than these")
    parser.add_argument("--only", default="", help="files whose path has this part")
    parser.add_argument("--inputs", action="store_true", help="traces, tables, results and flags instead of YAML files")
    parser.add_argument("--output", type=Path, help="JSON file with every outcome")
    parser.add_argument("--accepted", action="store_true", help="list what is accepted by reason, with examples")
    parser.add_argument("--slips", action="store_true", help="units mistaken for others, of each quantity, by kind")
    chosen = parser.parse_args()
    if chosen.slips:
        return slips(chosen.only, chosen.first)
    names = [name for name in (inputs() if chosen.inputs else files()) if chosen.only in name]
    warm()
    outcomes, ends = [], time.monotonic() + 60.0 * chosen.minutes
    for number in range(chosen.count):
        if time.monotonic() > ends:
            break
        name, seed = names[number % len(names)], chosen.first + number // len(names)
        folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        if chosen.inputs:
            outcome = judge_input(mutate_input(name, seed, good_files()), folder)
        else:
            outcome = judge(mutate(name, seed), folder)
        outcomes.append(outcome)
        if outcome.kind in BAD:
            sys.stdout.write(
                f"{outcome.kind}: {outcome.file} {outcome.seed} {outcome.change} at {outcome.place}: {outcome.told}\n"
            )
            sys.stdout.flush()
    counts = Counter(outcome.kind for outcome in outcomes)
    sys.stdout.write(
        f"{len(outcomes)} mutations: " + ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) + "\n"
    )
    if chosen.inputs:
        for name, of_class in itertools.groupby(sorted(outcomes, key=lambda each: each.file), lambda each: each.file):
            count = Counter(each.kind for each in of_class)
            sys.stdout.write(f"{name:12} " + ", ".join(f"{number} {kind}" for kind, number in count.items()) + "\n")
    elif chosen.accepted:
        sys.stdout.write(accepted_lines(outcomes))
    if chosen.output is not None:
        chosen.output.write_text(json.dumps([record(outcome) for outcome in outcomes], indent=1), encoding="utf-8")
    return int(any(counts[kind] for kind in BAD))


def slips(only: str, seed: int) -> int:
    """Print what becomes of slips of units by kind of file, and which are silent. Return 1 where one is."""
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="slips-") as folder:
        for kind in (each for each in KINDS_OF_FILES if only in each):
            counts: Counter[str] = Counter()
            for case in cases(kind, seed):
                outcome, told = judge_slip(case, Path(folder))
                counts[outcome] += 1
                if outcome in (SILENT, NO_ANSWER):
                    sys.stdout.write(f"  {outcome}: {case.place}: {case.slip}: {told}\n")
            line = ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
            sys.stdout.write(f"{kind}: {counts.total()} slips: {line}\n")
            sys.stdout.flush()
            total += counts
    sys.stdout.write(
        f"all: {total.total()} slips: " + ", ".join(f"{n} {kind}" for kind, n in sorted(total.items())) + "\n"
    )
    return int(total[SILENT] > 0)


def accepted_lines(outcomes: list[Outcome]) -> str:
    """Return what is accepted, by reason: how often, and where, three places each."""
    places: dict[str, list[str]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.kind in (ACCEPTED, WARNED):
            why = reason(mutate(outcome.file, outcome.seed))
            places[why].append(f"{outcome.file}: {outcome.change} {outcome.place}".strip())
    lines = []
    for why in sorted(places, key=lambda each: -len(places[each])):
        shown = places[why][:: max(len(places[why]) // 3, 1)][:3]
        lines.append(f"{len(places[why]):5} {why}\n" + "".join(f"        {place}\n" for place in shown))
    return "".join(lines)


if __name__ == "__main__":
    sys.exit(main())
