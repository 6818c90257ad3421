"""How far two sources differ that timed the same shapes on one device: `hardware/calibrations/sources.yaml`.

python -m reports.fits.source_agreement MEASUREMENTS --output hardware/calibrations/sources.yaml
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from costmodel.calibration.row_times import variant_of
from costmodel.measurements.exclusions import screen
from costmodel.measurements.row_group import Catalogue, OperatorRows
from costmodel.measurements.tables import NUMBERS, Table, Texts
from costmodel.quantities import Array, Indices
from costmodel.schema.fit_plan import FitPlanFile
from reports.fits.measured import KIND, Measured, Origin, calibration, options, publish, rows_of

SAME, OTHER = "same", "other"  # whether both sources run kernels of one library
POINT = 0.8  # of the absolute logarithms of the ratios, each pair of sources with the same weight
FEWEST = 20  # shapes that two sources share
_WORDS = ("sub_op", "distribution")
_COMMAND = "python -m reports.fits.source_agreement MEASUREMENTS --output hardware/calibrations/sources.yaml"

Pair = tuple[str, str]  # names of two implementations of one device


def ratios(table: Table, plan: FitPlanFile, catalogue: Catalogue) -> dict[str, dict[Pair, Array]]:
    """Return |log| of one source's time over another's for the shapes that both timed.

    By kinship and kernels, `same/gemm/bf16`; then by the pair of implementations. A source is the rows of one
    implementation of the plan.
    """
    found = screen(table, catalogue)
    source = _sources(found.rows, found.mapped, plan)
    libraries = {file.name: file.library or file.name for file in plan.implementations}
    logs: dict[str, dict[Pair, list[float]]] = {}
    for kernels, shapes in _shapes(found.rows, found.mapped).items():
        for rows in shapes:
            by_source = {name: rows[source[rows] == name] for name in np.unique(source[rows].astype(str)) if name}
            for pair in itertools.combinations(sorted(by_source), 2):
                first, second = (float(np.median(found.rows.seconds[by_source[name]])) for name in pair)
                kin = SAME if libraries[pair[0]] == libraries[pair[1]] else OTHER
                logs.setdefault(f"{kin}/{kernels}", {}).setdefault(pair, []).append(abs(float(np.log(first / second))))
    enough = {
        key: {pair: np.array(each) for pair, each in pairs.items() if len(each) >= FEWEST}
        for key, pairs in sorted(logs.items())
    }
    return {key: pairs for key, pairs in enough.items() if pairs}


def _key(part: OperatorRows) -> str:
    """Return the `family/variant` of the kernel that rows are named after; the family where it has no variants."""
    return "/".join(filter(None, (part.family, variant_of(part))))


def _sources(rows: Table, mapped: Iterable[OperatorRows], plan: FitPlanFile) -> Texts:
    """Return the implementation of the plan that every row belongs to, the first of several; blank without one."""
    masks = {file.name: rows_of(file, rows) for file in plan.implementations}
    source = np.full(len(rows), "", dtype=np.object_)
    for part in mapped:
        for file in reversed(plan.implementations):
            if file.device[len(KIND) :] == part.device.name and not {_key(part), part.family}.isdisjoint(file.families):
                source[part.rows[masks[file.name][part.rows]]] = file.name
    return source


def _shapes(table: Table, mapped: Iterable[OperatorRows]) -> dict[str, list[Indices]]:
    """Return the rows of each shape that several rows have on one device, by `family/variant`."""
    found: dict[str, list[Indices]] = {}
    parts: dict[tuple[str, str], list[Indices]] = {}
    for part in mapped:
        parts.setdefault((part.device.name, _key(part)), []).append(part.rows)
    for (_, kernels), rows in parts.items():
        joined = np.concatenate(rows)
        words = [table.text(name)[joined].astype(str) for name in _WORDS]
        numbers = [[f"{value:g}" for value in table.number(name)[joined]] for name in NUMBERS]
        keys = np.array(["/".join(each) for each in zip(*words, *numbers, strict=True)])
        _, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
        order = np.argsort(place, kind="stable")
        found.setdefault(kernels, []).extend(
            joined[each] for each in np.split(order, np.cumsum(counts)[:-1]) if len(each) > 1
        )
    return found


def pooled(found: Mapping[str, Mapping[Pair, Array]]) -> Iterator[tuple[str, float, int, int]]:
    """Yield (name, 80 % point of the absolute logarithm, rows, pairs) of kernels, of their family, and of all."""
    names = {key: {"/".join(key.split("/")[:length]) for length in (1, 2, 3)} for key in found}
    for name in sorted({each for three in names.values() for each in three}):
        pairs = [logs for key, three in names.items() if name in three for logs in found[key].values()]
        values, weights = np.concatenate(pairs), np.concatenate([np.full(len(logs), 1.0 / len(logs)) for logs in pairs])
        order = np.argsort(values, kind="stable")
        reached = np.cumsum(weights[order]) - weights[order] / 2.0
        yield name, float(np.interp(POINT * weights.sum(), reached, values[order])), len(values), len(pairs)


def render(found: Mapping[str, Mapping[Pair, Array]]) -> str:
    """Return the text of the calibration file; the same rows give the same bytes."""
    lines: list[str] = []
    for key, reach, rows, pairs in pooled(found):
        low, high = (float(f"{np.exp(side * reach):.3g}") for side in (-1.0, 1.0))
        weight = ", each with the same weight" if pairs > 1 else ""
        lines += [
            f"  {key}:", f"    spread: [{{time: 1 s, low: {low:g}, median: 1, high: {high:g}, rows: {rows}}}]",
            f"    rows: {rows}",
            f'    note: "{"One pair" if pairs == 1 else f"{pairs} pairs"} of sources{weight}."',
        ]  # fmt: skip
    note = (
        "80 % points of the absolute logarithm of the ratio; `same`: kernels of one library, `other`: of two.",
        f"Made by `{_COMMAND}`.",
    )  # fmt: skip
    return calibration(
        "sources", lines, Origin(note), comment="one source's times over another's, same shapes and device"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the sources of measurement tables; write the calibration file."""
    chosen = options("fits.source_agreement", main, "calibration file").parse_args(arguments)
    measured = Measured.read(chosen.measurements)
    publish(chosen.output, render(ratios(measured.table, measured.plan, measured.catalogue)))


if __name__ == "__main__":
    main()
