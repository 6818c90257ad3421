"""Tables as text, Markdown and CSV, and what a narrow terminal leaves out."""

from __future__ import annotations

import csv
import io
import json
import os

import pytest

from costmodel.cli.options import print_json
from costmodel.report import page
from costmodel.report.page import Number
from costmodel.report.style import table as plot_table
from costmodel.report.text import interval, metric, quantity, setting, share


@pytest.fixture
def table():
    made = page.table("operator", ">time", ">share", "|", "?>a column that may go", ">80 % interval")
    made.add("first | one", quantity(2.5, "time"), share(0.5), 1.0, "1,234,567", interval("step_time", 2.0, 3.0))
    made.add("second", quantity(0.0025, "time"), share(0.005), 0.01, "-", "-")
    return made


def printed(capsys, content, form="text"):
    with page.printing(form):
        page.show("a line")
        page.show("a hint", "dim")
        page.show(content)
    return capsys.readouterr().out


def test_csv_holds_the_tables_alone_with_numbers_in_si(table, capsys) -> None:
    first, second = csv.DictReader(io.StringIO(printed(capsys, table, "csv").strip()))
    assert list(first) == [
        "operator", "time [s]", "share", "a column that may go", "80 % interval [s] low", "80 % interval [s] high",
    ]  # fmt: skip
    assert list(first.values()) == ["first | one", "2.5", "0.5", "1234567", "2.0", "3.0"]
    assert list(second.values()) == ["second", "0.0025", "0.005", "", "", ""]


def test_what_a_spreadsheet_takes_for_a_formula_is_text_and_numbers_stay_numbers(capsys) -> None:
    made = page.table("name", "more")
    for text in ("=HYPERLINK(1)", "+1+cmd", "-2.5", "@x", "-a", "plain"):
        made.add(text, "x")
    rows = list(csv.reader(io.StringIO(printed(capsys, made, "csv").strip())))
    assert [row[0] for row in rows[1:]] == ["'=HYPERLINK(1)", "'+1+cmd", "-2.5", "'@x", "'-a", "plain"]


def test_markdown_has_no_markup_of_its_own_and_terminals_get_no_control_characters(capsys) -> None:
    made = page.table("name")
    made.add("<img src=x> & \x1b[2J")
    assert "&lt;img src=x&gt; &amp;" in printed(capsys, made, "md")
    made.headings = ("a \x07 heading",)
    for form in ("text", "md", "csv"):
        for content in (made, "a \x1b]0;title\x07 of a workload"):
            assert not {"\x1b", "\x07"} & set(printed(capsys, content, form))


def test_json_holds_what_terminals_would_obey_as_escapes(capsys) -> None:
    document = {"title": "\x1b\x07\x9b2J\u202e\u00b5"}
    print_json(document)
    shown = capsys.readouterr().out
    assert not set(shown) & set("\x1b\x07\x9b\u202e")
    assert json.loads(shown) == document


def test_the_data_of_a_figure_begin_no_formula() -> None:
    header, row = csv.reader(io.StringIO(plot_table(("=name", "value", "text"), [("=1+1", -2.5, "-2.5")]).decode()))
    assert (header, row) == (["'=name", "value", "text"], ["'=1+1", "-2.5", "-2.5"])


def test_csv_names_units_that_differ_in_a_column_of_their_own(capsys) -> None:
    mixed = page.table("metric", ">value")
    mixed.add("step time", metric("step_time", 2.0))
    mixed.add("mfu", metric("mfu", 0.4))
    assert printed(capsys, mixed, "csv").split() == ["metric,value,value", "unit", "step", "time,2.0,s", "mfu,0.4,"]


def test_markdown_is_a_table_whose_bars_are_words_alone(table, capsys) -> None:
    lines = [line for line in printed(capsys, table, "md").splitlines() if line]
    assert lines == [
        "a line",
        "| operator | time | share | a column that may go | 80 % interval |",
        "| --- | ---: | ---: | ---: | ---: |",
        "| first \\| one | 2.5 s | 50% | 1,234,567 | 2 .. 3 s |",
        "| second | 2.5 ms | 0.5% | - | - |",
    ]


def test_a_pipe_is_as_wide_as_it_says_unless_all_is_asked_for(table, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    short = printed(capsys, table)
    assert max(map(len, short.splitlines())) <= 60
    assert "columns left out, for want of room: a column that may go" in short
    with page.printing("text", verbose=True):
        page.show(table)
    assert "1,234,567" in capsys.readouterr().out


def test_a_pipe_gets_everything_and_nothing_is_folded(table, capsys) -> None:
    lines = printed(capsys, table).splitlines()
    assert "█" * page.BAR in lines[4]
    assert "a column that may go" in lines[2]
    assert all("\x1b" not in line for line in lines)


@pytest.mark.parametrize(("columns", "lacks"), [(160, []), (79, []), (66, ["█"]), (50, ["█", "1,234,567"])])
def test_a_narrow_terminal_loses_bars_first_then_what_may_go(table, columns, lacks, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((columns, 24)))
    shown = printed(capsys, table)
    assert max(map(len, shown.splitlines())) <= columns
    for word in ("█", "1,234,567"):
        assert (word in shown) == (word not in lacks)
    told = "columns left out, for want of room: a column that may go"
    assert (told in " ".join(shown.split())) == ("1,234,567" in lacks)


def test_a_count_that_is_set_is_written_in_full_where_that_is_short() -> None:
    assert [setting(each, "count", 3) for each in (15_360.0, 2.5, 12_345_678_912.0)] == [
        "15,360",
        "2.5",
        "12.3 billion",
    ]


def test_what_may_go_more_easily_goes_first(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((30, 24)))
    made = page.table("name", "?>wide enough to go", "??>first", ">kept")
    made.add("one", "1", "2", "3")
    made.add("two", "4", "5", "6")
    assert printed(capsys, made).splitlines()[2].split() == ["name", "wide", "enough", "to", "go", "kept"]


def test_a_mark_of_every_row_stays_beside_the_rows(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((20, 24)))
    made = page.table("", "name", ">a long heading that says the same")
    made.add("~", "one", "1")
    made.add("~", "two", "1")
    lines = printed(capsys, made).splitlines()
    assert [line[:2] for line in lines[4:6]] == ["~ ", "~ "]
    assert lines[6:] == ["same in every row: a", "  long heading that", "  says the same 1"]


def test_a_narrow_terminal_says_once_what_all_rows_say(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((30, 24)))
    made = page.table(">devices", ">degree of tensor parallelism", ">step", "", "note")
    for step in ("1 s", "2 s"):
        made.add("64", "8", step, "", "")
    lines = printed(capsys, made).splitlines()
    assert lines[-7:] == [
        "step", "----", " 1 s", " 2 s",
        "same in every row: devices 64,", "  degree of tensor parallelism", "  8",
    ]  # fmt: skip


def test_bars_grow_with_their_share() -> None:
    assert page.bar(0.0) == ""
    assert page.bar(1.0) == "█" * page.BAR
    assert len(page.bar(0.5)) == page.BAR // 2
    assert page.bar(7.0) == page.bar(1.0)


def test_a_number_is_text_that_knows_its_value() -> None:
    shown = metric("step_time", 0.0125)
    assert shown == "12.5 ms"
    assert isinstance(shown, Number)
    assert (shown.low, shown.unit, shown.high) == (0.0125, "s", None)
