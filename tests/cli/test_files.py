"""The commands about files: validate, hardware, model, schema, init."""

from __future__ import annotations

import json

import pytest

from costmodel.schema.files import FILES
from costmodel.schema.references import package_root

SHIPPED = sorted(path for folder in ("hardware", "workloads") for path in (package_root() / folder).rglob("*.yaml"))


def test_every_shipped_file_is_sound(run):
    done = run("validate", *SHIPPED)
    assert (done.code, done.err) == (0, "")
    assert f"{len(SHIPPED)} files without problems" in done.out


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


def test_hardware_shows_values_in_their_units_with_sources_and_what_is_unknown(run):
    shown = run("hardware", "show", "devices/h800-sxm").out
    for part in ("989.4 TFLOP/s", "3.35 TB/s", "200 GB/s", "2 $/h", "700 W", "1.83 GHz"):
        assert part in shown
    assert "price.purchase" in shown
    assert "unknown" in shown
    assert "price.purchase: no source (NVIDIA publishes no list price.)" in shown
    document = json.loads(run("hardware", "show", "h800-sxm", "--json").out)
    assert document["links"]["nvlink"]["bandwidth"] == 200e9
    assert document["price"]["purchase"] is None


@pytest.mark.parametrize("name", ["nodes/hgx-h800", "clusters/h800-2048-mpft", "frameworks/default"])
def test_hardware_shows_nodes_clusters_and_frameworks(run, name):
    assert run("hardware", "show", name).code == 0


def test_models_are_shown_with_what_can_be_counted(run):
    assert "deepseek-v3" in run("model", "list").out.split()
    facts = json.loads(run("model", "show", "deepseek-v3", "--json").out)
    assert facts["kv_cache_bytes_per_token"] == 70_272
    assert facts["parameters"] == pytest.approx(671.03e9, rel=1e-3)
    assert facts["active_parameters"] == pytest.approx(36.62e9, rel=1e-3)
    assert facts["active_parameters_with_embedding"] == pytest.approx(37.55e9, rel=1e-3)
    assert facts["training_flop_per_token"] == pytest.approx(250e9, rel=0.015)
    shown = run("model", "show", "models/deepseek-v3").out
    assert "70.272 kB" in shown
    assert "58 layers" in shown
