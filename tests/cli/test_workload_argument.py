"""Every command that takes a WORKLOAD takes a model too, however it is named, and one or several clusters."""

from __future__ import annotations

import contextlib
import json
import shlex
from pathlib import Path
from types import MappingProxyType

import pytest
from command_line import run_here

CONFIG = {
    "model_type": "llama", "hidden_size": 512, "vocab_size": 1000, "num_hidden_layers": 2, "num_attention_heads": 8,
    "intermediate_size": 1024,
}  # fmt: skip
COMMANDS = MappingProxyType({
    "simulate": (),
    "explain": (),
    "search": ("--devices", "1"),
    "sensitivity": ("--metric", "tpot"),
    "what-if": ("--lever", "stacked-memory"),
    "sweep": ("--vary", "hardware.processors=66,132", "--output", "OUT"),
    "step-times": ("--output", "OUT"),
})  # fmt: skip
KINDS = ("name", "file", "config", "folder", "workload")
ON, AND = ("--cluster", "nodes/h100-x1"), ("--cluster", "nodes/a100-x1")
ASKED = ("workload", "cluster", "assumptions", "inputs", "digests")


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the same model as a name of the catalogue, as files, and as the workload that it starts."""
    root = tmp_path_factory.mktemp("models")
    folder, catalogue = root / "tiny", root / "mine/workloads/models/tiny.yaml"
    folder.mkdir()
    config = folder / "config.json"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    catalogue.parent.mkdir(parents=True)
    catalogue.write_text(run_here("init", "model", "--from", folder).out, encoding="utf-8")
    workload = root / "workload.yaml"
    with contextlib.chdir(root):  # paths in the file are relative to it
        begun = run_here("init", "workload", "--model", "tiny", *ON, "--phase", "decode", "--phase", "serving")
    workload.write_text(begun.out, encoding="utf-8")
    return {
        "path": str(root / "mine"), "name": "tiny", "file": str(catalogue), "config": str(config),
        "folder": str(folder), "workload": str(workload),
    }  # fmt: skip


def command_line(command: str, named: tuple[str, ...], path: str, output: Path) -> tuple[str, ...]:
    """Return a command of a WORKLOAD with its own options."""
    options = tuple(str(output) if word == "OUT" else word for word in COMMANDS[command])
    return (command, *named, "--path", path, *options, *(() if command == "step-times" else ("--json",)))


def answer(command: str, named: tuple[str, ...], path: str, output: Path) -> object:
    """Return what a command prints or writes, without the names of the workload and of what was asked for."""
    done = run_here(*command_line(command, named, path, output))
    assert done.code == 0, done.err
    if command == "step-times":
        return output.read_text(encoding="utf-8")
    document = json.loads(done.out)
    document.get("model", {}).pop("name", None)
    return {key: value for key, value in document.items() if key not in ASKED}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_the_same_however_its_model_is_named(command, arguments, tmp_path):
    phase = "serving" if command == "step-times" else "decode"
    first, *others = (
        answer(
            command,
            (arguments[kind], *ON, "--scenario" if kind == "workload" else "--phase", phase),
            arguments["path"], tmp_path / kind,
        )
        for kind in KINDS
    )  # fmt: skip
    assert all(other == first for other in others)


@pytest.mark.parametrize("kind", ["file", "config", "folder"])
def test_a_path_may_begin_at_the_working_folder(kind, arguments, run, monkeypatch):
    file = Path(arguments[kind])
    monkeypatch.chdir(file.parent)
    plain, dotted = (
        answer("simulate", (name, *ON, "--phase", "decode"), arguments["path"], Path())
        for name in (file.name, f"./{file.name}")
    )
    assert dotted == plain
    shown = [run("model", "show", name, "--json") for name in (file.name, f"./{file.name}")]
    assert [each.code for each in shown] == [0, 0]
    missing = run("simulate", "./missing.yaml", *ON)
    assert missing.code == 2
    assert "'./missing.yaml' is neither a file nor a known workload or model" in missing.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["name", "workload"])
def test_several_clusters_are_compared_or_refused_with_what_to_write(command, kind, arguments, tmp_path):
    phase = "serving" if command == "step-times" else "decode"
    named = (arguments[kind], *ON, *AND, *(() if kind == "workload" else ("--phase", phase)))
    both = [f"{phase}@h100-x1", f"{phase}@a100-x1"]
    done = run_here(*command_line(command, (*named, "--scenario", phase), arguments["path"], tmp_path / "both"))
    if command in ("explain", "step-times"):  # of one scenario
        assert done.code == 2
        assert all(name in done.err for name in both)
        chosen = (*named, "--scenario", both[1])
        assert run_here(*command_line(command, chosen, arguments["path"], tmp_path / "one")).code == 0
    else:
        assert done.code == 0, done.err
        assert list(json.loads(done.out)["scenarios"]) == both


@pytest.mark.parametrize("kind", ["name", "workload"])
def test_each_of_several_clusters_answers_as_alone(kind, arguments):
    of = (arguments[kind], "--path", arguments["path"], "--json")

    def metrics(*options: str) -> dict[str, dict[str, float]]:
        document = json.loads(run_here("simulate", *of, *options).out)
        return {name: each["metrics"] for name, each in document["scenarios"].items() if name.startswith("decode")}

    together = metrics(*ON, *AND)
    for cluster, options in (("h100-x1", ON), ("a100-x1", AND)):
        assert metrics(*options) == {"decode": together[f"decode@{cluster}"]}
    changed = ("--set", "scenarios.decode.output_tokens=512", "--set", "scenarios.decode@a100-x1.output_tokens=2048")
    first, second = metrics(*ON, *AND, "--set", changed[1]), metrics(*ON, *AND, "--set", changed[3])
    assert all(first[name]["tpot"] < together[name]["tpot"] for name in together)
    assert second["decode@h100-x1"] == together["decode@h100-x1"]
    assert second["decode@a100-x1"]["tpot"] > together["decode@a100-x1"]["tpot"]


@pytest.mark.parametrize("options", [("--scenario", "training"), ("--phase", "decode", "--scenario", "training")])
def test_a_scenario_that_is_another_phase_says_how_to_ask_for_it(options, run):
    done = run("search", "qwen3-8b", *ON, *options)
    assert done.code == 2
    assert "--scenario: training is a phase of the model that was not asked for; add --phase training" in done.err


def test_there_are_no_step_times_of_a_model_that_does_not_fit(run, tmp_path):
    output = tmp_path / "steps.csv"
    done = run("step-times", "llama-3-70b", "--cluster", "nodes/rtx-4090-x1", "--output", output)
    assert done.code == 3
    assert "does not fit in memory: the device needs 1" in done.err
    assert not output.exists()


def test_a_cluster_that_is_given_twice_is_refused(run):
    done = run("simulate", "llama3_8b_rtx4090", *ON, *ON)
    assert done.code == 2
    assert "--cluster: the same cluster is given twice" in done.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_model_without_a_cluster_is_told_what_it_needs(command, run, tmp_path):
    done = run(*command_line(command, ("qwen3-8b",), str(tmp_path), tmp_path / "out"))
    assert done.code == 2
    assert "--cluster: qwen3-8b is a model, which runs on a cluster" in done.err


def test_what_a_search_of_a_model_finds_is_what_its_next_command_runs(arguments, run):
    fixed = ("--set", "scenarios.prefill.parallel.tp=2", "--devices", "2")  # another layout than the model starts with
    of = ("search", arguments["name"], "--cluster", "nodes/dgx-h100", "--phase", "prefill", "--path", arguments["path"])
    best = json.loads(run(*of, *fixed, "--json").out)["scenarios"]["prefill"]["best"][0]
    shown = run(*of, *fixed).out
    again = next(line for line in shown.splitlines() if line.startswith("next: costmodel "))
    document = json.loads(run(*shlex.split(again.removeprefix("next: costmodel ")), "--json").out)
    assert document["scenarios"]["prefill"]["metrics"] == best["metrics"]


def test_what_is_set_is_kept_in_a_search_of_every_cluster(arguments, run):
    of = (arguments["name"], *ON, *AND, "--phase", "decode", "--path", arguments["path"], "--devices", "1")
    done = run("search", *of, "--set", "scenarios.decode.batch_per_device=8", "--json")
    found = json.loads(done.out)["scenarios"]
    assert [one["at"]["batch_per_device"] for each in found.values() for one in each["best"]] == [8, 8]
