"""The page of the Python interface, from signatures and docstrings: `python -m reports.api docs/api.md`."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import costmodel
from costmodel import facade, result

PAGE = Path("docs/api.md")
_CLASSES = (facade.Workload, facade.Result, result.Point, result.Entry)
_ANNOTATION = re.compile(r"(: |-> )'([^']*)'")  # names that are text while types load later
_HEAD = """# Python

    import costmodel

    workload = costmodel.load("deepseek_v3")
    result = workload.evaluate("decode", vary={"hardware.node.nic.bandwidth": ["0.5x", "1x", "2x"]})
    result.to_pandas()

Numbers are SI floats, or NumPy arrays of a grid's shape. Text is read as `--set` reads it: a number with its unit, or
a factor of what the files say (`2x`, `+10%`). Errors are `costmodel.errors.InputError`, with the location and the fix,
and `InfeasibleError`. Written by `python -m reports.api docs/api.md` from the docstrings.
"""


def page() -> str:
    """Return the page in Markdown."""
    return "\n".join([_HEAD, *_function("costmodel.load", costmodel.load), *map(_class, _CLASSES)])


def _class(kind: type[Any]) -> str:
    public = "costmodel." if kind in (facade.Workload, facade.Result) else "costmodel.result."
    return "\n".join([f"## {public}{kind.__name__}\n", _text(kind), *_members(kind)])


def _members(kind: type[Any]) -> Iterator[str]:
    """Yield the public methods and properties of a class, those of the class itself before inherited ones."""
    known: set[str] = set()
    for base in (each for each in kind.__mro__ if each.__module__.startswith("costmodel.")):
        for name, member in vars(base).items():
            if name.startswith("_") or name in known or not inspect.getdoc(member):
                continue
            known.add(name)
            if inspect.isfunction(member):
                yield from _function(name, member)
            elif isinstance(member, property) or type(member).__name__ == "cached_property":
                yield f"### {name}\n\n{_text(member)}"


def _function(name: str, function: Callable[..., Any]) -> Iterator[str]:
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    shown = _ANNOTATION.sub(r"\1\2", str(signature.replace(parameters=parameters)))
    yield f"### {name}\n\n    {name}{shown}\n\n{_text(function)}"


def _text(thing: object) -> str:
    """Return a docstring as Markdown, its paragraphs on a line each, as are sentences that begin with a name."""
    text = inspect.getdoc(thing) or ""
    paragraphs = ("\n".join(_lines(part)) for part in text.split("\n\n"))
    return "\n\n".join(paragraphs) + "\n"


def _lines(paragraph: str) -> Iterator[str]:
    line = ""
    for each in paragraph.splitlines():
        if re.match(r"[a-z_, ]+: ", each) and line:
            yield f"{line}  "
            line = each
        else:
            line = f"{line} {each}".strip()
    yield line


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m reports.api", description=__doc__)
    parser.add_argument("page", nargs="?", type=Path, default=PAGE, help="what to write")
    parser.parse_args().page.write_text(page(), encoding="utf-8")
