"""What programs of fits share: measured rows by implementation, their command lines, the text of a calibration file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np

from costmodel.calibration.fit_files import read
from costmodel.cost.calibration import Calibration
from costmodel.fitting.run_plan import PLAN, samples_of
from costmodel.fitting.samples import RowMask, Samples
from costmodel.measurements.module_rows import MODULES
from costmodel.measurements.raw_tables import read_raw_table
from costmodel.measurements.row_group import Catalogue, OperatorRows
from costmodel.measurements.row_mapping import map_rows
from costmodel.measurements.screening import context
from costmodel.measurements.tables import Table, join, read_tables
from costmodel.records import ValueRecord
from costmodel.schema.files import list_names
from costmodel.schema.fit_plan import FitPlanFile, ImplementationFile
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole

CITE = "measured kernel times of public repositories, as listed in sources.csv beside the tables"


KIND = "devices/"  # before the name of a device in a plan


def rows_of(file: ImplementationFile, table: Table) -> RowMask:
    """Return the rows of an implementation: device by name or alias is checked by the mapping. Tier primary."""
    mask = ~context(table)
    for column, wanted in (("framework", file.frameworks), ("kernel", file.kernels), ("timing", file.timings)):
        if wanted:
            mask &= np.isin(table.text(column).astype(str), wanted)
    if file.without_head_dims:
        mask &= ~np.isin(table.number("head_dim"), np.array(file.without_head_dims, dtype=np.float64))
    if file.without_sub_ops:
        mask &= ~np.isin(table.text("sub_op").astype(str), file.without_sub_ops)
    return mask


class Measured:
    """Measured rows, and the plan that says which are of which implementation.

    path: folders that are searched first for files.
    repository: of each row's `meta_id`.
    """

    def __init__(
        self, table: Table, plan: FitPlanFile, path: Sequence[Path] = (), repository: dict[str, str] | None = None
    ) -> None:
        self.table, self.plan, self.path, self.repository = table, plan, path, repository or {}
        self.catalogue = Catalogue(path)

    @classmethod
    def read(cls, paths: Path | Sequence[Path], every: int = 1, path: Sequence[Path] = (), plan: str = PLAN) -> Self:
        """Return every so many-th row of some tables, or folders of them."""
        folders = [paths] if isinstance(paths, Path) else paths
        table = join([read_tables(each) for each in folders])
        table = table.take(~np.isin(table.text("op").astype(str), MODULES))  # their sums are tested, and fit nothing
        table = table.take(np.arange(len(table)) % every == 0)
        repository = {meta: name for each in folders for meta, name in repositories(each).items()}
        return cls(table, read(Library(path), "fit_plans", plan, FitPlanFile), path, repository)

    @cached_property
    def devices(self) -> dict[str, str | None]:
        """Return the device of each name in the tables, null where no file has it."""
        return {name: self.catalogue.known(name) for name in np.unique(self.table.text("device").astype(str))}

    @cached_property
    def planned(self) -> list[str]:
        """Return the devices of the plan."""
        return list(dict.fromkeys(map(device_of, self.plan.implementations)))

    def of_architectures(self, names: str) -> frozenset[str]:
        """Return the devices of architectures, whose names have commas between them."""
        wanted, known = names.split(","), self.catalogue
        return frozenset(each for each in list_names("devices") if known.device(each).architecture in wanted)

    def is_of(self, device: str) -> RowMask:
        """Return a mask of the rows of a device."""
        own = [name for name, known in self.devices.items() if known == device]
        mask: RowMask = np.isin(self.table.text("device").astype(str), own)
        return mask

    def rows(self, file: ImplementationFile, device: str = "") -> Table:
        """Return the rows of an implementation. device: on which they were measured, blank: its own."""
        own = self.table.take(self.is_of(device or device_of(file)))
        return own.take(rows_of(file, own))

    def parts(self, file: ImplementationFile) -> tuple[Table, list[OperatorRows]]:
        """Return the rows of an implementation and their operators."""
        rows = self.rows(file)
        return rows, list(map_rows(rows, self.catalogue)[0])

    def samples(self, file: ImplementationFile, known: Calibration, device: str = "") -> Iterator[tuple[str, Samples]]:
        """Yield the rows of each family of an implementation that has any. known: times their other kernels."""
        rows = self.rows(file, device)
        mapped, _ = map_rows(rows, self.catalogue)
        for key, recipe in file.families.items():
            samples = samples_of(key, rows, mapped, self.plan.recipes[recipe], known)
            if samples is not None:
                yield key, samples

    @property
    def rests_on(self) -> list[str]:
        """Return the repositories of all rows."""
        return origins(self.table, self.repository)


def device_of(file: ImplementationFile) -> str:
    """Return the device of an implementation."""
    return file.device[len(KIND) :]


def options(name: str, main: Callable[..., object], output: str = "", **defaults: Any) -> argparse.ArgumentParser:
    """Return the command line of a program: measurement tables, and what it is asked for.

    output: what it writes, blank: nothing.
    defaults: of further options, whose meaning is in `_MEANINGS`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m reports.{name}", description=main.__doc__)
    parser.add_argument("measurements", type=Path, nargs="+", help="measurement tables, or folders of them")
    if output:
        parser.add_argument("--output", type=Path, required=True, help=f"{output} to write")
    for key, default in defaults.items():
        if isinstance(default, list):
            parser.add_argument(f"--{key}", type=Path, action="append", default=default, help=_MEANINGS[key])
        elif isinstance(default, bool):
            parser.add_argument(f"--{key.replace('_', '-')}", action="store_true", help=_MEANINGS[key])
        else:
            parser.add_argument(f"--{key}", type=type(default), default=default, help=_MEANINGS[key])
    return parser


_MEANINGS = {
    "each": "families of a device and operator",
    "every": "take every so many-th row of the tables",
    "generation": "what a device of an architecture without fits adds to what others lend it",
    "most": "families in all",
    "only": "implementations or devices whose name contains one of these, by comma",
    "path": "folder to search first; repeatable",
    "plan": "fit plan, by name",
    "shapes": "what unmeasured groups and sizes add, too",
    "table": "page to write",
    "without": "architectures whose devices are left out, by comma",
}


def publish(path: Path, text: str) -> None:
    """Write a file and print it."""
    write_whole(path, [text.encode()])
    sys.stdout.write(text)


class Origin(ValueRecord):
    """What values are from.

    note: lines on how they were made.
    rests_on: repositories of their rows, none: not written.
    """

    note: Sequence[str]
    kind: str = "measurement"
    rests_on: Sequence[str] = ()
    cite: str = CITE

    def lines(self, fields: str) -> list[str]:
        """Return the lines of the source of some fields of a file."""
        return [
            "sources:", f"  - fields: [{fields}]", f'    cite: "{self.cite}"', f"    kind: {self.kind}",
            *([f"    rests_on: [{', '.join(self.rests_on)}]"] if self.rests_on else []),
            "    note: >-", *(f"      {line}" for line in self.note),
        ]  # fmt: skip


def calibration(
    name: str, families: Sequence[str], origin: Origin, *, basis: str = "fitted", comment: str = ""
) -> str:  # fmt: skip
    """Return the text of a calibration file of no device in particular; the same rows give the same bytes.

    families: its lines.
    comment: behind `families:`.
    """
    head = f"families:{' ' * 40}# {comment}" if comment else "families:"
    lines = ["schema: costmodel/calibration@1", f"name: {name}", "device: null", f"basis: {basis}", head, *families]
    return "\n".join([*lines, *origin.lines("families")]) + "\n"


# ---- Where measured rows come from: the public repository of each, as the files next to the tables say ---------------


def repositories(measurements: Path) -> dict[str, str]:
    """Return meta_id -> repository as `owner/name`, from `meta.csv` and `sources.csv` in a folder of tables.

    Nothing where the folder has neither.
    """
    meta, sources = measurements / "meta.csv", measurements / "sources.csv"
    if not (meta.is_file() and sources.is_file()):
        return {}
    of_source = _columns(sources, "source_id", "repo")
    return {name: of_source[source] for name, source in _columns(meta, "meta_id", "source_id").items()}


def origins(rows: Table, known: Mapping[str, str]) -> list[str]:
    """Return what some rows are from, sorted: repositories, and for a row without one its table's name.

    known: as `repositories` gives it.
    """
    pairs = {(str(meta), str(file)) for meta, file in zip(rows.text("meta_id"), rows.files, strict=True)}
    return sorted({known.get(meta, Path(file).stem) for meta, file in pairs})


def _columns(path: Path, key: str, value: str) -> dict[str, str]:
    sheet = read_raw_table(path)
    for name in (key, value):
        if name not in sheet.columns:
            raise sheet.error("the column is missing", field=name, hint=f"add it: every {key} has one")
    return dict(
        zip(*(np.char.strip(np.array(sheet.column(name), dtype=str)).tolist() for name in (key, value)), strict=True)
    )
