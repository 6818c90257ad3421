"""The page of a result: whole in itself, names are text, data as the result has them, the same bytes."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import pytest

import costmodel
from costmodel.report.page import Table
from costmodel.report.plotting import draw
from costmodel.report.text import quantity, shown_basis, title_of
from costmodel.report.web.markup import EmbeddedPlot, embedded, html_table, read_plots
from costmodel.report.web.markup import page as page_of
from costmodel.report.web.result import about_result, result_sections
from costmodel.result import shown_line
from costmodel.schema.results import ResultFile, read_result

ATTACK = "<script>alert(1)</script>"
VOID = {"meta", "link"}


def result_page(result: ResultFile, plots: Mapping[str, EmbeddedPlot]) -> bytes:
    """Return the page of a result with the plots that were drawn of it."""
    sections = result_sections(result, plots)
    return page_of(result.workload or result.model.name, about_result(result), sections, result.model_dump(mode="json"))


class Page(HTMLParser):
    """What a page holds: elements with their attributes, the text of each kind of element, what is not closed."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.open: list[str] = []
        self.feed(page.decode())
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def attributes(self, *names):
        return [value for _, attributes in self.elements for name, value in attributes.items() if name in names]


@pytest.fixture(scope="module")
def document(v3: costmodel.Workload):
    """Return a result whose names are made to break out of a page."""
    found = json.loads(json.dumps(v3.simulate(["training", "decode"])))
    decode = found["scenarios"].pop("decode")
    decode["breakdown"][0]["name"] = ATTACK
    decode["breakdown"][1]["name"] = '" onload="alert(2)'
    decode["notes"] = ["</script><!-- <b>bold</b> & more", "nothing \x00 printable"]
    decode["cluster"] = "<img src=x onerror=alert(3)>"
    found["scenarios"][f"{ATTACK}\ud800"] = decode
    found["model"]["name"] = found["workload"] = ATTACK
    return found


@pytest.fixture(scope="module")
def made(document, tmp_path_factory):
    """Return the result as it was read, its folder, its page."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "result.json").write_text(json.dumps(document))
    result = read_result(folder / "result.json")
    files = draw(result, folder / "figures", forms=("svg",))
    return result, files, result_page(result, read_plots(files))


@pytest.fixture(scope="module")
def page(made) -> Page:
    return Page(made[2])


def test_every_element_is_closed_and_no_two_have_the_same_name(page: Page) -> None:
    assert page.open == []
    names = page.attributes("id")
    assert len(names) == len(set(names))
    anchors = [f"#{name}" for name in names]
    assert all(link in anchors for link in page.attributes("href") if link.startswith("#"))
    for value in page.attributes("clip-path", "style", "fill"):
        assert all(found in anchors for found in re.findall(r"url\((#[^)]*)\)", value))


def test_nothing_comes_from_anywhere_else(made, page: Page) -> None:
    assert {tag for tag, _ in page.elements} & {"iframe", "object", "embed", "base", "foreignobject"} == set()
    for value in page.attributes("src", "href", "xlink:href", "action", "poster", "srcset"):
        assert value.startswith(("#", "data:"))
    assert not re.search(rb"https?://|@import|url\((?!#)", made[2])


def test_names_from_files_are_text(page: Page) -> None:
    assert page.texts["h1"] == [ATTACK]
    assert ATTACK in page.texts["td"]
    assert '" onload="alert(2)' in page.texts["td"]
    assert f"{ATTACK}\ufffd" in page.texts["h2"]
    assert "</script><!-- <b>bold</b> & more" in page.texts["li"]
    assert "nothing \ufffd printable" in page.texts["li"]
    assert ATTACK in "".join(page.texts["text"])
    assert len(page.texts["script"]) == 2  # the data and the page's own
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert not {"img", "b"} & {tag for tag, _ in page.elements}


def test_only_the_page_s_own_script_may_run(page: Page) -> None:
    policy = next(attributes["content"] for tag, attributes in page.elements if "http-equiv" in attributes)
    digest = base64.b64encode(hashlib.sha256(page.texts["script"][1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_the_data_of_a_page_are_the_result(made, page: Page) -> None:
    assert json.loads(page.texts["script"][0]) == made[0].model_dump(mode="json")
    assert "<" not in page.texts["script"][0]


def test_the_data_of_a_figure_are_the_files_beside_it(made, page: Page) -> None:
    linked = {
        attributes["download"]: base64.b64decode(attributes["href"].partition("base64,")[2])
        for _, attributes in page.elements if "download" in attributes
    }  # fmt: skip
    written = {path.name: path.read_bytes() for path in made[1] if path.suffix == ".csv"}
    assert linked == written
    assert next(csv.reader(io.StringIO(linked["memory.csv"].decode())))[0] == "scenario"


def test_tables_have_every_metric_operator_basis_and_part_of_the_memory(document, page: Page) -> None:
    cells, captions = page.texts["td"], page.texts["caption"]
    training = document["scenarios"]["training"]
    for name in training["metrics"]:
        assert title_of(name) in cells
    for line in training["breakdown"]:
        assert shown_line(line["name"]) in cells
    assert {shown_basis(name) for name, value in training["basis"].items() if value} <= set(cells)
    assert captions.count("Operators, time per device") == 2
    assert f"{training['memory']['weights'] / 2**30:.2f}" in cells
    values = {float(value) for value in page.attributes("data-value")}
    assert {value for value in training["metrics"].values() if value is not None} <= values
    assert {line["time"] for line in training["breakdown"]} <= values


def test_figures_tell_values_under_the_pointer(document, page: Page) -> None:
    told = page.texts["title"]
    first = document["scenarios"]["training"]["breakdown"][0]
    assert any(text.startswith(f"{first['name']}: {first['time']:.4g} s, ") for text in told)
    assert any(" FLOP/B, " in text for text in told)
    assert any(text.startswith("training: capacity ") for text in told)


def test_the_same_result_gives_the_same_page(made) -> None:
    result, files, page = made
    assert result_page(result, read_plots(files)) == page


def test_a_result_that_does_not_run_says_why(document, tmp_path: Path) -> None:
    tight = json.loads(json.dumps(document))
    one = tight["scenarios"]["training"]
    tight["scenarios"] = {"training": one}
    one.update(metrics={}, intervals={}, breakdown=[], basis={}, reason="needs < 1 byte")
    one["memory"]["fits"] = False
    (tmp_path / "result.json").write_text(json.dumps(tight))
    page = Page(result_page(read_result(tmp_path / "result.json"), {}))
    assert "Cannot run: needs < 1 byte" in page.texts["p"]
    assert "cannot run" in page.texts["td"]


def test_embedded_data_cannot_end_their_element() -> None:
    document = {"</script>": ["<!--", "a & b", "\u2028", "\ud800"]}
    assert not set(embedded(document)) & set("<>&")
    assert json.loads(embedded(document)) == document


def test_a_table_is_sorted_by_numbers_and_not_by_their_texts() -> None:
    drawn = Page(html_table("c", Table(("name", ">time"), [("a", quantity(2e-3, "time")), ("b", "-")])).encode())
    assert drawn.attributes("data-value") == ["0.002"]
    assert drawn.texts["td"] == ["a", "2 ms", "b", "-"]
    assert len(drawn.texts["button"]) == 2
