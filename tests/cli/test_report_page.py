"""report.html as `costmodel report` writes it, and as a real browser shows it."""

from __future__ import annotations

import csv
import json
import re

import pytest
from browser import BROWSER, NAMES, browsing
from command_line import run_here

from costmodel.report.text import metric

FLAGSHIP = "deepseek_v3"
LONG = "<script>alert(1)</script>" + "unbroken" * 60

KINDS = ("result", "hostile", "sweep", "trace", "several")
in_a_browser = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is on the PATH")


def printed(*arguments):
    done = run_here(*arguments)
    assert done.code == 0, done.err
    return done.out


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Return the pages of a result, of one with long and hostile names, of a sweep, of a trace, and of two answers.

    Without a browser to look at the others, those of the sweep and the trace.
    """
    folder = tmp_path_factory.mktemp("pages")
    sources = [folder / name for name in ("result.json", "hostile.json", "swept", "trace.json.gz")]
    result, hostile, swept, trace = sources
    options = (FLAGSHIP, "--scenario", "decode")
    result.write_text(printed("simulate", *options, "--json"))
    document = json.loads(result.read_text())
    document["workload"] = document["model"]["name"] = LONG
    decode = document["scenarios"].pop("decode")
    decode["breakdown"][0]["name"] = decode["cluster"] = decode["hardware"]["device"] = LONG
    decode["notes"] = [LONG]
    document["scenarios"][LONG] = decode
    hostile.write_text(json.dumps(document))
    axes = ("scenarios.decode.batch_per_device=64,128,512", "hardware.processors=120,132")
    printed("sweep", *options, *(word for axis in axes for word in ("--vary", axis)), "--output", swept)
    printed("simulate", *options, "--engine", "event", "--trace", trace)
    worth, fabrics = folder / "worth.json", folder / "fabrics.json"
    worth.write_text(printed("sensitivity", *options, "--metric", "tpot", "--json"))
    fabrics.write_text(printed("topology", "--json").replace('"ft2"', json.dumps(LONG)))
    made = {name: folder / name / "report.html" for name in KINDS}
    for given, page in zip((*((source,) for source in sources), (worth, fabrics)), made.values(), strict=True):
        if BROWSER is None and page.parent.name not in ("sweep", "trace"):
            continue
        assert printed("report", *given, "--output", page.parent).splitlines()[-1] == str(page)
    return made


def test_the_page_of_a_sweep_has_its_points_in_their_units(pages):
    page = pages["sweep"].read_text()
    assert page.count("<td>true</td>") == 4
    assert page.count("<td>does not fit in memory</td>") == 2
    assert '<td class="number" data-value="128.0" title="128.0">128</td>' in page
    assert "requests per device 64: " in page  # under the pointer


def test_the_page_of_a_trace_has_the_work_of_each_row(pages):
    page = pages["trace"].read_text()
    assert "<caption>Work shown</caption>" in page
    assert "<title>" in page.partition("<svg")[2]


@in_a_browser
def test_pages_fit_their_windows_without_a_word_on_the_console(pages, tmp_path):
    with browsing(tmp_path / "profile") as browser:
        for page in pages.values():
            colours = set()
            for width in (375, 1440):
                for scheme in ("light", "dark"):
                    browser.open(page, width, scheme)
                    assert browser.value("innerWidth") == width
                    assert browser.value("document.documentElement.scrollWidth") <= width, page
                    assert browser.value("document.body.textContent.trim().length") > 100
                    assert browser.errors() == []
                    assert browser.requested() == [page.as_uri()]
                    colours.add(browser.value("getComputedStyle(document.body).backgroundColor"))
            assert len(colours) == 2


SHOWN_TIMES = """(() => {
  const tables = [...document.querySelectorAll("table")];
  const table = tables.find((each) => each.caption.textContent.startsWith("Operators"));
  table.querySelectorAll("th button")[1].click();
  return [...table.tBodies[0].rows].map((row) => Number(row.cells[1].dataset.value));
})()"""


@in_a_browser
def test_a_click_on_a_heading_sorts_and_another_one_turns_the_order(pages, tmp_path):
    with browsing(tmp_path / "profile") as browser:
        browser.open(pages["result"], 1440, "light")
        first, second = browser.value(SHOWN_TIMES), browser.value(SHOWN_TIMES)
    assert len(first) > 10
    assert first == sorted(first)
    assert second == sorted(second, reverse=True)


PEAK = "document.querySelector('.plot')._fullLayout.xaxis.type"


@in_a_browser
@pytest.mark.parametrize("width", [375, 1440])
def test_figures_of_a_result_answer_a_pointer_and_change_their_axes(pages, width, tmp_path):
    page = pages["result"]
    assert page.stat().st_size < 5_000_000
    result = json.loads((page.parent.parent / "result.json").read_text())
    with browsing(tmp_path / "profile") as browser:
        browser.open(page, width, "dark")
        browser.wait("document.body.dataset.drawn === '2'")
        shown = browser.value("[...document.querySelectorAll('.plot')].map((each) => each.offsetWidth)")
        assert all(0 < each <= width for each in shown)
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value("[...document.querySelectorAll('.plot ~ .drawing')].every((each) => each.hidden)")
        times = browser.value("document.querySelector('.plot').data.flatMap((each) => each.x)")
        longest = max(line["time"] for line in result["scenarios"]["decode"]["breakdown"])
        assert max(times) == pytest.approx(1e3 * longest)
        assert browser.value(PEAK) == "linear"
        browser.value("(document.querySelector('.plot + button').click(), 1)")
        browser.wait(f"{PEAK} === 'log'")
        assert browser.errors() == []


@in_a_browser
def test_names_are_text_in_a_browser(pages, tmp_path):
    with browsing(tmp_path / "profile") as browser:
        browser.open(pages["hostile"], 375, "light")
        assert browser.value("document.querySelector('h1').textContent") == LONG
        browser.wait("document.body.dataset.drawn === '2'")
        assert browser.value("document.scripts.length") == 2
        assert browser.value("document.querySelector('.plot svg').textContent.includes('<script>')")
        assert browser.value("JSON.parse(document.getElementById('data').textContent).model.name") == LONG


def test_each_cell_of_a_map_tells_its_numbers_or_why_it_has_none(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COSTMODEL_TABLE", "csv")
    axes = ("scenarios.decode.batch_per_device=32..256:8", "hardware.memory.hbm.bandwidth=2TB/s..5.5TB/s:8")
    varied = [word for axis in axes for word in ("--vary", axis)]
    run("sweep", FLAGSHIP, "--scenario", "decode", *varied, "--output", tmp_path / "swept")
    run("report", tmp_path / "swept", "--output", tmp_path / "figures")
    drawing = (tmp_path / "figures" / "sweep-decode.svg").read_text()
    told = re.findall("<title>requests per device ([0-9]+), HBM bandwidth ([^:]*): ([^<]*)</title>", drawing)
    assert len({(batch, bandwidth) for batch, bandwidth, _ in told}) == 64
    with (tmp_path / "swept" / "points" / "part-00000.csv").open(newline="") as file:
        for (*_, number), point in zip(told, csv.DictReader(file), strict=True):
            assert number == (point["reason"] or metric("tpot", float(point["tpot"])))
