"""The commands about files: validate, hardware, model, schema, init."""

from __future__ import annotations

import json
import re

import pytest

from costmodel.schema.files import FILES
from costmodel.schema.references import package_root


def test_files_of_all_folders_are_found_sound_together(run):
    folders = [
        path
        for root in ("hardware", "workloads")
        for path in (package_root() / root).iterdir()
        if path.is_dir() and any(path.rglob("*.yaml"))
    ]
    files = [min(folder.rglob("*.yaml")) for folder in folders]
    done = run("validate", *files)
    assert (done.code, done.err) == (0, "")
    assert f"{len(files)} files checked, no problems found" in done.out


def test_validate_names_every_problem_of_every_file(run, tmp_path):
    device = (package_root() / "hardware/devices/h100-sxm.yaml").read_text(encoding="utf-8")
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text(
        device.replace("processors: 132", "procesors: 132").replace("tdp: 700 W", "tdp: 700"), encoding="utf-8"
    )
    two.write_bytes(b"schema: costmodel/device@1\nname: \xff\n")
    done = run("validate", one, two, tmp_path / "absent.yaml")
    assert done.code == 2
    told = done.out + done.err
    for part in ("one.yaml:", "did you mean", "700 W", "two.yaml", "absent.yaml"):
        assert part in told


@pytest.mark.parametrize("kind", sorted(FILES))
def test_schema_prints_a_json_schema_of_every_kind(run, kind):
    schema = json.loads(run("schema", kind).out)
    assert schema["type"] == "object"
    assert schema["properties"]["schema"] == {"const": f"costmodel/{kind}@1"}


@pytest.mark.parametrize("kind", sorted(FILES))
def test_init_prints_a_commented_sound_file_of_every_kind(run, tmp_path, kind):
    file = tmp_path / f"{kind}.yaml"
    file.write_text(run("init", kind).out, encoding="utf-8")
    assert file.read_text(encoding="utf-8").startswith("#")
    assert run("validate", file).code == 0


def test_hardware_lists_what_is_on_the_search_path(run, tmp_path):
    (tmp_path / "hardware/devices").mkdir(parents=True)
    (tmp_path / "hardware/devices/mine.yaml").write_text(
        "schema: costmodel/device@1\nextends: devices/h100-sxm\nname: mine\n", encoding="utf-8"
    )
    names = json.loads(run("hardware", "list", "--json", "--path", tmp_path).out)
    assert {"mine", "h800-sxm", "rtx-4090", "a100-sxm-80gb"} <= set(names["devices"])
    assert "hgx-h800" in names["nodes"]
    assert "h800-2048-mpft" in run("hardware", "list").out
    assert run("hardware", "show", "mine", "--path", tmp_path).code == 0
    by_file = json.loads(run("hardware", "show", tmp_path / "hardware/devices/mine.yaml", "--json").out)
    assert by_file == json.loads(run("hardware", "show", "mine", "--path", tmp_path, "--json").out)
    (tmp_path / "job.yaml").write_text("schema: costmodel/workload@1\nscenarios: {}\n", encoding="utf-8")
    assert "unknown device" in run("hardware", "show", tmp_path / "job.yaml").err


def test_the_list_of_hardware_is_a_table_that_80_columns_hold(run):
    out = run("hardware", "list").out
    assert max(map(len, out.splitlines())) <= 80
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.split()}
    assert rows["h800-sxm"][:8] == ["h800-sxm", "hopper", "80", "3.35", "989", "1979", "700", "2"]
    assert rows["v100-pcie-32gb"][4:6] == ["-", "-"]  # no BF16, no FP8
    assert rows["mi300x"][1:7] == ["cdna3", "192", "5.30", "1307", "2615", "750"]
    assert rows["dgx-h100"][1:] == ["8x", "h100-sxm", "nvlink", "50", "2", "TB,", "614", "GB/s"]
    assert rows["h800-2048-mpft"][1:] == ["256", "x", "hgx-h800", "mpft", "8", "64"]
    assert "megatron" in out


def test_the_list_says_what_the_times_of_a_device_rest_on(run, tmp_path):
    calibration = tmp_path / "hardware/calibrations/gh200/cublas.yaml"
    calibration.parent.mkdir(parents=True)
    calibration.write_text(
        "schema: costmodel/calibration@1\nname: gh200/cublas\ndevice: gh200\nbasis: fitted\n"
        "families:\n  gemm:\n    spread: [{time: 1 us, low: 1, median: 1, high: 1, rows: 9}]\n    rows: 9\n",
        encoding="utf-8",
    )
    before, after = run("hardware", "list").out, run("hardware", "list", "--path", tmp_path).out

    def basis(out, name):
        return next(line.split()[-1] for line in out.splitlines() if line.startswith(f"{name} "))

    assert max(map(len, after.splitlines())) <= 80
    assert [basis(before, name) for name in ("gh200", "h100-sxm", "a100-sxm-40gb", "gb200")] == [
        "borrowed",
        "fitted",
        "borrowed",
        "fitted",  # a relative's, as its own rows move them
    ]
    assert [basis(after, name) for name in ("gh200", "mi300x")] == ["fitted", "roofline"]


def test_a_cluster_is_shown_with_what_it_costs_and_what_keeps_it_from_being_known(run):
    shown = run("hardware", "show", "h800-2048-mpft").out
    assert "16,384 endpoints, 768 switches, 16,384 inter-switch links" in shown
    assert "9,005," in shown  # an eighth of the paper's 72 M$
    assert "has no" not in shown
    document = json.loads(run("hardware", "show", "h800-2048-mpft", "--json").out)
    assert document["count"] == 256
    assert document["fabric"]["used"] == 2048
    assert document["cost"]["network"] == pytest.approx(9.005e6, rel=1e-3)
    cost = document["cost"]
    assert cost["total"] == pytest.approx(2048 * 25_800.0 + 256 * 32_010.0 + cost["network"])
    board = {
        line.split()[0]: line.split()[-2:]
        for line in run("hardware", "show", "h100-sxm", "--verbose").out.splitlines()[2:80]
        if line
    }
    assert (board["power.memory"], board["power.link"]) == (["104.4", "pJ/B"], ["10.4", "pJ/B"])
    assert (board["power.busy"], board["memory.hbm.driver"]) == (["121.6", "W"], ["503.316", "MB"])
    shown = run("hardware", "show", "clusters/tpu-v7-9216").out
    assert "tpu-v7-x1 has no price for the node without its devices: set hardware.node.host.price" in shown


def test_hardware_shows_values_in_their_units_with_sources_and_what_is_unknown(run):
    shown = run("hardware", "show", "devices/h800-sxm", "--verbose").out
    for part in ("989.4 TFLOP/s", "3.35 TB/s", "200 GB/s", "2 $/h", "700 W", "1.83 GHz"):
        assert part in shown
    assert "not stated: memory.smem.driver" in shown
    assert "price.purchase: Reuters of 2024-02-01" in shown
    document = json.loads(run("hardware", "show", "h800-sxm", "--json").out)
    assert document["links"]["nvlink"]["bandwidth"] == 200e9
    assert document["price"]["purchase"] == 25_800.0


@pytest.mark.parametrize("name", ["nodes/hgx-h800", "clusters/h800-2048-mpft", "frameworks/default"])
def test_hardware_shows_nodes_clusters_and_frameworks(run, name):
    assert run("hardware", "show", name).code == 0


def test_models_are_listed_in_a_table_that_fits_a_terminal_and_as_names_for_programs(run):
    lines = run("model", "list").out.splitlines()
    assert max(map(len, lines)) <= 80
    assert re.match(r"\d+ models, \d+ of experts$", lines[0])
    assert lines[1].split() == ["model", "total", "active", "layers", "attention", "KV", "kB"]
    row = next(line.split() for line in lines if line.startswith("deepseek-v3"))
    assert row == ["deepseek-v3", "671.0B", "37.6B", "61", "MLA", "128", "70.3"]
    assert any(line.startswith("gemma-2-9b") and "GQA 16/8~" in line for line in lines)
    assert "deepseek-r1, deepseek-r1-0528 = deepseek-v3" in " ".join(lines)
    names = json.loads(run("model", "list", "--json").out)
    assert names == sorted(names)
    assert "deepseek-v3" in names


def test_a_model_that_cannot_be_read_does_not_hide_the_others(run, tmp_path):
    (tmp_path / "workloads/models").mkdir(parents=True)
    (tmp_path / "workloads/models/bad.yaml").write_text("schema: costmodel/model@1\nname: bad\n", encoding="utf-8")
    done = run("model", "list", "--path", tmp_path)
    assert done.code == 2
    assert "bad.yaml" in done.err
    assert "deepseek-v3" in done.out


@pytest.mark.parametrize("name", ["deepseek-r1", "models/deepseek-ai/DeepSeek-V3"])
def test_a_model_is_shown_by_another_name(run, name):
    shown = run("model", "show", name).out
    assert shown.startswith("deepseek-v3: 671.0B parameters, 37.6B active, 61 layers, MLA 128, ")
    assert "also: deepseek-r1" in shown


CONFIG = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 8, "vocab_size": 512, "residual_scale": 0.5, "quantization_config": {"bits": 4},
}  # fmt: skip


@pytest.fixture
def config(tmp_path):
    folder = tmp_path / "small-llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


@pytest.mark.parametrize("inside", ["", "config.json"])
def test_an_imported_model_is_shown_with_what_is_not_mapped(run, config, inside):
    done = run("model", "show", config / inside)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("small-llama: ")
    assert "ignored keys: residual_scale = 0.5" in done.out
    assert "quantization_config: an unnamed method is not known; state the scenario's `precision`" in done.out
    document = json.loads(run("model", "show", config / inside, "--json").out)
    assert len(document["notes"]) == 2
    assert document["file"]["hidden"] == 64


def test_init_prints_an_imported_model_that_reads_back(run, config, tmp_path):
    done = run("init", "model", "--from", config)
    assert done.code == 0
    assert "residual_scale" in done.err
    file = tmp_path / "kept.yaml"
    file.write_text(done.out, encoding="utf-8")
    assert run("validate", file).code == 0
    kept, imported = (json.loads(run("model", "show", path, "--json").out) for path in (file, config))
    assert kept["parameters"] == imported["parameters"]


def test_init_imports_models_only(run, config):
    done = run("init", "device", "--from", config)
    assert done.code == 2
    assert "--from imports a model, not a device" in done.err


def test_simulate_says_on_standard_error_what_is_not_mapped(run, config):
    file = config.parent / "mine.yaml"
    file.write_text(
        "schema: costmodel/workload@1\n"
        "model: {hf: small-llama}\n"
        "scenarios:\n"
        "  decode: {phase: decode, cluster: nodes/dgx-h100, batch_per_device: 8, input_tokens: 100}\n",
        encoding="utf-8",
    )
    for command in (("simulate", file, "--json"), ("simulate", file), ("explain", file)):
        done = run(*command)
        assert done.code == 0
        assert "residual_scale = 0.5" in done.err
        assert "residual_scale" not in done.out
    assert json.loads(run("simulate", file, "--json").out)["model"]["name"] == "small-llama"


def test_models_are_shown_with_what_can_be_counted(run):
    facts = json.loads(run("model", "show", "deepseek-v3", "--json").out)
    assert facts["kv_cache_bytes_per_token"] == 70_272
    assert facts["parameters"] == pytest.approx(671.03e9, rel=1e-3)
    assert facts["active_parameters"] == pytest.approx(36.62e9, rel=1e-3)
    assert facts["active_parameters_with_embedding"] == pytest.approx(37.55e9, rel=1e-3)
    assert facts["training_flop_per_token"] == pytest.approx(250e9, rel=0.015)
    shown = run("model", "show", "models/deepseek-v3").out
    assert "70.272 kB" in shown
    assert "58 layers" in shown
