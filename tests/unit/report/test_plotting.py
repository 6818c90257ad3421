"""Names that come from files, as figures show them; labels, ticks and file names."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import costmodel
from costmodel.report.plotting import draw, file_names
from costmodel.report.style import display_name, tick, unit_for
from costmodel.report.text import short_paths
from costmodel.schema.results import read_result

SVG = "{http://www.w3.org/2000/svg}"


def texts(path: Path) -> list[str]:
    """Return what a figure writes."""
    return ["".join(node.itertext()) for node in ElementTree.parse(path).iter(f"{SVG}text")]


@pytest.fixture(scope="module")
def named(v3: costmodel.Workload, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return figures of a result whose names are not made for figures."""
    folder = tmp_path_factory.mktemp("named")
    document = v3.simulate(["decode"])
    decode = document["scenarios"].pop("decode")
    decode["breakdown"][0]["name"] = "<script>alert(1)</script>"
    decode["breakdown"][1]["name"] = "$x^2$ $"
    decode["breakdown"][2]["name"] = "line\nbreak \x00 & more"
    decode["breakdown"][3]["name"] = "long " * 100
    decode["hardware"]["device"] = "<b>H800</b>"
    document["scenarios"]["../../$up$ \ud800"] = decode
    (folder / "result.json").write_text(json.dumps(document))
    draw(read_result(folder / "result.json"), folder / "in" / "figures")
    return folder


def test_names_are_text_and_never_markup_or_formulas(named: Path) -> None:
    drawn = texts(next((named / "in" / "figures").glob("time-*.svg")))
    assert "<script>alert(1)</script>" in drawn
    assert "$x^2$ $" in drawn
    assert "line\ufffdbreak \ufffd & more" in drawn
    assert "<script" not in next((named / "in" / "figures").glob("time-*.svg")).read_text()
    assert any("<b>H800</b>" in text for text in texts(next((named / "in" / "figures").glob("roofline-*.svg"))))


def test_a_long_name_leaves_room_for_the_figure(named: Path) -> None:
    for path in (named / "in" / "figures").glob("*.svg"):
        assert max(map(len, texts(path))) < 119


def test_a_scenario_s_name_leads_to_no_other_folder(named: Path) -> None:
    assert {path.name for path in named.iterdir()} == {"result.json", "in"}
    assert {path.name for path in (named / "in").iterdir()} == {"figures"}
    assert {path.suffix for path in (named / "in" / "figures").iterdir()} == {".svg", ".png", ".csv"}


def test_file_names_are_plain_and_distinct() -> None:
    assert file_names(["a", "b/c", "b c", "A", ""]) == {"a": "a", "b/c": "b_c", "b c": "b_c_1", "A": "A_1", "": "_"}


def test_every_operator_with_products_is_a_point_and_the_longest_are_listed(
    v3: costmodel.Workload, tmp_path: Path
) -> None:
    document = v3.simulate(["prefill"])
    (tmp_path / "result.json").write_text(json.dumps(document))
    draw(read_result(tmp_path / "result.json"), tmp_path)
    drawn = texts(tmp_path / "roofline-prefill.svg")
    for entry in [entry for entry in document["scenarios"]["prefill"]["breakdown"] if entry["flop"]][:10]:
        assert any(text.startswith(f"{entry['name']} ") for text in drawn)
    for roof in ("FP8 1.98 PFLOP/s", "BF16 989 TFLOP/s", "HBM 3.35 TB/s", "L2 9.7 TB/s"):
        assert roof in drawn


def test_a_figure_does_not_depend_on_the_user_s_own_settings(v3: costmodel.Workload, tmp_path: Path) -> None:
    import matplotlib as mpl

    (tmp_path / "result.json").write_text(json.dumps(v3.simulate(["decode"])))
    draw(read_result(tmp_path / "result.json"), tmp_path / "plain")
    with mpl.rc_context({"font.size": 20.0, "axes.facecolor": "red", "svg.fonttype": "path"}):
        draw(read_result(tmp_path / "result.json"), tmp_path / "loud")
    for path in (tmp_path / "plain").iterdir():
        assert path.read_bytes() == (tmp_path / "loud" / path.name).read_bytes()


@pytest.mark.parametrize(
    ("value", "dimension", "text"),
    [
        (1e-5, "time", "10 us"),
        (2.0, "time", "2 s"),
        (1e15, "flop_rate", "1 PFLOP/s"),
        (80 * 2**30, "size", "80 GiB"),
        (3.35e12, "bandwidth", "3.35 TB/s"),
        (123456789012.0, "bandwidth", "123 GB/s"),
        (10_000.0, "count", "10,000"),
    ],
)
def test_a_tick_is_a_quantity_as_people_write_it(value: float, dimension: str, text: str) -> None:
    assert tick(value, dimension) == text


def test_an_axis_has_the_unit_of_its_highest_value() -> None:
    assert unit_for(0.045, "time") == ("ms", pytest.approx(1e-3))
    assert unit_for(2.5e11, "bandwidth") == ("GB/s", 1e9)
    assert unit_for(0.7, "ratio") == ("%", pytest.approx(0.01))
    assert unit_for(256.0, "count") == ("", 1.0)


def test_a_name_is_printable_and_short() -> None:
    assert display_name("expert up") == "expert up"
    assert display_name("a\tb\u202ec") == "a\ufffdb\ufffdc"
    assert len(display_name("x" * 1000)) == 34


def test_a_path_is_short_as_long_as_it_is_told_from_the_others() -> None:
    assert short_paths(["hardware.links.nvlink.bandwidth"]) == {"hardware.links.nvlink.bandwidth": "nvlink.bandwidth"}
    two = ["scenarios.a.hardware.memory.hbm.bandwidth", "scenarios.b.hardware.memory.hbm.bandwidth"]
    assert set(short_paths(two).values()) == {
        "a.hardware.memory.hbm.bandwidth", "b.hardware.memory.hbm.bandwidth",
    }  # fmt: skip


def test_published_figures_are_small_and_on_their_page() -> None:
    published = Path(__file__).resolve().parents[3] / "reports" / "systems"
    page = (published / "README.md").read_text(encoding="utf-8")
    assert all(f"({path.name})" in page for path in published.glob("*.svg"))
    assert all(path.stat().st_size < 2**20 for path in published.iterdir())
