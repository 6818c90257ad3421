"""What the command line imports, and how it looks on a terminal."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
from command_line import PATIENCE, command

IMPORTS = """
import sys
sys.argv = ["costmodel", *sys.argv[1:]]
from costmodel.cli.main import main
try:
    main()
except SystemExit:
    pass
print(" ".join(sorted(sys.modules)), file=sys.stderr)
"""


PLAIN = {**os.environ, "COSTMODEL_TABLE": "csv"}


def imported(*arguments):
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *arguments], capture_output=True, text=True, check=True, env=PLAIN
    )
    return set(done.stderr.split())


@pytest.mark.core
def test_help_waits_for_nothing_heavy():
    heavy = {"numpy", "pydantic", "yaml", "rich", "scipy", "networkx", "matplotlib", "simpy"}
    assert not heavy & imported("--help")


@pytest.mark.core
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_simulation_waits_for_no_library_that_it_does_not_need(options):
    heavy = {"networkx", "matplotlib", "simpy", "torch", "rich"}
    assert not heavy & imported("simulate", "deepseek_v3", *options)
    assert not (heavy | {"scipy"}) & imported("simulate", "llama3_8b_rtx4090", *options)  # no expected loads of experts


@pytest.mark.core
def test_a_sweep_draws_nothing_and_a_report_opens_no_window(tmp_path):
    swept = str(tmp_path / "swept")
    options = ("--vary", "hardware.processors=120,132", "--scenario", "decode", "--output", swept)
    assert not {"matplotlib", "rich", "scipy", "polars", "dask"} & imported("sweep", "deepseek_v3", *options)
    drawn = imported("report", swept)
    assert "matplotlib" in drawn
    assert "matplotlib.pyplot" not in drawn


def test_help_lists_the_commands_and_each_has_its_own(run):
    listed = run("--help")
    assert listed.code == 0
    commands = [line.split()[0] for line in listed.out.partition("Commands:")[2].splitlines() if line[2:3].strip()]
    assert commands == [
        "simulate", "explain", "validate", "topology", "collective", "sweep", "search", "sensitivity", "what-if",
        "step-times", "predict", "evaluate", "profile", "calibrate", "reproduce", "compare", "report", "hardware",
        "model", "schema", "init",
    ]  # fmt: skip
    for name in commands:
        shown = run(name, "--help")
        assert shown.code == 0
        assert shown.out.count("\n  --") <= 8, f"{name} has more than eight flags"


@pytest.mark.core
def test_the_version_is_that_of_the_package(run):
    from importlib.metadata import version

    assert version("costmodel") in run("--version").out


def on_a_terminal(*arguments, **environment):
    """Return what a terminal shows of a run."""
    ours, theirs = pty.openpty()
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    started = subprocess.Popen(
        command(*arguments), stdout=theirs, stderr=theirs, env={**plain, "TERM": "xterm-256color", **environment}
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux tells the end of a terminal as an error
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert started.wait(timeout=PATIENCE) == 0
    return shown.decode()


def test_a_terminal_is_styled_unless_no_color_is_set():
    shown = ("simulate", "deepseek_v3", "--scenario", "decode")
    assert "\x1b[" in on_a_terminal(*shown)
    assert "\x1b[" not in on_a_terminal(*shown, NO_COLOR="1")
    assert "\x1b[" not in on_a_terminal(*shown, TERM="dumb")


def test_a_narrow_terminal_cuts_no_number():
    wide, narrow = (on_a_terminal("reproduce", "ins_t4_mpft_time_step", COLUMNS=columns) for columns in ("200", "70"))
    for figure in ("19.93", "pass"):
        assert figure in wide
        assert figure in narrow
    assert "…" not in narrow


@pytest.mark.parametrize("columns", ["80", "160"])
def test_the_list_of_hardware_folds_no_row(columns):
    shown = re.sub(r"\x1b\[[0-9;]*m", "", on_a_terminal("hardware", "list", COLUMNS=columns))
    for device in ("h800-sxm", "a100-pcie-40gb", "rtx-pro-6000", "mi300x"):
        (row,) = [line for line in shown.splitlines() if line.startswith(f"{device} ")]
        assert row.split()[-1] in ("fitted", "transferred", "roofline")
    assert "…" not in shown


SEARCHED = ("search", "deepseek_v3", "--scenario", "decode", "--devices", "64")
SWEPT = ("sweep", "deepseek_v3", "--vary", "hardware.node.nic.bandwidth=25GB/s,50GB/s", "--vary")


@pytest.mark.parametrize("columns", [80, 160])
def test_the_front_of_two_rates_has_both_on_any_terminal(columns):
    shown = on_a_terminal(*SEARCHED, COLUMNS=str(columns), NO_COLOR="1")
    best, front = shown.split("Pareto front")
    assert "tokens/s/device" in best
    assert "tokens/s/device  tokens/s/user" in front
    tables = [line for line in shown.splitlines() if re.match(r"[~ ] +\d|-+$", line)]
    assert max(map(len, tables)) <= columns


@pytest.mark.parametrize("columns", [80, 160])
def test_the_table_of_a_sweep_fits_a_terminal_and_says_where_it_is_best(columns, tmp_path):
    axis = "hardware.memory.hbm.bandwidth=2TB/s,3TB/s"
    shown = on_a_terminal(*SWEPT, axis, "--output", str(tmp_path), COLUMNS=str(columns), NO_COLOR="1")
    rows = [line for line in shown.splitlines() if re.match(r"(scenario|training|decode|prefill|-+$)[^:]*$", line)]
    assert max(map(len, rows)) <= columns
    assert re.search(r"decode +hbm.bandwidth +3 TB/s", shown)
    assert re.search(r"decode +nic.bandwidth +50 GB/s", shown)


def test_a_pipe_gets_plain_text_in_full(process):
    done = process("reproduce", "korthikanti_2022", COLUMNS="40")
    assert "\x1b[" not in done.out
    assert "…" not in done.out
    assert "memory.weights+gradients+optimizer" in done.out
