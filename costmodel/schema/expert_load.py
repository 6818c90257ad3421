"""The tokens of each expert, as a scenario's `routing.counts` names them: one CSV row per expert."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from costmodel.errors import InputError, Location
from costmodel.quantities import is_single
from costmodel.records import ValueRecord
from costmodel.schema.inputs import is_file
from costmodel.schema.loader import MAX_TABLE_BYTES, read_text
from costmodel.schema.references import display_path, relative_path
from costmodel.schema.tree import Tree
from costmodel.schema.workload import RoutingFile
from costmodel.units import whole
from costmodel.workload.architecture import Architecture, MoeFfn

COLUMNS = ("expert", "tokens")


def expert_counts(
    file: RoutingFile, scenario: Tree, architecture: Architecture, field: str
) -> tuple[float, ...] | None:
    """Return the tokens of each expert of the model, null if the scenario names no file.

    Raises InputError, at the row if there is one: missing or extra columns, rows or experts, an invalid number of
    tokens, an expert with more than one visit by every token.
    """
    if file.counts is None:
        return None
    reference = scenario.at(("routing", "counts"))
    origin = reference.location if reference is not None else None
    field = f"{field}.routing.counts"
    kinds = {(layer.ffn.experts, layer.ffn.top_k) for layer in architecture.layers if isinstance(layer.ffn, MoeFfn)}
    if not kinds:
        return ()  # the layout's rules report that the model has no experts
    experts = {count for count, _ in kinds}
    if len(experts) > 1 or not all(is_single(count) for count in experts):
        raise InputError.single(
            "the layers of the model have different numbers of experts", field=field, location=origin,
            hint="use another `load`: counts need one number of experts",
        )  # fmt: skip
    table = _Table(_path(file.counts, origin, field), int(experts.pop()))
    rows = dict(table.rows())
    counts = tuple(rows[expert][0] for expert in sorted(rows))
    total, top_k = math.fsum(counts), max(top_k for _, top_k in kinds)
    for expert, (count, line) in rows.items():
        if count * top_k > total * (1 + 1e-9):
            message = f"expert {expert} has {count:g} of {total:g} tokens"
            hint = f"a token visits an expert at most once: with top_k {top_k}, at most 1/{top_k} of them"
            raise table.error(message, line, "tokens", hint)
    return counts


def _path(reference: str, origin: Location | None, field: str) -> Path:
    """Return the file of `counts`, relative to the referring file."""
    if not reference.startswith("./"):
        raise InputError.single(
            f"{reference!r} is not a relative path", hint=f"write `./{reference.lstrip('/')}`, relative to this file",
            field=field, location=origin,
        )  # fmt: skip
    path = relative_path(reference, origin)
    if not is_file(path):
        raise InputError.single(f"{display_path(path)} not found", hint="check the path", field=field, location=origin)
    return path


class _Table(ValueRecord):
    """The file of counts. experts: of the model."""

    path: Path
    experts: int

    def rows(self) -> Iterator[tuple[int, tuple[float, int]]]:
        """Yield expert -> (tokens, line), each expert once."""
        seen: dict[int, int] = {}
        any_token = False
        for line, values in lines(self.path):
            expert = self._expert(values["expert"], line)
            if expert in seen:
                raise self.error(f"duplicate expert {expert}", line, "expert", f"it is also on line {seen[expert]}")
            seen[expert] = line
            count = self._tokens(values["tokens"], line)
            any_token = any_token or count > 0
            yield expert, (count, line)
        missing = [expert for expert in range(self.experts) if expert not in seen]
        if missing:
            first = ", ".join(map(str, missing[:5])) + (" …" if len(missing) > 5 else "")
            message = f"has {len(seen)} of the model's {self.experts} experts"
            raise self.error(message, None, "expert", f"add expert {first} (0: no token)")
        if not any_token:
            raise self.error("no expert has a token", None, "tokens", "write the counted tokens")

    def _expert(self, text: str, line: int) -> int:
        hint = f"write 0 to {self.experts - 1}"
        number = whole(text)
        if number is None:
            raise self.error(f"{text!r} is not an expert's number", line, "expert", hint)
        if number >= self.experts:
            raise self.error(f"unknown expert {number}: the model has {self.experts}", line, "expert", hint)
        return number

    def _tokens(self, text: str, line: int) -> float:
        try:
            count = float(text)
        except ValueError:
            count = math.nan
        if not (math.isfinite(count) and count >= 0):
            message = f"{text!r} is not a number of tokens" if text else "is empty"
            raise self.error(message, line, "tokens", "write a number, zero or more")
        return count

    def error(self, message: str, line: int | None, field: str, hint: str) -> InputError:
        return _error(self.path, message, line, field, hint)


def lines(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line, column -> text) of every row of a file of counts."""
    text = read_text(path, display_path(path), MAX_TABLE_BYTES)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if sorted(header) != sorted(COLUMNS):
            message = f"has the columns {', '.join(header) or 'none'}"
            raise _error(path, message, 1, "", f"start the file with `{','.join(COLUMNS)}`")
        for row in reader:
            if len(row) != len(header):
                message = f"has {len(row)} values for {len(header)} columns"
                raise _error(path, message, reader.line_num, "", "complete the row")
            yield reader.line_num, dict(zip(header, (value.strip() for value in row), strict=True))
    except csv.Error as error:
        raise _error(path, f"is not valid CSV: {error}", reader.line_num, "", "correct the row") from None


def _error(path: Path, message: str, line: int | None, field: str, hint: str) -> InputError:
    location = Location(display_path(path), line)
    return InputError.single(message, hint=hint, field=field, location=location)
