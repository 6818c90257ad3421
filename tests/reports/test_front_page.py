"""The README's tables are those that the data give."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from costmodel.errors import InputError
from reports.front.__main__ import CATALOGUE, COLOURS, Step, catalogue, finding, read_validation, tables, with_tables

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_of_the_readme_are_those_of_the_data() -> None:
    made = tables(read_validation(ROOT / "reports" / "validation"))
    assert with_tables(README, made) == README, "run `python -m reports front`"


def test_the_catalogue_is_that_of_the_data() -> None:
    page = (ROOT / CATALOGUE).read_text(encoding="utf-8")
    assert with_tables(page, catalogue()) == page, "run `python -m reports front`"


def test_the_picture_says_what_its_bars_show() -> None:
    bars = list(csv.DictReader((ROOT / "reports" / "front" / "hero.csv").read_text(encoding="utf-8").splitlines()))
    for bar in bars:
        parts = [float(bar[name]) for name in COLOURS]
        assert min(parts) >= 0.0
        assert sum(parts) == pytest.approx(float(bar["step_time"]), rel=0.01)
        assert float(bar["low"]) < float(bar["step_time"]) < float(bar["high"])
    found = [Step(bar["device"], *(float(bar[name]) for name in ("step_time", "low", "high")), {}) for bar in bars]
    assert f"{found[0].seconds / found[2].seconds:.1f} times as fast on B200 as on H800" in finding(found)


def test_a_folder_without_the_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"reports\.validation"):
        read_validation(tmp_path)


def test_a_readme_without_marks_is_an_error() -> None:
    with pytest.raises(InputError, match="accuracy"):
        with_tables("# nothing", {"accuracy": "| |"})
