"""No page is older than its numbers, and no figure older than its table."""

from __future__ import annotations

import csv
import html
import re
import struct
from hashlib import sha256
from pathlib import Path

import pytest

from costmodel.report.style import canvas, figure_bytes, styled, table
from reports.__main__ import PAGES, ROOT, data_of, stale
from reports.tour import HOWTO, IMAGE
from reports.tour import TOUR as PAGES_OF_TOUR

TITLE = re.compile(r'<text style="font-weight: 700; font-size: 16px[^>]*>([^<]*)</text>')
FIGURES = sorted(each for each in (ROOT / "reports").rglob("*") if each.suffix in (".png", ".svg"))
TOUR = sorted((ROOT / "docs" / "howto" / "figures").rglob("*.svg"))


def title_of(figure: Path) -> str:
    """Return what an SVG says above its plot."""
    return html.unescape(" ".join(TITLE.findall(figure.read_text(encoding="utf-8"))))


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def test_no_page_is_older_than_todays_predictions() -> None:
    assert stale() == [], "make them anew: python -m reports --stale"


def test_figures_show_the_tables_beside_them() -> None:
    checked = 0
    for figure in (*FIGURES, *TOUR):
        for name, digest in data_of(figure):
            found = sha256((figure.parent / name).read_bytes()).hexdigest()
            assert found.startswith(digest), f"{figure.relative_to(ROOT)} is older than {name}: python -m reports"
            checked += 1
    assert checked > 20
    assert set(PAGES) >= {"validation", "front"}


def test_every_page_of_the_tour_shows_one_small_figure_with_its_table() -> None:
    pages = {page: (HOWTO / f"{page}.md").read_text(encoding="utf-8") for page in PAGES_OF_TOUR}
    shown = [HOWTO / name for text in pages.values() for name in IMAGE.findall(text)]
    assert sorted(shown) == TOUR
    assert [figure.parent.name for figure in shown] == list(pages)
    for figure in shown:
        assert figure.stat().st_size < 60_000
        assert len(list(data_of(figure))) == 1


def test_figures_are_slides_with_a_finding_above_them() -> None:
    for figure in FIGURES:
        if figure.suffix == ".png":
            assert struct.unpack(">II", figure.read_bytes()[16:24]) == (1600, 900), figure
        else:
            assert len(title_of(figure)) > 20, figure
            assert figure.with_suffix(".png").exists(), figure


def test_titles_say_what_their_tables_hold() -> None:
    folder = ROOT / "reports" / "devices"
    title, rows = title_of(folder / "deepseek_v3.svg"), rows_of(folder / "deepseek_v3.csv")
    assert all(float(row["low"]) <= float(row["value"]) <= float(row["high"]) for row in rows)
    for name in ("training", "decode"):
        rates = {row["bar"]: float(row["value"]) for row in rows if row["axis"].startswith(name)}
        device, rate = re.findall(rf"([\w-]+) in {name}, ([\d,]+) tokens/s", title)[0]
        assert f"{rates[device]:,.0f}" == rate


@pytest.mark.parametrize("form", ["png", "svg"])
def test_a_figure_carries_a_digest_of_its_table(tmp_path: Path, form: str) -> None:
    data = table(("a", "b"), [(1, 2.0)])
    with styled():
        figure, _ = canvas("a finding")
        (tmp_path / f"a.{form}").write_bytes(figure_bytes(figure, form, {"a.csv": data}))  # type: ignore[arg-type]
    assert list(data_of(tmp_path / f"a.{form}")) == [("a.csv", sha256(data).hexdigest()[:12])]
