"""Pages of docs/decisions have one shape, stay short and few, and every mention leads to one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "decisions"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("[0-9]*.md"))}
INDEX, EARLIER = (FOLDER / "README.md").read_text(encoding="utf-8").split("## Older numbers")
PARTS = ["Context", "Decision", "Alternatives", "Consequence"]
MOST_PAGES, MOST_LINES = 60, 70
TEXTS = {".md", ".py", ".yaml", ".toml"}
FOLDERS = ("costmodel", "hardware", "workloads", "docs", "reports", "tests", "benchmarks")
LINK = re.compile(r"\]\((0\d{3}-[^)#]+)\)")
MENTION = re.compile(r"[Dd]ecisions?[ /]\[?(0\d{3})((?:(?:, | and )0\d{3})*)")


def _texts() -> Iterator[Path]:
    """Yield the files that may mention a decision; the changelog names the numbers of its time."""
    yield from (ROOT / "README.md", ROOT / "CONTRIBUTING.md")
    for folder in FOLDERS:
        yield from (path for path in (ROOT / folder).rglob("*") if path.suffix in TEXTS)


def test_there_are_few_pages() -> None:
    assert 0 < len(PAGES) <= MOST_PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_short_and_has_its_four_parts_in_order(name: str) -> None:
    text = PAGES[name]
    assert re.match(rf"# {name[:4]} \S", text)
    assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == PARTS
    assert len(text.splitlines()) <= MOST_LINES


def test_the_index_lists_every_page_once_under_its_title() -> None:
    listed = re.findall(r"^\* \[(\d{4})\]\(([^)]+)\) (.+)$", INDEX, re.MULTILINE)
    titles = [(name[:4], name, text.splitlines()[0][len("# 0000 ") :]) for name, text in PAGES.items()]
    assert sorted(listed) == titles


def test_an_older_number_leads_to_one_page_and_is_none_itself() -> None:
    lines = re.findall(r"^\* ([\d, ]+): \[(\d{4})\]\(([^)]+)\)$", EARLIER, re.MULTILINE)
    folded = [number for numbers, _, _ in lines for number in numbers.split(", ")]
    assert len(folded) == len(set(folded))
    assert not set(folded) & {name[:4] for name in PAGES}
    assert all(name in PAGES and name.startswith(number) for _, number, name in lines)


def test_links_between_pages_lead_somewhere() -> None:
    assert not [(name, link) for name, text in PAGES.items() for link in LINK.findall(text) if link not in PAGES]


def test_a_mention_of_a_decision_names_a_page() -> None:
    numbers = {name[:4] for name in PAGES}
    lost = [
        (path.relative_to(ROOT).as_posix(), number)
        for path in _texts()
        for first, others in MENTION.findall(path.read_text(encoding="utf-8"))
        for number in (first, *re.findall(r"\d{4}", others))
        if number not in numbers
    ]
    assert not lost
