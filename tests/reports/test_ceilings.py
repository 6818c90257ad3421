"""No change of the lever list saves more than its ceiling, on random workloads and clusters."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest

from benchmarks.what_ifs import beyond, main, pairs
from costmodel.schema.what_if import load_what_if
from costmodel.study.what_if import LEVERS


def test_no_lever_saves_more_than_its_ceiling(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """Random workloads on random clusters; a thousand by `python -m benchmarks.what_ifs`."""
    wanted = 100 if request.config.getoption("--long") else 8
    pick, had = random.Random(11), 0
    listed = [one for one in load_what_if(LEVERS).file.alternatives if one.set or one.scale]
    for document in pairs(100 * wanted, 12):
        found, keeps = beyond(document, pick.choice(listed), tmp_path)
        assert keeps, (found, document)
        had += found is not None
        if found is not None:
            assert found.ceiling is not None
            assert math.isfinite(found.ceiling)
        if had == wanted:
            break
    assert had == wanted


def test_the_program_counts_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--pairs", "2", "--seed", "3"]) == 0
    assert capsys.readouterr().out == "2 pairs, 0 beyond the ceiling\n"
