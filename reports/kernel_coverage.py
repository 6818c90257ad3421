"""What 80 % intervals of kernels hold of rows that no fit and no choice has seen, by device and operator.

python -m reports.kernel_coverage MEASUREMENTS --output reports/kernel_coverage.md

Of every device and operator a family is drawn, and some of its rows, in whole groups of shapes. The family is fitted
again, lengths of bumps and widths included, without a quarter of the groups (other heads, widths, models: `unseen`) and
without a quarter of the other shapes (`within`); the rows left out are predicted with their intervals.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from costmodel.calibration.fit_files import read
from costmodel.cost.calibration import Calibration
from costmodel.errors import CostModelError
from costmodel.fitting.family_fit import fit_family
from costmodel.fitting.run_plan import FEWEST, KIND, PLAN, recipe_of, rooflines_of, rows_of, samples_of
from costmodel.fitting.samples import RowMask, Samples
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_rows
from costmodel.measurements.tables import Table, read_tables
from costmodel.records import Record
from costmodel.schema.fit_plan import FitPlanFile
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from reports.fits.nested import Candidate, LeftOut, left_out_rows, options

LEFT_OUT = 1 / 4  # of the groups, and of the shapes of the others
ENOUGH = 50  # rows of a device and operator, from which a share counts
SEED = 0
UNSEEN, WITHIN = "unseen", "within"
_COLUMNS = " | ".join(f"{name}: rows (groups) | inside | half width | mean error" for name in (UNSEEN, WITHIN))
BARS = {UNSEEN: (0.65, 0.90), WITHIN: (0.70, 0.90)}


class Held(Record):
    """Rows of one family that its fit has not seen. parts: of unseen groups, and of shapes within the others."""

    candidate: Candidate
    parts: dict[str, LeftOut]


def families(plan: FitPlanFile, table: Table, most: int, devices: Sequence[str]) -> Iterator[Candidate]:
    """Yield the families of the plan with some of their rows, in an order drawn by chance.

    most: rows of each, but for the last group. devices: of which to take, by a part of the name.
    """
    catalogue = Catalogue()
    names = {name: catalogue.name(name) for name in np.unique(table.text("device").astype(str))}
    of_row = np.array([names[name] for name in table.text("device")], dtype=np.object_)
    for at in np.random.default_rng(SEED).permutation(len(plan.implementations)).tolist():
        file = plan.implementations[at]
        if not any(part in file.device for part in devices):
            continue
        own = table.take(of_row == file.device[len(KIND) :])
        rows = own.take(rows_of(file, own))
        mapped, _ = map_rows(rows, catalogue) if len(rows) >= ENOUGH else ([], [])
        known = Calibration(file.name, rooflines_of())
        for key in np.random.default_rng([SEED, at]).permutation(list(file.families)).tolist():
            rule = plan.recipes[file.families[key]]
            found = samples_of(key, rows, mapped, rule, known)
            if found is not None and len(found) >= ENOUGH:
                yield Candidate(file, key, _fewer(found, most))


def _fewer(samples: Samples, most: int) -> Samples:
    """Return whole groups of some rows, drawn by chance; of a family of few large groups some rows of each."""
    if len(samples) <= most:
        return samples
    names, sizes = np.unique(samples.groups, return_counts=True)
    order = np.random.default_rng(SEED).permutation(len(names))
    taken = order[: max(int(np.searchsorted(np.cumsum(sizes[order]), most)) + 1, 4)]
    found = samples.take(np.isin(samples.groups, names[taken]))
    share = most / len(found)
    return found if share >= 1.0 else found.take(np.asarray(np.random.default_rng(SEED).random(len(found)) < share))


def held(one: Candidate, plan: FitPlanFile) -> Held:
    """Return what a fit to some rows of a family says of the others."""
    samples, draws = one.samples, np.random.default_rng([SEED, 1])
    names = np.unique(samples.groups)
    unseen = np.isin(samples.groups, draws.choice(names, size=round(LEFT_OUT * len(names)), replace=False))
    within: RowMask = np.asarray(draws.random(len(samples)) < LEFT_OUT) & ~unseen
    seen = samples.take(~(unseen | within))
    if len(seen) < FEWEST:
        raise ValueError("too few rows are left")
    found = fit_family(seen, recipe_of(plan.recipes[one.file.families[one.key]]))
    parts = {UNSEEN: unseen, WITHIN: within}
    return Held(
        one, {name: left_out_rows(one, found, seen, samples.take(mask)) for name, mask in parts.items() if mask.any()}
    )  # fmt: skip


def sample(plan: FitPlanFile, found: Iterator[Candidate], each: int, most: int) -> Iterator[Held]:
    """Yield what fits say of rows that they have not seen: `each` families of a device and operator, `most` in all."""
    taken: Counter[tuple[str, str]] = Counter()
    for one in found:
        if taken.total() >= most:
            return
        if taken[one.of] >= each:
            continue
        try:
            yield held(one, plan)
        except (CostModelError, ValueError, np.linalg.LinAlgError) as error:
            sys.stderr.write(f"{one.file.name} {one.key}: {error}\n")
            continue
        taken[one.of] += 1


def page(found: Sequence[Held], command: str) -> str:
    """Return the page: shares inside by device and operator, then by family."""
    lines = ["# What 80 % intervals of kernels hold of rows that no fit has seen", "", *_introduction(), ""]
    lines += [*_verdicts(found), "", "## By device and operator", ""]
    lines += [f"| device | operator | {_COLUMNS} |", f"|---|---|{'---:|' * 8}"]
    for device, operator in sorted({one.candidate.of for one in found}):
        own = [one for one in found if one.candidate.of == (device, operator)]
        cells = [_cells([one.parts[name] for one in own if name in one.parts], BARS[name]) for name in BARS]
        lines.append(f"| {device[len(KIND) :]} | {operator} | {' | '.join(cells)} |")
    lines += ["", "## By family", "", f"| fit | family | {_COLUMNS} |", f"|---|---|{'---:|' * 8}"]
    for one in sorted(found, key=lambda one: (one.candidate.file.name, one.candidate.key)):
        cells = [_cells([one.parts[name]] if name in one.parts else [], BARS[name]) for name in BARS]
        lines.append(f"| {one.candidate.file.name} | {one.candidate.key} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"Regenerate: `{command}`"]) + "\n"


def _introduction() -> Iterator[str]:
    yield "Of every device and operator of the tables a family is drawn and fitted again without a quarter of its"
    yield "groups of shapes (`unseen`: other heads, widths, models) and a quarter of the other shapes (`within`),"
    yield "all choices included. Fits here see a hundred rows or two, shipped ones up to thousands: errors and widths"
    yield "are larger than those of the shipped fits, shares inside comparable."
    yield "Rows of one group err together: of few groups a share inside is that of few draws."
    yield f"Outside the bars, of {ENOUGH} rows and more: marked `*`."


def _verdicts(found: Sequence[Held]) -> Iterator[str]:
    """Yield how many devices and operators of enough rows are inside the bar, and the shares of all rows."""
    for name, (low, high) in BARS.items():
        by_pair: dict[tuple[str, str], list[RowMask]] = {}
        for one in found:
            if name in one.parts:
                by_pair.setdefault(one.candidate.of, []).append(one.parts[name].inside)
        inside = [np.concatenate(parts) for parts in by_pair.values()]
        shares = np.array([part.mean() for part in inside if len(part) >= ENOUGH])
        yield (
            f"* {name}: {np.concatenate(inside).mean():.0%} of {sum(map(len, inside))} rows; of {len(shares)} devices "
            f"and operators with {ENOUGH} rows and more {int(((shares >= low) & (shares <= high)).sum())} lie between "
            f"{low:.0%} and {high:.0%}, {int((shares < low).sum())} below, {int((shares > high).sum())} above."
        )


def _cells(parts: Sequence[LeftOut], bar: tuple[float, float]) -> str:
    """Return rows and their groups, share inside, median half width and mean error of some rows."""
    if not parts:
        return " | ".join([""] * 4)
    inside = np.concatenate([part.inside for part in parts])
    half, errors = (np.concatenate([getattr(part, name) for part in parts]) for name in ("half", "errors"))
    share = float(inside.mean())
    missed = len(inside) >= ENOUGH and not bar[0] <= share <= bar[1]
    rows = f"{len(inside)} ({sum(part.groups for part in parts)})"
    return f"{rows} | {share:.0%}{'*' if missed else ''} | {np.median(half):.1%} | {np.abs(errors).mean():.1%}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit families without some of their rows; write what intervals hold of these, by device and operator."""
    parser = options("python -m reports.kernel_coverage", main.__doc__)
    parser.add_argument("--rows", type=int, default=300, help="rows of a family")
    chosen = parser.parse_args(arguments)
    plan = read(Library(()), "fit_plans", PLAN, FitPlanFile)
    asked = "".join(f" --{name} {value}" for name, value, usual in (
        ("each", chosen.each, 1), ("most", chosen.most, 1000), ("rows", chosen.rows, 300), ("only", chosen.only, ""),
    ) if value != usual)  # fmt: skip
    command = f"python -m reports.kernel_coverage MEASUREMENTS --output {chosen.output.as_posix()}{asked}"
    found: list[Held] = []
    drawn = families(plan, read_tables(chosen.measurements), chosen.rows, chosen.only.split(","))
    for one in sample(plan, drawn, chosen.each, chosen.most):
        found.append(one)
        told = ", ".join(f"{name} {part.inside.mean():.0%} of {len(part.inside)}" for name, part in one.parts.items())
        sys.stdout.write(f"{one.candidate.file.name} {one.candidate.key}: {told}\n")
        sys.stdout.flush()
        write_whole(chosen.output, [page(found, command).encode()])


if __name__ == "__main__":
    main()
