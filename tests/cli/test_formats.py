"""Tables in other forms: `--format`, `--json` as before, at most ten options a command."""

from __future__ import annotations

import csv
import io
import json

import click
import pytest

from costmodel.cli.main import root
from costmodel.result import SHOWN_LINES


def test_the_forms_of_a_command_say_the_same(run) -> None:
    asked = ("simulate", "deepseek_v3", "--scenario", "decode")
    whole = json.loads(run(*asked, "--json").out)
    assert json.loads(run(*asked, "--format", "json").out) == whole
    decode = whole["scenarios"]["decode"]
    metrics, operators = run(*asked, "--format", "csv").out.strip().split("\n\n")
    for row in csv.DictReader(io.StringIO(metrics)):
        key = row["metric"].replace(" ", "_")
        value = decode["metrics"][key]
        assert (float(row["predicted"]) if row["predicted"] else None) == value
        if decode["intervals"][key] is not None:
            ends = [row["80 % interval low"], row["80 % interval high"]]
            assert [float(end) for end in ends] == decode["intervals"][key]
    first = next(csv.DictReader(io.StringIO(operators)))
    assert float(first["time [s]"]) == decode["breakdown"][0]["time"]
    page = run(*asked, "--format", "md").out
    assert f"| {decode['breakdown'][0]['name']} |" in page
    assert "| metric | predicted | 80 % interval |" in page


def test_two_forms_at_once_are_an_error(run) -> None:
    ran = run("topology", "--json", "--format", "csv")
    assert ran.code == 2
    assert "--format" in ran.err


def test_fabrics_are_one_table_of_numbers(run) -> None:
    rows = list(csv.DictReader(io.StringIO(run("topology", "mpft", "ft3", "--format", "csv").out.strip())))
    assert [(row["topology"], row["endpoints"], row["switches"]) for row in rows] == [
        ("mpft", "16384", "768"), ("ft3", "65536", "5120"),
    ]  # fmt: skip


def test_another_cluster_has_no_title_of_the_files_own_hardware(run) -> None:
    out = run("simulate", "deepseek_v3", "--scenario", "decode", "--cluster", "nodes/dgx-h100", "--verbose").out
    assert out.splitlines()[1] == "deepseek_v3 on nodes/dgx-h100"


def test_each_scenario_says_what_its_times_rest_on(run) -> None:
    lines = run("simulate", "deepseek_v3", "--verbose").out.splitlines()
    at = lines.index("Where the times come from (share of time by basis)")
    assert lines[at + 1].startswith("  training: ")
    shown = lines[at + 1 : lines.index("Where the time goes")]
    assert [line.split(":")[0].strip() for line in shown] == ["training", "prefill", "decode", "decode_4k"]
    alone = run("simulate", "deepseek_v3", "--scenario", "decode_ep_bound").out  # a formula, exact beside others
    assert "roofline" in alone


def test_explain_says_the_basis_of_the_shape(run) -> None:
    listed = json.loads(run("explain", "deepseek_v3", "--scenario", "training", "--json").out)["operators"]
    measured = next(line["name"] for line in listed if line["basis"] == "measured" and line["name"] != "contention")
    (found, *_) = json.loads(run("explain", "deepseek_v3", "--scenario", "training", "--op", measured, "--json").out)[
        "operators"
    ]
    assert found["basis"] == "measured"


def test_operators_of_one_side_alone_are_compared_with_nothing(run, tmp_path) -> None:
    document = json.loads(run("simulate", "deepseek_v3", "--scenario", "decode", "--json").out)
    (tmp_path / "one.json").write_text(json.dumps(document))
    lost = document["scenarios"]["decode"]["breakdown"].pop()
    (tmp_path / "other.json").write_text(json.dumps(document))
    found = json.loads(run("compare", tmp_path / "one.json", tmp_path / "other.json", "--format", "json").out)
    (row,) = [one for one in found["operators"] if one["name"] == lost["name"]]
    assert (row["first"], row["second"], row["ratio"]) == (lost["time"], None, None)
    assert f"| {lost['name']} |" in run("compare", tmp_path / "one.json", tmp_path / "other.json", "--format", "md").out
    assert "simulate WORKLOAD --json > FILE" in run("compare", "deepseek_v3", tmp_path / "one.json").err


def commands(group: click.Group, context: click.Context):
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from commands(found, context)
        else:
            yield found


@pytest.mark.parametrize("command", list(commands(root, click.Context(root))), ids=lambda command: str(command.name))
def test_a_command_has_at_most_ten_options(command: click.Command) -> None:
    shown = [each for each in command.params if isinstance(each, click.Option) and not each.hidden]
    # `--verbose` is the tenth of four commands; a plan answers four questions, each in its section
    assert len(shown) <= (24 if command.name == "plan" else 10)


@pytest.mark.parametrize("command", ["init", "schema"])
def test_a_table_of_measurements_is_no_kind_of_file_but_has_a_page(run, command):
    done = run(command, "measurement")
    assert (done.code, done.out) == (2, "")
    assert "docs/measurements.md" in done.err


def test_the_name_that_people_read_and_the_stored_one_are_the_same_line(run, tmp_path) -> None:
    for names in SHOWN_LINES.items():
        errors = {run("explain", "deepseek_v3", "--scenario", "training", "--op", name).err for name in names}
        assert len(errors) == 1
    training = ("simulate", "deepseek_v3", "--scenario", "training")
    stored, shown = "slowed by exchanges", "all-to-all contention"
    document = run(*training, "--json").out
    assert f"| {shown} |" in run(*training, "--format", "md").out
    (tmp_path / "stored.json").write_text(document)
    (tmp_path / "shown.json").write_text(document.replace(stored, shown))
    lines = json.loads(run("compare", tmp_path / "stored.json", tmp_path / "shown.json", "--json").out)["operators"]
    assert {line["ratio"] for line in lines if line["name"] == stored} == {1.0}
    assert f"| {shown} |" in run("compare", tmp_path / "stored.json", tmp_path / "shown.json", "--format", "md").out
