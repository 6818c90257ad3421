"""The README's tables are those that the data give."""

from __future__ import annotations

from pathlib import Path

import pytest

from costmodel.errors import InputError
from costmodel.study.published.accuracy import by_class
from costmodel.study.published.provenance import IN_SAMPLE
from reports.front.__main__ import read_validation, rows_of, tables, with_tables

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_of_the_readme_are_those_of_the_data() -> None:
    made = tables(read_validation(ROOT / "reports" / "validation"))
    assert with_tables(README, made) == README, "run `python -m reports.front` as the README's end says"


def test_every_compared_figure_is_in_the_figure() -> None:
    figures = read_validation(ROOT / "reports" / "validation")
    assert sum(len(row.errors) for row in rows_of(figures)) == len(figures)


def test_in_sample_values_stand_apart_from_the_accuracy_of_their_class() -> None:
    figures = read_validation(ROOT / "reports" / "validation")
    apart = {one.publication for one in figures if one.state == IN_SAMPLE}
    assert {"deepep", "insights_deepseek_v3"} <= apart
    counted = sum(one.errors.figures for one in by_class(figures))
    assert counted == sum(one.state != IN_SAMPLE for one in figures)


def test_a_folder_without_the_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"reports\.validation"):
        read_validation(tmp_path)


def test_a_readme_without_marks_is_an_error() -> None:
    with pytest.raises(InputError, match="accuracy"):
        with_tables("# nothing", {"accuracy": "| |"})
