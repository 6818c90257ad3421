from __future__ import annotations

import json
import re

import pytest
from command_line import run_on_a_terminal

from costmodel.schema.references import package_root


def test_without_a_workload_all_levers_are_listed(run):
    done = run("what-if")
    assert (done.code, done.err) == (0, "")
    assert "co-processor" in done.out
    assert len(json.loads(run("what-if", "--json").out)["levers"]) == 54


def test_a_lever_shows_both_sides_its_ceiling_and_what_is_assumed(run):
    done = run("what-if", "deepseek_v3", "--scenario", "decode", "--lever", "stacked-memory", "--lever", "multi-port")
    assert (done.code, done.err) == (0, "")
    assert "decode: what each change saves of " in done.out
    assert "the factor is assumed" in done.out
    assert "multi-port" in done.out


def test_json_has_every_effect_and_the_same_bytes_each_time(run):
    asked = (
        "what-if",
        "llama3_8b_rtx4090",
        "--scenario",
        "chat",
        "--lever",
        "stacked-memory",
        "--lever",
        "wafer",
        "--json",
    )
    first = run(*asked)
    assert first.out == run(*asked).out
    (rows,) = json.loads(first.out)["scenarios"].values()
    assert [one["name"] for one in rows] == ["stacked-memory", "wafer"]
    assert "nvlink" in rows[1]["refused"]
    assert rows[0]["saved"] <= rows[0]["ceiling"]
    assert rows[0]["keeps_to_its_ceiling"]


def test_levers_of_ones_own_are_run(run, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "schema: costmodel/lever@1\ntitle: mine\ncite: mine\nlevers:\n"
        "  - {term: faster memory, section: '1', kind: recommendation, switches: [{name: fast, "
        "times: {hardware.memory.hbm.bandwidth: 1.5}}]}\n"
    )
    done = run("what-if", "llama3_8b_rtx4090", "--scenario", "chat", "--levers", path)
    assert (done.code, done.err) == (0, "")
    assert "fast" in done.out


@pytest.mark.parametrize("lever", ["fp8-kv", "scale-up-64"])
def test_what_may_cost_time_only_may_save_most(run, lever):
    first = run("what-if", "deepseek_v3", "--scenario", "decode", "--lever", lever).out.splitlines()[0]
    low = re.search(r"\((-?[\d.]+) \.\.", first)
    assert low is not None
    assert ("may save" in first) == (float(low[1]) < 0.0), first


def test_wrong_use_is_an_error_with_its_fix(run):
    done = run("what-if", "deepseek_v3", "--lever", "co-procesor")
    assert done.code == 2
    assert "co-processor" in done.err
    assert run("what-if", "--scenario", "decode").code == 2


def test_a_plain_list_of_changes_is_run_too(run):
    done = run("what-if", "llama3_8b_rtx4090", "--scenario", "chat", "--levers", "levers")
    assert (done.code, done.err) == (0, "")
    assert "device memory twice as fast" in done.out


def test_a_shipped_list_in_which_a_name_occurs_twice_is_run_by_name_and_by_file(run):
    name = "InfiniBand's latency in place of RoCE's"
    file = package_root() / "workloads" / "what_ifs" / "insights_deepseek_v3.yaml"
    for levers in ("what_ifs/insights_deepseek_v3", file):
        done = run("what-if", "deepseek_v3", "--scenario", "prefill", "--levers", levers, "--lever", name)
        assert (done.code, done.err) == (0, "")
        assert name in done.out


def test_a_narrow_terminal_leaves_columns_out_and_folds_lines():
    levers = ("no-recomputed-products", "virtual-queues", "logfmt8-in-kernels", "scale-up-900")
    asked = ("what-if", "deepseek_v3", "--scenario", "prefill", *(f"--lever={one}" for one in levers))
    out = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", run_on_a_terminal(*asked, COLUMNS="80", TERM="xterm"))
    assert "columns left out" in out
    assert max(map(len, re.split(r"[\r\n]+", out))) <= 80


def test_levers_that_are_no_text_are_refused(run, tmp_path):
    path = tmp_path / "levers.yaml"
    path.write_bytes(b"schema: costmodel/lever@1\n# \xff\xfe\n")
    done = run("what-if", "llama3_8b_rtx4090", "--scenario", "chat", "--levers", path)
    assert (done.code, done.out) == (2, "")
    assert f"{path}: is not UTF-8 text (byte 28)" in done.err
