"""What searches, sensitivities, published cases and fabrics become: figures with their data, sections of a page."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from costmodel.errors import InputError
from costmodel.report.html_report import write_report
from costmodel.report.plotting import draw
from costmodel.schema.results import SEARCH, SENSITIVITY, read_answer

ATTACK = "<script>alert(1)</script>"
LAYOUT = {
    "at": {"parallel.tp": 2, "parallel.pp": 1, "batch_per_device": 8},
    "devices": 16,
    "objective": 100.0,
    "metrics": {"tpot": 0.05, "tokens_per_second_per_device": 100.0, "tokens_per_second_per_user": 20.0},
    "interval": [0.04, 0.07],
    "tied": True,
}
SLOPE = {
    "path": "hardware.memory.hbm.bandwidth",
    "value": 3.35e12,
    "elasticity": -0.4,
    "low": -0.5,
    "high": -0.3,
    "up": -0.3,
    "down": -0.5,
    "better": 0.9,
    "better_interval": [0.8, 1.2],
    "saved": 1000.0,
    "tied": False,
}
PUBLISHED = {
    "id": "case",
    "publication": "paper",
    "class": "training",
    "metric": "step_time",
    "unit": "s",
    "published": 10.0,
    "predicted": 9.0,
    "low": 8.0,
    "high": 12.0,
    "error": -0.1,
    "verdict": "fail",
    "source": "somewhere",
}
FABRIC = {
    "name": "ft2",
    "endpoints": 2048,
    "switches": 96,
    "links": 2048,
    "cost": 9e6,
    "cost_per_endpoint": 4394.5,
    "diameter": 2,
    "bisection_bandwidth": 5.12e13,
}


def searched(front: int = 3, name: str = "decode"):
    layouts = [
        {**LAYOUT, "metrics": {**LAYOUT["metrics"], "tokens_per_second_per_user": 20.0 + at}} for at in range(front)
    ]
    counts = {"looked_at": 10, "feasible": 8, "scheduled": 5}
    return {
        "schema": SEARCH,
        "workload": "w",
        "scenarios": {name: {**counts, "best": [LAYOUT, LAYOUT], "front": layouts}},
    }


DOCUMENTS = {
    "search": (searched(), ["best-decode", "pareto-decode"]),
    "training search": (searched(front=0), ["best-decode"]),
    "sensitivity": (
        {"schema": SENSITIVITY, "workload": "w", "metric": "tpot", "unit": "s", "scenarios": {"decode": [SLOPE]}},
        ["tornado-decode"],
    ),
    "reproduce": ([PUBLISHED, {**PUBLISHED, "id": "skipped", "published": None}], ["published-training"]),
    "topology": ([FABRIC, {**FABRIC, "name": "nvlink", "cost": None, "cost_per_endpoint": None}], ["topologies"]),
}


def written(document: object, folder: Path, name: str = "answer.json") -> Path:
    path = folder / name
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", DOCUMENTS)
def test_each_kind_of_document_has_its_figures_the_same_every_time(kind: str, tmp_path: Path) -> None:
    document, names = DOCUMENTS[kind]
    path = written(document, tmp_path)
    first, second = (draw(read_answer(path), tmp_path / each, forms=("svg",)) for each in ("a", "b"))
    assert sorted(one.stem for one in first if one.suffix == ".svg") == names
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_the_data_beside_a_tornado_is_what_the_document_says(tmp_path: Path) -> None:
    path = written(DOCUMENTS["sensitivity"][0], tmp_path)
    (_, data) = draw(read_answer(path), tmp_path, forms=("svg",))
    (row,) = csv.DictReader(io.StringIO(data.read_text()))
    assert row["path"] == SLOPE["path"]
    assert [float(row[key]) for key in ("elasticity", "low", "high", "better", "saved")] == [
        SLOPE[key] for key in ("elasticity", "low", "high", "better", "saved")
    ]


def test_several_sources_stand_on_one_page_and_names_are_text(tmp_path: Path) -> None:
    sources = [
        written(searched(name=ATTACK), tmp_path, "layouts.json"),
        written(DOCUMENTS["topology"][0], tmp_path, "fabrics.json"),
    ]
    made, hidden = write_report(sources, tmp_path / "out")
    assert hidden == 0
    names = {path.name for path in made}
    assert {"fabrics-topologies.svg", "fabrics-topologies.csv", "report.html"} <= names
    assert any(name.startswith("layouts-pareto-") for name in names)
    page = made[-1].read_text(encoding="utf-8")
    assert ATTACK not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    ids = [part.partition('"')[0] for part in page.split(' id="')[1:]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ('{"schema": "costmodel/search@1", "scen', "not a complete JSON document"),
        ('{"schema": "costmodel/search@2"}', "update costmodel"),
        ('{"schema": "costmodel/result@7"}', "update costmodel"),
        ('{"schema": "costmodel/result@' + "9" * 5000 + '"}', "costmodel/result@9"),
        ('{"schema": "costmodel/comparison@1"}', "which `report` cannot draw"),
        ('{"operators": []}', "has no `schema` key"),
        ('{"schema": "costmodel/sensitivity@1", "workload": "w"}', "metric"),
        ('[{"verdict": "pass"}]', "costmodel reproduce --json"),
    ],
)
def test_what_is_cut_off_newer_or_of_another_command_is_a_clear_error(content: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(InputError) as caught:
        read_answer(path)
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
