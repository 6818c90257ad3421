"""Which rows of a table are an implementation's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from costmodel.measurements.raw_tables import RawTable
from costmodel.measurements.tables import Table, table_of
from costmodel.schema.fit_plan import ImplementationFile
from reports.fits.measured import rows_of


@pytest.fixture
def table() -> Table:
    """Return prompts of heads of 64, 72 and 128, the last by another kernel."""
    columns = {
        "device": ["H800_SXM"] * 3, "op": ["attention_prefill"] * 3, "dtype_in": ["bf16"] * 3, "time_us": ["10"] * 3,
        "head_dim": ["64", "72", "128"], "kernel": ["flash", "flash", "triton"], "sub_op": ["", "encoder", ""],
    }  # fmt: skip
    return table_of(RawTable(Path("rows.csv"), columns, range(1, 4)))


def implementation(**stated: object) -> ImplementationFile:
    given = {"name": "h800-sxm/x", "library": "x", "device": "devices/h800-sxm", "families": {"attention_prefill": "r"}}
    return ImplementationFile.model_validate(given | stated)


def test_rows_are_chosen_by_kernel(table: Table) -> None:
    assert rows_of(implementation(), table).tolist() == [True, True, True]
    assert rows_of(implementation(kernels=["flash"]), table).tolist() == [True, True, False]


def test_heads_that_another_kernel_runs_are_left_out(table: Table) -> None:
    chosen = rows_of(implementation(kernels=["flash"], without_head_dims=[72]), table)
    assert np.flatnonzero(chosen).tolist() == [0]


def test_kinds_of_rows_that_another_kernel_runs_are_left_out(table: Table) -> None:
    assert rows_of(implementation(without_sub_ops=["encoder"]), table).tolist() == [True, False, True]
