"""Reads what other tools measured: profiler traces and nccl-tests as rows of a table, serving benchmarks as metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodel.errors import MeasurementError
from costmodel.measurements.importing import kineto, nccl, serving
from costmodel.measurements.importing.compressed import parse_json, problem, read_bytes
from costmodel.records import ValueRecord


class Foreign(ValueRecord):
    """Rows of another tool's file, by column of the measurement schema.

    lines: where each is stated, or its number where that is no line.
    """

    columns: Mapping[str, Sequence[str]]
    lines: Sequence[int]


def read_foreign(path: Path, shown: str) -> Foreign:
    """Return the rows of a Kineto trace or of nccl-tests' output, distinguished by their content.

    Raises MeasurementError with the location: a file that is missing, too large, truncated, or of no known tool.
    """
    data = read_bytes(path, shown)
    text = data.decode("utf-8", errors="replace")
    if text.lstrip()[:1] in ("{", "["):
        document = parse_json(text, shown)
        if nccl.is_report(document):
            return _as_columns(nccl.rows_of_report(document, shown))
        if kineto.is_trace(document):
            return _as_columns(kineto.rows(document, shown))
        raise _unknown(shown, document)
    if nccl.is_text(text):
        return _as_columns(nccl.rows_of_text(text, path, shown))
    raise _unknown(shown, None)


def _as_columns(rows: Sequence[tuple[int, Mapping[str, str]]]) -> Foreign:
    names = dict.fromkeys(name for _, row in rows for name in row)
    return Foreign({name: [row.get(name, "") for _, row in rows] for name in names}, [line for line, _ in rows])


def _unknown(shown: str, document: Any) -> MeasurementError:
    known = "known are tables, traces of the PyTorch profiler, and output of nccl-tests"
    served = "it is a serving benchmark: `costmodel compare RESULT FILE` holds a result against it"
    hint = served if serving.is_benchmark(document) else known
    return problem(shown, "holds no measured kernels", hint)
