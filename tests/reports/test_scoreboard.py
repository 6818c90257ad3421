"""The scoreboard: what is frozen stays, figures at first sight are scored apart, regressions are lines."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import yaml

from costmodel.errors import InputError
from costmodel.records import replace
from costmodel.study.published.reproduce import Comparison
from reports.scoreboard.__main__ import add, compared, freeze, regressions
from reports.scoreboard.tables import TABLES, PublicTable, case_file, kernel_table, predicted, rows_of

ARGONNE = next(table for table in TABLES if table.key == "argonne")
AZURE = next(table for table in TABLES if table.key == "azure")


def figure(name: str, error: float, state: str = "unseen") -> Comparison:
    return Comparison(
        id=name, publication="paper", case_class="training", metric="step_time", unit="s", published=1.0,
        predicted=1.0 + error, low=0.8, high=1.2, error=error, verdict="pass", source="", state=state, group=name,
    )  # fmt: skip


def test_a_release_is_frozen_once_and_new_figures_are_scored_apart(tmp_path: Path) -> None:
    add(tmp_path, "1", "2026-11-01", [figure("a", 0.1), figure("b", 0.5, "in-sample")])
    frozen = (tmp_path / "frozen" / "1.csv.gz").read_bytes()
    with pytest.raises(InputError, match="frozen already"):
        add(tmp_path, "1", "2026-11-02", [figure("a", 0.0)])
    add(tmp_path, "2", "2026-12-01", [figure("a", 0.1), figure("c", 0.3)])
    assert (tmp_path / "frozen" / "1.csv.gz").read_bytes() == frozen
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| training | unseen | 1 | 2026-11-01 | 1 | 1 | 10.0% |" in page
    assert "| training | first seen | 2 | 2026-12-01 | 1 | 1 | 30.0% |" in page
    assert "**training became worse by 10.0 points** from 1 (10.0%) to 2 (20.0%)" in page


def test_the_same_figures_are_compared_and_states_that_changed_are_named(tmp_path: Path) -> None:
    add(tmp_path, "1", "2026-11-01", [figure("a", 0.1), figure("b", 0.5), figure("c", 0.4)])
    changed = replace(figure("d", 0.0), published=2.0)
    add(tmp_path, "2", "2026-12-01", [figure("a", 0.2), figure("b", 0.5, "in-sample"), changed])
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "* **training, unseen: 1 figures of both, mean 10.0% -> 20.0%: worse**" in page
    assert "* training, in-sample: 1 figures of both, mean 50.0% -> 50.0%" in page
    assert "* training, paper: 1 figures unseen -> in-sample" in page


def test_less_than_two_points_is_no_line() -> None:
    rows = [
        {"class": "serving", "which": "unseen", "release": name, "mean": mean}
        for name, mean in (("1", "0.1"), ("2", "0.119"), ("3", "0.05"))
    ]
    assert not list(regressions(rows))


def test_a_frozen_table_has_digests_in_place_of_published_values() -> None:
    first, other = (freeze([replace(figure("a", 0.1), published=value)]).decode() for value in (123.456, 123.457))
    assert "123.4" not in first
    assert first != other


def test_a_release_is_told_beside_the_one_before_it() -> None:
    rows = [
        {"release": release, "class": "serving", "which": "unseen", "mean": mean, "figures": "4"}
        for release, mean in (("1", "0.1"), ("2", "0.13"))
    ]
    assert list(compared(rows, "2")) == [
        "serving, unseen: 4 figures, mean 13.0% (was 10.0%)",
        "**serving became worse by 3.0 points** from 1 (10.0%) to 2 (13.0%)",
    ]
    assert list(compared(rows, "1")) == ["serving, unseen: 4 figures, mean 10.0%"]


def write(folder: Path, table: PublicTable, text: str) -> None:
    path = folder / table.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_rows_of_a_table_go_by_a_digest_of_their_text(tmp_path: Path) -> None:
    write(tmp_path, ARGONNE, "gpu,n_gpus\na100,1\na100,2\n")
    (first, row), (second, _) = rows_of(ARGONNE, tmp_path)
    assert row == {"gpu": "a100", "n_gpus": "1"}
    assert first.startswith("argonne:2:")
    assert first.rpartition(":")[2] != second.rpartition(":")[2]


def test_an_offline_batch_becomes_a_scenario_and_an_unknown_engine_does_not(tmp_path: Path) -> None:
    head = "gpu,n_gpus,framework,model,isl,osl,batch,precision,latency_s,flag"
    known = "a100,2,vLLM,meta-llama/Llama-2-7b-hf,128,64,4,fp16,1.5,"
    write(tmp_path, ARGONNE, "\n".join([head, known, known.replace("vLLM", "engine"), known + "doubtful"]) + "\n")
    (case,) = yaml.safe_load(case_file(ARGONNE, tmp_path))["cases"]
    assert case["scenario"]["parallel"] == {"tp": 2}
    assert case["expect"] == [{"metric": "latency", "value": "1.5 s", "tolerance": "20 %"}]
    (found,) = predicted(tmp_path, [ARGONNE])
    assert found.published == 1.5
    assert found.state == "in-sample"  # the engine's host time was fitted to rows of this repository


def test_a_rate_becomes_the_time_of_a_product(tmp_path: Path) -> None:
    head = "gpu,kind,metric,precision,m,n,k,bytes,value,unit"
    write(
        tmp_path, AZURE, f"{head}\na100,gemm,cuBLASLt,fp16,4096,4096,4096,,228,TFLOP/s\na100,hbm,Triad,,,,,,1500,GB/s\n"
    )
    (row,) = csv.DictReader(io.StringIO(kernel_table(AZURE, tmp_path)))
    assert float(row["time_us"]) == pytest.approx(2 * 4096**3 / 228e12 * 1e6)
    (found,) = predicted(tmp_path, [AZURE])
    assert found.low < found.predicted < found.high
    assert found.state == "unseen"
