"""No module imports itself through others: not at the top, not inside a function, not for type checkers alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from sources import PACKAGE, parsed, statements, trees


def module_name(path: Path, package: Path) -> str:
    parts = (package.name, *path.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.Module, modules: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of the package that a module imports anywhere in its text."""
    for node in statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in names if name in modules)
            if node.module in modules and any(name not in modules for name in names):
                yield node.module


def check_acyclic(package: Path) -> int:
    """Return how many imports a package has among its own modules; raise CycleError where they form a circle."""
    modules = {module_name(path, package): path for path in package.rglob("*.py")}
    known = trees() if package == PACKAGE else {path: parsed(path) for path in modules.values()}
    graph = {name: set(imported(known[path], modules)) for name, path in modules.items()}
    TopologicalSorter(graph).prepare()
    return sum(map(len, graph.values()))


def test_no_module_imports_itself_through_others() -> None:
    assert check_acyclic(PACKAGE) > 1000


@pytest.mark.parametrize("statement", ["def later():\n    from rooms.one import f\n", "import rooms.one\n"])
def test_a_circle_is_found_also_inside_a_function(tmp_path: Path, statement: str) -> None:
    package = tmp_path / "rooms"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from rooms import two\n\ndef f(): ...\n")
    (package / "two.py").write_text(statement)
    with pytest.raises(CycleError):
        check_acyclic(package)
