"""Run mutations of every shipped file and list what becomes of them.

PYTHONPATH=tests python -m fuzz --count 2000 --first 0 --output FILE.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from fuzz.mutations import files, mutate
from fuzz.outcomes import BAD, judge, record, warm


def main() -> int:
    """Run the mutations; print counts by outcome and what is bad; return 1 where something is."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=main.__doc__)
    parser.add_argument("--count", type=int, default=2000, help="mutations, spread over all files")
    parser.add_argument("--first", type=int, default=0, help="seed of the first round over the files")
    parser.add_argument("--minutes", type=float, default=10.0, help="no more than these")
    parser.add_argument("--only", default="", help="files whose path has this part")
    parser.add_argument("--output", type=Path, help="JSON file with every outcome")
    chosen = parser.parse_args()
    names = [name for name in files() if chosen.only in name]
    warm()
    outcomes, ends = [], time.monotonic() + 60.0 * chosen.minutes
    for number in range(chosen.count):
        if time.monotonic() > ends:
            break
        mutation = mutate(names[number % len(names)], chosen.first + number // len(names))
        outcome = judge(mutation, Path(tempfile.mkdtemp(prefix="fuzz-")))
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
    if chosen.output is not None:
        chosen.output.write_text(json.dumps([record(outcome) for outcome in outcomes], indent=1), encoding="utf-8")
    return int(any(counts[kind] for kind in BAD))


if __name__ == "__main__":
    sys.exit(main())
