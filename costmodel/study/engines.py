"""Both engines side by side on the shipped workloads, and why they differ where they do.

python -m costmodel.study.engines --output reports/engines.md
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from costmodel.api import load
from costmodel.result import Point
from costmodel.schema.whole_files import write_whole
from costmodel.workload.scenario import Decode, Prefill, Training

WORKLOADS = (
    "deepseek_v3", "deepseek_v2", "gpt3_175b_a100", "llama2_70b_a100", "llama3_8b_rtx4090", "mixtral_8x7b_h100",
)  # fmt: skip
FABRICS = ("h800-2048-mpft", "h800-2048-mrft")
WORTH_WORDS = 0.02  # a difference of more than this is explained


@dataclass(frozen=True, slots=True)
class Difference:
    """One scenario on both engines [s]."""

    workload: str
    scenario: str
    cluster: str
    metric: str
    closed: float
    event: float

    @property
    def relative(self) -> float:
        """Return the event engine's time over the closed form's, less one."""
        return self.event / self.closed - 1

    @property
    def reason(self) -> str:
        """Return what a difference that is worth words comes from: overlap is all that the engines compute apart."""
        if abs(self.relative) <= WORTH_WORDS:
            return ""
        longer = "streams wait for exchanges that the closed form counts as hidden"
        shorter = "kernels meet fewer exchanges than the closed form counts"
        return longer if self.relative > 0 else shorter


def differences() -> Iterator[Difference]:
    """Yield both engines' times of every shipped training, prefill and decode scenario that can run."""
    for name in WORKLOADS:
        yield from _of(name, None)
    for fabric in FABRICS[1:]:
        yield from _of(WORKLOADS[0], f"clusters/{fabric}")


def _of(name: str, cluster: str | None) -> Iterator[Difference]:
    workload = load(name, cluster=cluster)
    for scenario in workload.scenarios:
        plan = workload.scenario(scenario).plan
        if not isinstance(plan, Training | Prefill | Decode) or (cluster and not isinstance(plan, Training)):
            continue
        closed = workload.points([scenario])[scenario]
        event = workload.points([scenario], "event")[scenario]
        if closed.fits and event.fits:
            times = (_headline(closed), _headline(event))
            yield Difference(name, scenario, closed.cluster, closed.headline, *times)


def _headline(point: Point) -> float:
    value = point.metrics[point.headline]
    assert value is not None, "a scenario that runs has a time"
    return value


def markdown(rows: Sequence[Difference]) -> str:
    """Return the comparison as a Markdown page."""
    lines = [
        "# The event engine beside the closed form",
        "",
        "The same operators and times, without jitter, contention or shared processors.",
        f"Differences of more than {WORTH_WORDS:.0%} are explained.",
        "",
        "| workload | scenario | cluster | metric | closed form | event engine | difference | why |",
        "|---|---|---|---|---:|---:|---:|---|",
    ]
    lines += [
        f"| {row.workload} | {row.scenario} | {row.cluster} | `{row.metric}` | {1e3 * row.closed:,.2f} ms "
        f"| {1e3 * row.event:,.2f} ms | {round(row.relative, 6) + 0.0:+.2%} | {row.reason} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the comparison as a Markdown page, and print it."""
    parser = argparse.ArgumentParser(prog="python -m costmodel.study.engines", description=main.__doc__)
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    chosen = parser.parse_args(arguments)
    page = markdown(list(differences()))
    again = f"\nRegenerate: `python -m costmodel.study.engines --output {chosen.output}`\n"
    write_whole(chosen.output, [(page + again).encode()])
    sys.stdout.write(page)


if __name__ == "__main__":
    main()
