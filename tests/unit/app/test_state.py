"""What an address asks for, and what it may not."""

from __future__ import annotations

import json
import shlex
from urllib.parse import parse_qsl

import pytest
from command_line import run_here

pytest.importorskip("starlette", reason="the extra [app] is not installed")

from costmodel.app.prediction import predicted
from costmodel.app.server import import_model
from costmodel.app.state import CONTROLS, LONGEST, State, address, of_names, read_states
from costmodel.errors import InputError
from costmodel.report.web.figures import _logarithmic
from costmodel.schema.references import Library

FULL = State(
    of="qwen3-8b", on="nodes/h100-x1", run="decode", values=(("batch_per_device", "8"), ("parallel.tp", "1")),
    levers=("fp8-kv",), anchor=("tpot", "9 ms", "batch_per_device=4"), more="hardware.memory.hbm.bandwidth=3 TB/s",
)  # fmt: skip


@pytest.mark.parametrize(
    ("values", "ticks"), [([300.0, 1500.0], {500.0, 2000.0}), ([2.0, 3000.0], {1.0, 10.0, 1000.0})]
)
def test_a_logarithmic_axis_has_ticks_within_a_decade_where_it_is_short(values, ticks):
    shown = set(_logarithmic(values)["tickvals"])
    assert ticks <= shown
    assert (500.0 in shown) == (500.0 in ticks)


def test_an_address_and_its_scenarios_are_one_another():
    states = [FULL, State(), State(of="deepseek_v3", on="", run="prefill")]
    assert read_states(parse_qsl(address(states), keep_blank_values=True)) == states
    assert read_states([]) == [State()]


@pytest.mark.parametrize(
    "pairs", [[("no.such", "1")], [("set", "x" * 5000)], [("rate", "1" * (LONGEST + 1))], [("d.of", "llama-3-8b")]]
)
def test_an_address_with_unknown_or_endless_fields_is_refused(pairs):
    with pytest.raises(InputError):
        read_states(pairs)


@pytest.mark.parametrize(
    "setting",
    [
        "scenarios.decode.cluster=./mine.yaml", "scenarios.decode.cluster=/etc/passwd", "model={hf: config}",
        "scenarios.decode.framework={extends: ../vllm}", "scenarios.decode.routing={load: counts, counts: ./e.csv}",
        "scenarios.decode.cluster=nodes/../../x", "scenarios.decode.framework=~/own", "model=mine.json", "no setting",
    ],
)  # fmt: skip
def test_no_setting_names_a_file(setting):
    (wrong,) = predicted(State(more=setting)).wrong
    assert wrong.control == "set"
    assert "file" in wrong.message or "PATH=VALUE" in wrong.message


@pytest.mark.parametrize("state", [State(of="/etc/passwd"), State(on="../nodes/dgx-h100"), State(on="nodes/none")])
def test_models_and_clusters_are_those_of_the_catalogue(state):
    (wrong,) = predicted(state).wrong
    assert wrong.control in ("of", "on")


def test_a_scenario_with_everything_gives_its_command_and_its_file_which_predict_the_same(tmp_path, monkeypatch):

    monkeypatch.chdir(tmp_path)
    one = predicted(FULL)
    assert one.wrong == ()
    (tmp_path / "qwen3-8b.yaml").write_text(one.yaml)
    from_file = one.yaml.splitlines()[0].removeprefix("# ")
    for command in (one.command, from_file):
        done = run_here(*shlex.split(command)[1:], "--json")
        document = json.loads(done.out)["scenarios"]["decode"]
        assert document["metrics"] == one.document["metrics"]
        assert document["intervals"] == one.document["intervals"]


def test_a_curve_goes_through_the_scenario_and_rises_in_both():
    one = predicted(State())
    at = one.curve.load.index(float(one.usual["batch_per_device"]))
    assert one.curve.latency[at] == pytest.approx(one.document["metrics"]["tpot"])
    assert list(one.curve.throughput) == sorted(one.curve.throughput)
    assert list(one.curve.latency) == sorted(one.curve.latency)


def test_each_problem_stands_at_its_field():
    wrong = predicted(State(values=(("parallel.tp", "3"), ("input_tokens", "many")))).wrong
    assert {each.control for each in wrong} == {"input_tokens"}  # read before layouts are looked at
    assert {each.control for each in predicted(State(values=(("parallel.tp", "3"),))).wrong} == {"parallel.tp"}


def test_each_control_is_a_key_of_its_phases_with_a_meaning():
    assert all(len(control.meaning) > 5 for control in CONTROLS)


CONFIG = (
    b'{"model_type": "qwen3", "hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, '
    b'"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, '
    b'"tie_word_embeddings": true, "torch_dtype": "bfloat16"}'
)


def test_a_model_that_is_sent_has_a_name_of_its_own_and_predicts(tmp_path):
    name, text, _ = import_model(CONFIG)
    folder = tmp_path / "workloads" / "models"
    folder.mkdir(parents=True)
    (folder / f"{name}.yaml").write_text(text)
    assert predicted(State(of=name, on="nodes/h100-x1"), (str(tmp_path),)).document["memory"]["fits"]
    again, _, _ = import_model(text.encode())
    assert again != name


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe", b"{}", b"[1]", b"schema: costmodel/device@1",
        b"schema: costmodel/model@1\nextends: llama-3-8b\nname: mine\n",
    ],
)  # fmt: skip
def test_what_is_no_model_or_rests_on_a_file_is_refused(data):
    with pytest.raises(InputError):
        import_model(data)


def test_names_are_the_scenarios_to_begin_with() -> None:
    library = Library(())
    first, second = of_names(["llama-3-8b", "deepseek_v3"], library)
    assert (first.of, first.run) == ("llama-3-8b", "decode")
    assert (second.of, second.on, second.run) == ("deepseek_v3", "", "training")
    with pytest.raises(InputError, match="no model or workload is named 'nothing'"):
        of_names(["nothing"], library)
    with pytest.raises(InputError, match="3 scenarios at most"):
        of_names(["llama-3-8b"] * 4, library)
