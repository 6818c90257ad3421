"""Timelines and tables of requests that others wrote: any kind of value in any place is an answer or an error there."""

import json
from pathlib import Path

import pytest

from costmodel.errors import InputError
from costmodel.study.timelines import NEEDED, read_requests, read_slices

EVENT = {"ph": "X", "cat": "kernel", "ts": 0, "dur": 1, "name": "gemm", "pid": 1, "tid": 2}


def trace(tmp_path: Path, *events: object) -> Path:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    return path


def test_processes_of_a_timeline_may_be_called_anything(tmp_path: Path) -> None:
    name = {"ph": "M", "name": "process_name", "pid": [1], "args": {"name": "first"}}
    slices = read_slices(trace(tmp_path, name, {**EVENT, "pid": [1], "tid": {}}, {**EVENT, "cat": []}, {"ph": {}}))
    assert [(each.process, each.thread) for each in slices] == [("first", "stream {}")]


@pytest.mark.parametrize("classes", [{"gemm": "x"}, {"gemm": [1]}, {"gemm": 1e301}])
def test_a_class_whose_time_is_none_is_told(tmp_path: Path, classes: object) -> None:
    with pytest.raises(InputError, match=r"traceEvents\[0\]\.args\.classes: .* is no time"):
        read_slices(trace(tmp_path, {**EVENT, "args": {"classes": classes}}))


@pytest.mark.parametrize(("cell", "message"), [("inf", "is no number"), ("1e300", "is no number"), ("", "no requests")])
def test_a_table_of_requests_has_moments(tmp_path: Path, cell: str, message: str) -> None:
    path = tmp_path / "requests.csv"
    path.write_text(f"request_id,{','.join(NEEDED)}\n0{f',{cell}' * len(NEEDED)}\n")
    with pytest.raises(InputError, match=message):
        read_requests(path)
