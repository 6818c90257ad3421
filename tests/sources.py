"""The package's own sources, parsed once for all tests that read them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import costmodel

PACKAGE = Path(costmodel.__file__).parent


@cache
def trees() -> dict[Path, ast.Module]:
    """Return every module of the package."""
    return {path: parsed(path) for path in sorted(PACKAGE.rglob("*.py"))}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def statements(tree: ast.Module) -> Iterator[ast.Module | ast.stmt]:
    """Yield a module and all of its statements, those inside others as well, without looking into expressions."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Module | ast.stmt):
            yield node
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            waiting += getattr(node, field, ())
