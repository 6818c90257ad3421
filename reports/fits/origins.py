"""Where measured rows come from: the public repository of each, as the files next to the tables say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from costmodel.measurements.raw_tables import read_raw_table
from costmodel.measurements.tables import Table


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
