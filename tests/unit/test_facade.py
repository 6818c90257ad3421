"""The facade of Python: methods answer as the functions behind the commands do, and results become tables."""

from __future__ import annotations

import pickle
import sys

import numpy as np
import pytest

import costmodel
from costmodel.errors import InputError

NIC, BATCH = "hardware.node.nic.bandwidth", "scenarios.decode.batch_per_device"


@pytest.fixture(scope="module")
def decode() -> costmodel.Workload:
    return costmodel.load("deepseek_v3", scenarios=["decode"])


@pytest.fixture(scope="module")
def grid(decode: costmodel.Workload) -> costmodel.Result:
    return decode.evaluate("decode", {NIC: ["0.5x", "2x"], BATCH: [32, 64, 1280]})


def test_a_mapping_is_a_workload() -> None:
    chat = {"phase": "decode", "cluster": "nodes/h100-x1", "input_tokens": 512, "output_tokens": 64}
    document = {"schema": "costmodel/workload@1", "model": "models/llama-3-8b", "scenarios": {"chat": chat}}
    loaded = costmodel.load(document, {"scenarios.chat.batch_per_device": 4})
    assert loaded.scenarios == ("chat",)
    assert loaded.evaluate("chat").metrics["tpot"] is not None
    assert isinstance(loaded.changed({"hardware.memory.hbm.bandwidth": "2x"}), costmodel.Workload)


def test_one_name_stands_for_a_list_of_one() -> None:
    workload = costmodel.load("llama-3-8b", cluster="nodes/dgx-h100", phases="decode")
    assert workload.scenarios == ("decode",)
    assert list(workload.simulate("decode")["scenarios"]) == ["decode"]
    assert workload.changed({}, "decode").scenarios == ("decode",)
    with pytest.raises(InputError, match="an axis is a text"):
        workload.sweep("decode", ["hardware.node.nic.bandwidth=0.5x..2x:3"])  # type: ignore[arg-type]


def test_the_mapping_of_a_config_is_told_to_be_none() -> None:
    with pytest.raises(InputError, match=r"save it as config\.json"):
        costmodel.load({"architectures": ["LlamaForCausalLM"], "hidden_size": 64})


def test_a_plan_takes_the_devices_and_settings_of_the_command() -> None:
    workload = costmodel.load("llama-3-8b", cluster="nodes/dgx-h100", phases="training")
    asked = {"train": True, "tokens": "1T"}
    longer = workload.plan("nodes/dgx-h100", devices=64, set={"scenarios.training.sequence": 16384}, **asked)
    plain = workload.plan(["nodes/dgx-h100"], devices=[64], **asked)
    assert [[each["devices"] for each in one["plans"]] for one in (longer, plain)] == [[64], [64]]
    assert longer["plans"][0]["metrics"]["step_time"] != plain["plans"][0]["metrics"]["step_time"]


def test_a_table_has_a_row_for_each_point_of_the_grid(grid: costmodel.Result) -> None:
    columns = grid.columns()
    assert columns[NIC].tolist() == pytest.approx([25e9] * 3 + [100e9] * 3)
    assert columns[BATCH].tolist() == [32, 64, 1280] * 2
    assert columns["tpot"].reshape(2, 3) == pytest.approx(grid.metrics["tpot"], nan_ok=True)
    assert columns["fits"].tolist() == [True, True, False] * 2
    runs = columns["fits"]
    assert np.all(columns["tpot_low"][runs] < columns["tpot"][runs])
    assert np.all(columns["tpot"][runs] < columns["tpot_high"][runs])


@pytest.mark.parametrize("engine", ["analytic", "event"])
@pytest.mark.parametrize("vary", [None, {BATCH: [32, 64]}])
def test_a_result_comes_back_from_another_process(
    decode: costmodel.Workload, vary: dict[str, list[int]] | None, engine: str
) -> None:
    sent = decode.evaluate("decode", vary, engine)
    got, index = pickle.loads(pickle.dumps(sent)), (1,) if vary else ()
    assert got.at(*index) == sent.at(*index)
    assert np.array_equal(got.interval("tpot"), sent.interval("tpot"))
    with pytest.raises(IndexError, match="indices for"):
        sent.point(*index, 0)


def test_frames_and_datasets_hold_the_columns_with_their_units(grid: costmodel.Result) -> None:
    pytest.importorskip("xarray")
    columns, frame, dataset = grid.columns(), grid.to_pandas(), grid.to_xarray()
    assert set(frame.columns) == set(columns) == set(grid.to_polars().columns)
    assert frame["tpot"].to_numpy() == pytest.approx(columns["tpot"], nan_ok=True)
    assert frame.attrs["units"]["tpot_high"] == dataset["tpot"].attrs["units"] == "s"
    assert float(dataset["tpot"].sel({NIC: 100e9, BATCH: 64})) == pytest.approx(float(grid.metrics["tpot"][1, 1]))
    assert len(grid.point(0, 0).metrics) + 1 <= len(dataset)


def test_paths_that_vary_together_are_one_axis(decode: costmodel.Workload) -> None:
    memory = "hardware.memory.hbm.bandwidth"
    together = decode.evaluate("decode", {(NIC, memory): (["1x", "2x"], ["1x", "3x"])})
    assert list(together.axes) == [NIC]
    assert together.columns()[memory].tolist() == pytest.approx([3.35e12, 3 * 3.35e12])


def test_a_single_point_is_a_table_of_one_row(decode: costmodel.Workload) -> None:
    single = decode.evaluate("decode")
    assert single.columns()["tpot"].tolist() == [single.metrics["tpot"]]
    assert "time per output token" in single._repr_html_()


def test_a_notebook_shows_the_points_of_a_grid(grid: costmodel.Result) -> None:
    shown = grid._repr_html_()
    assert shown.count("<tr>") == 1 + 6
    assert "no" in shown


def test_a_package_that_is_missing_is_told_with_its_extra(
    grid: costmodel.Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"pandas is not installed.*costmodel\[tables\]"):
        grid.to_pandas()


def test_methods_answer_as_the_studies_do(decode: costmodel.Workload) -> None:
    from costmodel.study.sensitivity import sensitivities

    first, expected = decode.sensitivity("decode")[0], sensitivities(decode, "decode", "tpot")[0]
    assert (first.path, first.elasticity) == (expected.path, expected.elasticity)
    (core,) = decode.explain("decode", "attention core")
    assert core.time is not None
    assert core.blocks
    swept = decode.sweep("decode", f"{BATCH}=32,64")
    assert swept.metrics["tpot"] == pytest.approx(decode.evaluate("decode", {BATCH: [32, 64]}).metrics["tpot"])
    best = decode.search("decode", devices=[128], constraints=["tpot <= 60 ms"], varied=[f"{BATCH}=128"]).best
    assert best[0].metrics["tpot"] <= 0.06
    with pytest.raises(InputError, match="varies names"):
        decode.sweep("decode", "scenarios.decode.cluster=nodes/dgx-h100,nodes/hgx-h800")


def test_a_factor_is_of_what_was_changed_before_and_a_number_is_itself(decode: costmodel.Workload) -> None:
    path, other = "hardware.memory.hbm.bandwidth", "hardware.memory.hbm.capacity"
    own = decode.resolved.value(path)
    once = decode.changed({path: "1.2x"})
    assert once.resolved.value(path) == pytest.approx(1.2 * own)
    again = once.changed({path: "1.2x", other: "2x"})
    assert again.resolved.value(path) == pytest.approx(1.44 * own)
    assert again.resolved.value(other) == pytest.approx(2.0 * decode.resolved.value(other))
    assert once.changed({path: own}).resolved.value(path) == pytest.approx(own)
