from __future__ import annotations

import json
import re
import shlex

import pytest

FLAGSHIP = "deepseek_v3"
DECODE = (FLAGSHIP, "--scenario", "decode")


def test_a_search_says_how_many_it_looked_at_and_shows_the_front(run):
    done = run("search", *DECODE, "--devices", "64,128", "--constraint", "tpot <= 60 ms")
    assert (done.code, done.err) == (0, "")
    best = r"decode: 128 devices, dp 128, ep 128, batch_per_device 128: [\d.]+ ms tpot \([\d.]+ \.\. [\d.]+ ms\), "
    assert re.match(best + r"[\d.]+ \$ per million tokens\nconsidered ", done.out)
    assert "Pareto front" in done.out


@pytest.mark.parametrize(
    "asked",
    [
        ("--scenario", "prefill", "--devices", "64", "--set", "hardware.memory.hbm.bandwidth=3 TB/s"),
        ("--scenario", "training", *(f"--set=scenarios.training.{one}" for one in (
            "parallel.pp=4", "parallel.tp=1", "schedule=1f1b", "recompute=full", "optimizer.zero=1"))),
        ("--scenario", "decode", "--devices", "64", "--objective", "maximise input_tokens", "--constraint",
         "tpot <= 60 ms", "--set", "scenarios.decode.parallel.pp=1", "--set", "scenarios.decode.parallel.ep=64"),
    ],
)  # fmt: skip
def test_the_command_behind_a_search_gives_its_best_layout(run, asked):
    assert_next_gives_the_same(run, FLAGSHIP, *asked)


def test_the_first_command_behind_a_search_of_servers_gives_its_figures(run):
    """They are of the closed form: requests one by one, which the second command plays, have others."""
    load = ("--phase", "serving", "--set", "scenarios.serving.rate=5 /s", "--devices", "1,2")
    assert_next_gives_the_same(run, "llama-3-8b", "--cluster", "nodes/dgx-h100", *load)


def assert_next_gives_the_same(run, *asked):
    found = run("search", *asked, "--json")
    lines = run("search", *asked).out.splitlines()
    command = shlex.split(next(line for line in lines if line.startswith("next: ")))
    assert command[:2] == ["next:", "costmodel"]
    ((name, searched),) = json.loads(found.out)["scenarios"].items()
    simulated = json.loads(run(*command[2:], "--json").out)["scenarios"][name]
    known = {key: value for key, value in simulated["metrics"].items() if value is not None}
    assert {key: searched["best"][0]["metrics"][key] for key in known} == pytest.approx(known, rel=1e-12)


def test_json_of_a_search_is_one_document_and_the_same_each_time(run):
    asked = ("search", *DECODE, "--devices", "64", "--objective", "minimise cost_per_million_tokens", "--json")
    first = run(*asked)
    assert first.out == run(*asked).out
    document = json.loads(first.out)
    assert document["schema"] == "costmodel/search@1"
    best = document["scenarios"]["decode"]["best"]
    assert [one["objective"] for one in best] == sorted(one["objective"] for one in best)
    assert best[0]["interval"][0] <= best[0]["metrics"]["tpot"] <= best[0]["interval"][1]


def test_a_search_in_which_nothing_fits_exits_3(run):
    done = run("search", *DECODE, "--devices", "64", "--constraint", "tpot <= 1 us")
    assert done.code == 3
    assert "no layout both fits and meets the constraints" in done.out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*DECODE, "--constraint", "tpott <= 50 ms"), "did you mean `tpot`"),
        ((*DECODE, "--constraint", "tpot <= __import__('os')"), "is not allowed"),
        ((*DECODE, "--devices", "many"), "write whole numbers such as 64,128"),
        ((FLAGSHIP, "--constraint", "tpot <= 50 ms"), "add --scenario"),
        ((FLAGSHIP, "--scenario", "decode_ep_bound"), "knows no layouts of phase ep_bound"),
        (("no_such_study",), "is neither a file nor a known workload"),
    ],
)
def test_bad_input_of_a_search_is_told(run, arguments, told):
    done = run("search", *arguments)
    assert (done.code, done.out) == (2, "")
    assert told in done.err


def test_sensitivity_ranks_the_hardware(run):
    done = run("sensitivity", *DECODE, "--metric", "tpot")
    assert (done.code, done.err) == (0, "")
    assert "hardware.device.memory.hbm.bandwidth" in done.out
    rows = json.loads(run("sensitivity", *DECODE, "--metric", "tpot", "--json").out)["scenarios"]["decode"]
    less_is_better = ("latency", "tdp", "idle", "rental")
    sizes = [abs(row["less" if row["path"].endswith(less_is_better) else "more"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)


def test_a_metric_that_no_scenario_has_is_told(run):
    done = run("sensitivity", *DECODE, "--metric", "tpots")
    assert (done.code, done.out) == (2, "")
    assert "did you mean `tpot`" in done.err


def test_sensitivities_of_a_bare_model_are_of_the_phase_that_it_has(run):
    done = run("sensitivity", "stable-diffusion-2.1", "--cluster", "nodes/dgx-h100", "--metric", "latency", "--json")
    assert list(json.loads(done.out)["scenarios"]) == ["diffusion"]


def test_a_study_is_swept_and_a_wrong_one_is_told(run, tmp_path):
    study = tmp_path / "study.yaml"
    text = (
        "schema: costmodel/study@1\ntitle: t\nworkload: deepseek_v3\nscenarios: [decode]\n"
        "axes: [{scenarios.decode.batch_per_device: [16, 32]}, "
        "{scenarios.decode.parallel.ep: [64, 128], scenarios.decode.parallel.dp: [64, 128]}]\n"
        "derived: {rate: 1 / tpot}\nconstraints: [tpot <= 40 ms]\n"
    )
    study.write_text(text)
    done = run("sweep", study, "--output", tmp_path / "out", "--json")
    assert done.code == 0
    document = json.loads(done.out)
    assert document["points"] == 4
    assert document["constraints"] == ["tpot <= 40 ms"]
    for wrong, told in (("tpot <= 40 GB", "is a duration"), ("tpot <= open('x')", "is not allowed")):
        study.write_text(text.replace("tpot <= 40 ms", wrong))
        done = run("sweep", study, "--output", tmp_path / "other")
        assert done.code == 2
        assert told in done.err
        assert not (tmp_path / "other").exists()


ZERO, TRAINING_ZERO = "scenarios.selective.optimizer.zero", "scenarios.training.optimizer.zero"


def test_what_is_set_is_not_searched(run):
    fixed = ("--set", f"{ZERO}=2", "--set", "scenarios.selective.parallel.tp=4", "--devices", "64")
    done = run("search", "gpt3_175b_a100", "--scenario", "selective", *fixed, "--json")
    best = json.loads(done.out)["scenarios"]["selective"]["best"]
    assert {(one["at"]["parallel.tp"], one["at"]["optimizer.zero"], one["devices"]) for one in best} == {(4, 2, 64)}
    assert done.err == ""


def test_a_degree_that_is_set_makes_as_many_devices_as_in_simulate(run):
    changes = ("--set", "scenarios.selective.parallel.dp=2", "--set", f"{ZERO}=1")
    twice = ("gpt3_175b_a100", "--scenario", "selective", *changes)
    simulated = json.loads(run("simulate", *twice, "--json").out)["scenarios"]["selective"]
    done = run("search", *twice, "--json")
    found = json.loads(done.out)["scenarios"]["selective"]
    assert found["devices"] == [simulated["devices"]] == [128]
    assert {(one["devices"], one["at"]["parallel.dp"]) for one in found["best"]} == {(128, 2)}
    assert "your --set changes selective from 64 to 128 devices; add --devices 64 to keep 64" in done.err
    assert "on 128 devices" in run("search", *twice).out


@pytest.mark.parametrize("stage", ["0", "1"])
def test_a_stage_that_is_set_leaves_the_layouts_of_one_replica(run, stage):
    layout = ("--set", f"{ZERO}={stage}", "--set", "scenarios.selective.parallel.dp=1", "--json")
    best = json.loads(run("search", "gpt3_175b_a100", "--scenario", "selective", *layout).out)
    assert best["scenarios"]["selective"]["best"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("scenarios.selective.parallel.tp=5", "no layout on this many devices matches your --set"),
        ("hardware.memory.hbm.capacity=1GiB", "none fits in memory: the smallest layout needs"),
    ],
)
def test_a_search_that_finds_nothing_says_why(run, change, told):
    done = run("search", "gpt3_175b_a100", "--scenario", "selective", "--set", change)
    assert (done.code, told in done.out) == (3, True)


def test_a_value_that_no_degree_has_is_told_where_it_was_set(run):
    done = run("search", "gpt3_175b_a100", "--scenario", "selective", "--set", "scenarios.selective.parallel.tp=0")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("--set scenarios.selective.parallel.tp=0")


def test_setting_a_part_of_a_layout_of_no_scenario_is_told(run):
    done = run("search", "gpt3_175b_a100", "--set", "scenarios.selektive.parallel.tp=4")
    assert done.code == 2
    assert "unknown scenario 'selektive'; did you mean `selective`" in done.err


def test_no_two_layouts_of_a_ranking_are_the_same_step(run):
    fewer = ("--set", "scenarios.training.global_batch=512", "--set", f"{TRAINING_ZERO}=1")
    done = run("search", "deepseek_v2", "--scenario", "training", "--devices", "64", *fewer, "--json")
    best = json.loads(done.out)["scenarios"]["training"]["best"]
    steps = [(one["objective"], *(one["at"][f"parallel.{name}"] for name in ("tp", "pp", "ep"))) for one in best]
    assert len(set(steps)) == len(steps)


def test_the_table_shows_cost_and_what_the_goal_reads(run):
    goal = ("--objective", "minimise cost_per_million_tokens", "--constraint", "energy_per_token <= 1 J")
    lines = run("search", *DECODE, "--devices", "64", *goal).out.splitlines()
    heading = next(line for line in lines if "tpot  " in line)
    assert {"cost/M", "energy_per_token"} <= set(heading.split())
    assert "energy_per_token" not in run("search", *DECODE, "--devices", "64").out


def test_costs_name_their_prices_everywhere(run, tmp_path):
    detail = run("simulate", *DECODE, "--verbose").out
    assert "256 $/h" in detail
    assert "rental price: h800-sxm 2 $/h, an assumption of a publication (2024-12" in detail
    assert "Rent: " in run("simulate", FLAGSHIP, "--verbose").out
    explained = run("explain", *DECODE, "--op", "cost").out
    assert "cost rate" in explained
    assert "an assumption of a publication" in explained
    paths = []
    for cluster in ("nodes/hgx-h800", "nodes/dgx-h100"):
        paths.append(tmp_path / f"{len(paths)}.json")
        paths[-1].write_text(run("simulate", *DECODE, "--cluster", cluster, "--json").out)
    compared = run("compare", *map(str, paths))
    assert "note: rents are of different kinds" in compared.out
    assert json.loads(run("compare", *map(str, paths), "--json").out)["notes"]
    same = run("compare", str(paths[0]), str(paths[0]))
    assert "different kinds" not in same.out


def test_a_scenario_without_cost_says_so(run):
    done = run("explain", FLAGSHIP, "--scenario", "decode_ep_bound", "--op", "cost")
    assert done.code == 2
    assert "decode_ep_bound has no cost" in done.err


def test_a_degree_of_servers_that_is_set_is_no_number_of_devices(run, tmp_path):
    path = tmp_path / "chat.yaml"
    path.write_text(
        "schema: costmodel/workload@1\nmodel: models/llama-3-8b\nscenarios: {chat: {phase: serving, framework: vllm, "
        "cluster: nodes/dgx-h100, input_tokens: 1000, output_tokens: 250, rate: 8 /s, slo: {tpot: 25 ms}}}\n"
    )
    done = run("search", str(path), "--set", "scenarios.chat.parallel.tp=2")
    assert (done.code, done.err) == (0, "")
    assert "p99 tpot" in done.out
    assert "--engine event" in done.out
    assert "requests of one replica simulated one by one" in done.out
    assert run("search", str(path), "--devices", "1", "--constraint", "tpot <= 1 ms").code == 3


def test_a_search_of_several_clusters_says_which_is_best_and_how_to_run_each_alone(run):
    clusters = ("--cluster", "h100-x1", "--cluster", "a100-x1", "--phase", "decode")
    own = ("--set", "scenarios.decode.batch_per_device=64")
    goal = ("--objective", "minimise cost_per_million_tokens")
    asked = ("search", "llama-3-8b", *clusters, *own, *goal)
    lines = run(*asked).out.splitlines()
    searched = json.loads(run(*asked, "--json").out)["scenarios"]
    costs = {name.partition("@")[2]: one["best"][0]["objective"] for name, one in searched.items()}
    ranked = sorted(costs, key=costs.__getitem__)
    (ranking,) = (line for line in lines if line.startswith("decode: minimise cost_per_million_tokens, "))
    assert 0 < ranking.index(f" {ranked[0]} ") < ranking.index(f" {ranked[1]} ")
    commands = [shlex.split(line) for line in lines if line.startswith("next: ")]
    assert [command.count("--cluster") for command in commands] == [1, 1]
    assert [sum("batch_per_device" in word for word in command) for command in commands] == [1, 1]
    simulated = json.loads(run(*commands[0][2:], "--json").out)["scenarios"]["decode"]["metrics"]
    found = searched["decode@h100-x1"]["best"][0]["metrics"]
    assert simulated["cost_per_million_tokens"] == pytest.approx(found["cost_per_million_tokens"], rel=1e-12)


def test_a_mapping_of_a_scenario_is_a_change_of_each_of_its_keys(run):
    """A degree in it is fixed, and the commands that come next are as short."""
    cluster = ("mpt-125m", "--cluster", "nodes/rtx-4090-x8", "--phase", "training", "--devices", "8")
    fixed = "scenarios.training={parallel.tp: 2, recompute: none, sequence: 256}"
    done = run("search", *cluster, "--set", fixed)
    (line,) = (line for line in done.out.splitlines() if line.startswith("next: "))
    assert "tp 2," in done.out
    assert line.count("--set") == 1
    assert len(line) < 360
    one_by_one = run(
        "search", *cluster, "--set", "scenarios.training.parallel.tp=2", "--set", "scenarios.training.recompute=none",
        "--set", "scenarios.training.sequence=256",
    )  # fmt: skip
    assert one_by_one.out == done.out
    again = run(*shlex.split(line)[2:])
    assert again.code == 0, again.err
    bad = run("simulate", *cluster[:-2], "--set", "scenarios.training=5")
    assert "is a section, not a value" in bad.err
