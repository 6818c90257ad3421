"""docs/api.md is what the docstrings of today say."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

from reports.api import page

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


def test_the_page_of_the_python_interface_is_of_today() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m reports.api docs/api.md`"


def test_every_method_of_a_workload_is_on_the_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for name in ("load", "simulate", "evaluate", "sweep", "search", "sensitivity", "explain", "what_if", "to_xarray"):
        assert f"{name}(" in text


def test_help_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["reports.api", "--help"])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module("reports.api", run_name="__main__", alter_sys=True)
    assert not list(tmp_path.iterdir())
