"""The package is written in the field's nouns, and its docstrings in sentences and lists rather than semicolons."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from sources import statements, trees

SOURCES = [path.read_text(encoding="utf-8") for path in (Path(__file__).parents[2] / "costmodel").rglob("*.py")]
WORDS = re.compile(r"\b(found|place|beside|told|apart|alike|reach|lent|rivals|kin|strangers|away|off)\b")
MOST_WORDS = 400  # of the whole package
MOST_SEMICOLONS = 3.0  # for a thousand words of docstrings
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def words(source: str) -> int:
    """Return how often a source uses words that are no nouns of the field."""
    return len(WORDS.findall(source))


def docstrings(tree: ast.Module) -> str:
    """Return the docstrings of a source as one text."""
    nodes = (node for node in statements(tree) if isinstance(node, DOCUMENTED))
    return "\n".join(ast.get_docstring(node) or "" for node in nodes)


def test_words_and_docstrings_are_recognised() -> None:
    assert words("found = told.place  # off, but no offset, placement or founder") == 4
    assert (
        docstrings(ast.parse('"""One; two."""\nasync def f():\n    """Three; four."""\n    return "; no"\n')).count(";")
        == 2
    )


def test_the_package_speaks_in_nouns_of_the_field() -> None:
    assert len(SOURCES) > 0
    assert sum(map(words, SOURCES)) <= MOST_WORDS


def test_docstrings_have_few_semicolons() -> None:
    text = "\n".join(map(docstrings, trees().values()))
    assert 1000.0 * text.count(";") < MOST_SEMICOLONS * len(text.split())
