"""Figures of served requests, from the table that a simulation writes."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from costmodel.errors import InputError
from costmodel.report.html_report import write_report
from costmodel.study.timelines import read_requests

HEAD = "request_id,start_time,ttft,tpot,latency,scheduled,last_token\n"


def table(path: Path, rows: list[str]) -> Path:
    path.write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_figures_hold_quantiles_and_who_waited(tmp_path: Path) -> None:
    # One a second, each waits half a second and runs for two.
    rows = [f"{i},{i}.0,0.6,0.01,2.5,{i}.5,{i + 2}.5" for i in range(40)]
    files, _ = write_report([table(tmp_path / "served.csv", rows)], tmp_path / "out")
    assert {path.name for path in files} >= {
        "requests-times.svg", "requests-load.png", "requests-queue.csv", "report.html",
    }  # fmt: skip
    times = rows_of(tmp_path / "out" / "requests-times.csv")
    assert {float(row["seconds"]) for row in times if row["metric"] == "latency"} == {2.5}
    load = rows_of(tmp_path / "out" / "requests-load.csv")
    middle = [row for row in load if 5.0 < float(row["seconds"]) < 35.0]
    assert {float(row["running"]) for row in middle} == {2.0}
    assert np.mean([float(row["waiting"]) for row in middle]) == pytest.approx(0.5, abs=0.05)
    queue = rows_of(tmp_path / "out" / "requests-queue.csv")
    assert sum(float(row["share"]) for row in queue) == pytest.approx(1.0)


def test_requests_that_were_turned_away_have_no_times(tmp_path: Path) -> None:
    served = read_requests(table(tmp_path / "served.csv", ["0,0.0,0.5,0.01,1.0,0.1,1.0", "1,0.5,,,,,"]))
    assert np.isnan(served.latency).tolist() == [False, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "0,0.0,fast,0.01,1.0,0.1,1.0\n", "2: ttft 'fast' is no number"),
        ("request_id,start_time\n0,0.0\n", "1: has no column ttft"),
        (HEAD, "has no requests"),
    ],
)
def test_a_bad_table_is_an_error_with_its_row(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "served.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_requests(path)


def test_a_table_of_requests_is_read_as_others_write_it(tmp_path: Path) -> None:
    path = tmp_path / "served.csv"
    row = f"0,0.0,0.5,0.01,1.0,0.1,1.0,{'x' * 200_000}"
    path.write_bytes(f"{HEAD.strip()},note\r{row}\r".encode())
    assert read_requests(path).latency.tolist() == [1.0]
    path.write_bytes(HEAD.encode() + b"0,\xff,0.5,0.01,1.0,0.1,1.0\n")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read_requests(path)
