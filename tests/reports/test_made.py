"""No page is older than its numbers, and no figure older than its table."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from costmodel.report.plots.plot import table
from costmodel.report.style import canvas, figure_bytes, styled
from reports.__main__ import PAGES, ROOT, data_of, stale

FIGURES = sorted(each for each in (ROOT / "reports").rglob("*") if each.suffix in (".png", ".svg"))


def test_no_page_is_older_than_todays_predictions() -> None:
    assert stale() == [], "make them anew: python -m reports --stale"


def test_figures_show_the_tables_beside_them() -> None:
    checked = 0
    for figure in FIGURES:
        for name, digest in data_of(figure):
            found = sha256((figure.parent / name).read_bytes()).hexdigest()
            assert found.startswith(digest), f"{figure.relative_to(ROOT)} is older than {name}: python -m reports"
            checked += 1
    assert checked > 20
    assert set(PAGES) >= {"validation", "front"}


@pytest.mark.parametrize("form", ["png", "svg"])
def test_a_figure_carries_a_digest_of_its_table(tmp_path: Path, form: str) -> None:
    data = table(("a", "b"), [(1, 2.0)])
    with styled():
        figure, _ = canvas(1.0)
        (tmp_path / f"a.{form}").write_bytes(figure_bytes(figure, form, {"a.csv": data}))  # type: ignore[arg-type]
    assert list(data_of(tmp_path / f"a.{form}")) == [("a.csv", sha256(data).hexdigest()[:12])]
