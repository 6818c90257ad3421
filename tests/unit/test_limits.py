"""No reader of files takes what is far above any real file into memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from costmodel.calibration.residual_files import read_residuals
from costmodel.errors import InputError
from costmodel.measurements.raw_tables import read_raw_table
from costmodel.schema.expert_load import lines
from costmodel.schema.results import read_result, read_study
from costmodel.study.files import STUDY, check_folder

READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "result": ("result.json", read_result),
    "study": ("study.json", read_study),
    "residuals": ("fit.json", read_residuals),
    "measurements": ("rows.csv", read_raw_table),
    "parquet": ("rows.parquet", read_raw_table),
    "routing": ("tokens.csv", lambda path: list(lines(path))),
}


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize("reader", list(READERS))
def test_a_file_that_is_far_too_large_is_refused_with_its_size(reader: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    if name.endswith(".parquet"):
        pytest.importorskip("polars")
    with pytest.raises(InputError, match=r"file too large: 10 GiB; the limit is \d+ MiB"):
        read(sparse(tmp_path / name, 10 * 2**30))


def test_a_folder_whose_study_is_far_too_large_told_as_such(tmp_path: Path) -> None:
    sparse(tmp_path / STUDY, 10 * 2**30)
    with pytest.raises(InputError, match="file too large"):
        check_folder(tmp_path, {})
