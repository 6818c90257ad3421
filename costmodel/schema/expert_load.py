"""The tokens that each expert got, as a scenario's `routing.counts` names them: one CSV row an expert."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from costmodel.errors import InputError, Location, Problem
from costmodel.quantities import is_single
from costmodel.schema.loader import MAX_TABLE_BYTES, read_text
from costmodel.schema.references import display_path, relative_path
from costmodel.schema.tree import Tree
from costmodel.schema.workload import RoutingFile
from costmodel.workload.architecture import Architecture, MoeFfn

COLUMNS = ("expert", "tokens")


def expert_counts(
    file: RoutingFile, scenario: Tree, architecture: Architecture, field: str
) -> tuple[float, ...] | None:
    """Return the tokens of each expert of the model, null where the scenario names no file.

    Raises InputError, at the row where there is one: a column, a row or an expert too few or too many, what is no
    number of tokens, an expert that got more than every token once.
    """
    if file.counts is None:
        return None
    stated = scenario.at(("routing", "counts"))
    origin = stated.location if stated is not None else None
    place = f"{field}.routing.counts"
    kinds = {(layer.ffn.experts, layer.ffn.top_k) for layer in architecture.layers if isinstance(layer.ffn, MoeFfn)}
    if not kinds:
        return ()  # that the model has no experts is said by the layout's rules
    experts = {count for count, _ in kinds}
    if len(experts) > 1 or not all(is_single(count) for count in experts):
        raise InputError.single(
            "the layers of the model have different numbers of experts", field=place, location=origin,
            hint="counts are of one number of experts",
        )  # fmt: skip
    path = _path(file.counts, origin, place)
    rows = dict(_rows(path, int(experts.pop())))
    counts = tuple(count for count, _ in (rows[expert] for expert in sorted(rows)))
    total, choices = math.fsum(counts), max(top_k for _, top_k in kinds)
    for expert, (count, line) in rows.items():
        if count * choices > total * (1 + 1e-9):
            raise _error(
                path, f"expert {expert} has {count:g} of {total:g} tokens", line, "tokens",
                f"a token visits an expert once at most: with top_k {choices} it has 1/{choices} of them or less",
            )  # fmt: skip
    return counts


def _path(written: str, origin: Location | None, field: str) -> Path:
    """Return the file that `counts` means: relative to the file that says it."""
    if not written.startswith("./"):
        raise InputError.single(
            f"{written!r} is no path of a file", hint=f"write `./{written.lstrip('/')}`, relative to this file",
            field=field, location=origin,
        )  # fmt: skip
    path = relative_path(written, origin)
    if not path.is_file():
        raise InputError.single(
            f"there is no file {display_path(path)}", hint="check the path", field=field, location=origin
        )
    return path


def _rows(path: Path, experts: int) -> Iterator[tuple[int, tuple[float, int]]]:
    """Yield expert -> (tokens, line); every expert once."""
    seen: dict[int, int] = {}
    any_token = False
    for line, values in _lines(path):
        expert = _expert(path, values["expert"], line, experts)
        if expert in seen:
            raise _error(path, f"expert {expert} stands twice", line, "expert", f"it is on line {seen[expert]} too")
        seen[expert] = line
        count = _tokens(path, values["tokens"], line)
        any_token = any_token or count > 0
        yield expert, (count, line)
    missing = [each for each in range(experts) if each not in seen]
    if missing:
        few = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
        raise _error(
            path, f"has {len(seen)} of the model's {experts} experts", None, "expert", f"add expert {few} (0: no token)"
        )
    if not any_token:
        raise _error(path, "no expert has a token", None, "tokens", "write what was counted")


def _lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, column -> text) of every row."""
    text = read_text(path, display_path(path), MAX_TABLE_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if sorted(header) != sorted(COLUMNS):
            message = f"has the columns {', '.join(header) or 'none'}"
            raise _error(path, message, 1, "", f"begin the file with `{','.join(COLUMNS)}`")
        for row in reader:
            if len(row) != len(header):
                message = f"has {len(row)} values for {len(header)} columns"
                raise _error(path, message, reader.line_num, "", "complete the row")
            yield reader.line_num, dict(zip(header, (value.strip() for value in row), strict=True))
    except csv.Error as error:
        raise _error(path, f"is not valid CSV: {error}", reader.line_num, "", "correct the row") from None


def _expert(path: Path, written: str, line: int, experts: int) -> int:
    if not (written.isascii() and written.isdecimal()):
        raise _error(path, f"{written!r} is no number of an expert", line, "expert", f"write 0 to {experts - 1}")
    if int(written) >= experts:
        raise _error(
            path, f"there is no expert {int(written)}: the model has {experts}", line, "expert",
            f"write 0 to {experts - 1}",
        )  # fmt: skip
    return int(written)


def _tokens(path: Path, written: str, line: int) -> float:
    try:
        count = float(written)
    except ValueError:
        count = math.nan
    if not (math.isfinite(count) and count >= 0):
        raise _error(
            path, f"{written!r} is no count of tokens" if written else "is empty", line, "tokens",
            "write a number, zero or more",
        )  # fmt: skip
    return count


def _error(path: Path, message: str, line: int | None, field: str, hint: str) -> InputError:
    return InputError([Problem(Location(display_path(path), line), field, message, hint)])
