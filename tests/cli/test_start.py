"""What the command line imports, and how it looks on a terminal."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from command_line import PATIENCE, run_on_a_terminal

IMPORTS = """
import json, sys
from costmodel.cli.main import main
imported = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["costmodel", *words]
    try:
        main()
    except SystemExit:
        pass
    imported.append(sorted(sys.modules))
print(json.dumps(imported), file=sys.stderr)
"""
LIGHT, FLAGSHIP = "llama3_8b_rtx4090", "deepseek_v3"


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Return what is imported after each of some commands, one after the other of a process, the lightest first.

    What a command must not import is missing after it, and so none before it imported it either.
    """
    swept = str(tmp_path_factory.mktemp("start") / "swept")
    sweep = ["sweep", FLAGSHIP, "--vary", "hardware.processors=120,132", "--scenario", "decode", "--output", swept]
    commands = {
        "help": ["--help"], "light": ["simulate", LIGHT], "light as JSON": ["simulate", LIGHT, "--json"],
        "sweep": sweep, "flagship": ["simulate", FLAGSHIP], "flagship as JSON": ["simulate", FLAGSHIP, "--json"],
        "report": ["report", swept],
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, json.dumps(list(commands.values()))], capture_output=True, text=True,
        check=True, env={**os.environ, "COSTMODEL_TABLE": "csv"}, timeout=PATIENCE,
    )  # fmt: skip
    after = json.loads(done.stderr.splitlines()[-1])
    return {name: set(modules) for name, modules in zip(commands, after, strict=True)}


@pytest.mark.core
def test_help_waits_for_nothing_heavy(imported):
    heavy = {"numpy", "pydantic", "yaml", "rich", "scipy", "networkx", "matplotlib", "simpy"}
    assert not heavy & imported["help"]


@pytest.mark.core
def test_a_simulation_waits_for_no_library_that_it_does_not_need(imported):
    heavy = {"networkx", "matplotlib", "simpy", "torch", "rich"}
    for form in ("", " as JSON"):
        assert not heavy & imported[f"flagship{form}"]
        assert not (heavy | {"scipy"}) & imported[f"light{form}"]  # no expected loads of experts
    assert "costmodel.api" in imported["light"]


@pytest.mark.core
def test_a_sweep_draws_nothing_and_a_report_opens_no_window(imported):
    assert not {"matplotlib", "rich", "scipy", "polars", "dask"} & imported["sweep"]
    assert "matplotlib" in imported["report"]
    assert "matplotlib.pyplot" not in imported["report"]


def test_help_lists_the_commands_and_each_has_its_own(run):
    listed = run("--help")
    assert listed.code == 0
    commands = [line.split()[0] for line in listed.out.partition("Commands:")[2].splitlines() if line[2:3].strip()]
    assert commands == [
        "simulate", "explain", "validate", "topology", "collective", "sweep", "plan", "search", "sensitivity",
        "what-if", "step-times", "predict", "evaluate", "profile", "calibrate", "reproduce", "compare", "app", "report",
        "hardware", "model", "precision", "schema", "init", "doctor",
    ]  # fmt: skip
    for name in commands:
        shown = run(name, "--help")
        assert shown.code == 0
        sections = re.split(r"\n(?=\S)", shown.out)
        assert max(section.count("\n  --") for section in sections) <= 10, f"{name} has more than ten flags a section"


@pytest.mark.core
def test_the_version_is_that_of_the_package(run):
    from importlib.metadata import version

    assert version("costmodel") in run("--version").out


@pytest.fixture
def terminal(monkeypatch):
    """Return a function that returns what a terminal shows of a run."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    return run_on_a_terminal


def test_a_terminal_is_styled_unless_no_color_is_set(terminal):
    shown = ("simulate", "deepseek_v3", "--scenario", "decode")
    assert "\x1b[" in terminal(*shown)
    assert "\x1b[" not in terminal(*shown, NO_COLOR="1")
    assert "\x1b[" not in terminal(*shown, TERM="dumb")


def test_a_narrow_terminal_cuts_no_number(terminal):
    wide, narrow = (terminal("reproduce", "ins_t4_mpft_time_step", COLUMNS=columns) for columns in ("200", "70"))
    for figure in ("19.93", "pass"):
        assert figure in wide
        assert figure in narrow
    assert "…" not in narrow


@pytest.mark.parametrize("columns", ["80", "160"])
def test_the_list_of_hardware_folds_no_row(columns, terminal):
    shown = re.sub(r"\x1b\[[0-9;]*m", "", terminal("hardware", "list", COLUMNS=columns))
    for device in ("h800-sxm", "a100-pcie-40gb", "rtx-pro-6000", "mi300x"):
        (row,) = [line for line in shown.splitlines() if line.startswith(f"{device} ")]
        assert row.split()[-1] in ("fitted", "borrowed", "roofline")
    assert "…" not in shown


SEARCHED = ("search", FLAGSHIP, "--scenario", "decode", "--devices", "64")
SWEPT = ("sweep", "deepseek_v3", "--vary", "hardware.node.nic.bandwidth=25GB/s,50GB/s", "--vary")


@pytest.mark.parametrize("columns", [80, 160])
def test_the_front_of_two_rates_has_both_on_any_terminal(columns, terminal):
    shown = terminal(*SEARCHED, COLUMNS=str(columns), NO_COLOR="1")
    best, front = shown.split("Pareto front")
    assert "tokens/s/device" in best
    assert re.search(r"\d / [\d.]+,", front)
    (command,) = re.findall(r"next: (costmodel (?:.*\\\n)*.*)", shown.replace("\r", ""))
    assert max(map(len, command.splitlines())) <= columns or "'" in command
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:4] + words[5:] == ["costmodel", "simulate", FLAGSHIP, "--set", "--scenario", "decode"]
    tables = [line for line in shown.splitlines() if re.match(r"[~ ] +\d|-+$", line)]
    assert max(map(len, tables)) <= columns


@pytest.mark.parametrize("columns", [80, 160])
def test_the_table_of_a_sweep_fits_a_terminal_and_says_where_it_is_best(columns, tmp_path, terminal):
    axis = "hardware.memory.hbm.bandwidth=2TB/s,3TB/s"
    shown = terminal(*SWEPT, axis, "--output", str(tmp_path), "--verbose", COLUMNS=str(columns), NO_COLOR="1")
    rows = [line for line in shown.splitlines() if re.match(r"(scenario|training|decode|prefill|-+$)[^:]*$", line)]
    assert max(map(len, rows)) <= columns
    assert re.search(r"decode +hbm.bandwidth +3 TB/s", shown)
    assert re.search(r"decode +nic.bandwidth +50 GB/s", shown)


@pytest.mark.parametrize(
    "asked",
    [
        "explain deepseek_v3 --scenario decode", "explain deepseek_v3 --scenario decode --op combine", "topology",
        "sensitivity deepseek_v3 --scenario decode", "reproduce deepep", "model show deepseek-v3", "precision list",
        "collective all_reduce --cluster nodes/dgx-h100 --ranks 8 --size 64MiB", "doctor",
        "what-if deepseek_v3 --scenario decode", "hardware show rtx-4090", "plan --cluster rtx-4090",
    ],
)  # fmt: skip
def test_an_answer_is_short_and_its_tables_fit_80_characters_in_a_pipe(asked, run):
    """What follows the first line takes 15 lines, of lists one an entry that ships."""
    lines = run(*asked.split()).out.splitlines()
    assert not lines[0].startswith(("-", " ")), lines[0]
    rules = [line for line in lines if line and set(line) == {"-"}]
    assert rules or asked == "doctor"
    assert max(map(len, rules), default=0) <= 80
    assert len(lines) <= {"precision": 22}.get(asked.split()[0], 16)


def test_a_pipe_gets_plain_text_in_full_on_request(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    done = run("reproduce", "korthikanti_2022", "--verbose")
    assert "\x1b[" not in done.out
    assert "…" not in done.out
    assert "memory.weights+gradients+optimizer" in done.out
