"""The changes of formulas that `python -m benchmarks.mutations` makes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.mutations import ROOT, mutated, mutations


def test_every_change_finds_its_line_once_and_its_tests() -> None:
    for number, one in enumerate(mutations()):
        text = (ROOT / "costmodel" / one.module).read_text(encoding="utf-8")
        assert mutated(text, one) != text, (number, one.module, one.old)
        assert all(Path(ROOT, "tests", name).is_file() for name in one.tests.split()), (number, one.tests)
