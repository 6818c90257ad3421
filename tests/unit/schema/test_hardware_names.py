"""What people call machines means the node that they mean, and as many of its devices as they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from costmodel.analytic.model_start import start_workload
from costmodel.errors import InputError
from costmodel.schema.files import list_names, load_cluster
from costmodel.schema.hardware_names import called, nearest
from costmodel.schema.references import Library


@pytest.mark.parametrize(
    ("text", "node", "number"),
    [
        ("h100", "dgx-h100", None),
        ("8xH100", "dgx-h100", 8),
        ("h100-x8", "dgx-h100", 8),
        ("nodes/h100-x8", "dgx-h100", 8),
        ("8x NVIDIA H100", "dgx-h100", 8),
        ("1xh100", "h100-x1", 1),
        ("4xh100", "dgx-h100", 4),
        ("h100:16", "dgx-h100", 16),
        ("4090", "rtx-4090-x1", None),
        ("RTX 4090", "rtx-4090-x1", None),
        ("8x RTX 4090", "rtx-4090-x8", 8),
        ("2x4090", "rtx-4090-x8", 2),
        ("4xL40S", "l40s-x8", 4),
        ("8xMI300X", "mi300x-x8", 8),
        ("72x GB200", "gb200-nvl72", 72),
        ("vr-nvl72", "vr-nvl144", None),
        ("gb200", "gb200-nvl72", None),
        ("h20", "hgx-h20", None),
        ("mi300x", "mi300x-x8", None),
    ],
)
def test_a_machine_is_what_people_call_it(text: str, node: str, number: int | None) -> None:
    assert called(text, Library()) == (f"nodes/{node}", number)


@pytest.mark.parametrize(
    "text",
    [
        "0xh100",
        "8xfoo",
        "foo",
        "x8",
        "8x",
        "",
        "dgx-h100",
        "nodes/dgx-h100",
        "h800-2048-mpft",
        "./h100",
        "l40s",
        "devices/h20",
    ],
)
def test_what_nothing_is_called_and_names_of_files_mean_nothing_else(text: str) -> None:
    assert called(text, Library()) is None


@pytest.mark.parametrize(
    ("text", "meant"),
    [("RTX 490", "rtx4090"), ("8xH10", "h100"), ("h210", "h200"), ("4xl40x", "l40s"), ("dgx-h1000", "nodes/dgx-h100")],
)
def test_a_name_that_nothing_has_is_answered_with_those_near_it(text: str, meant: str) -> None:
    assert f"`{meant}`" in nearest(text, Library())
    with pytest.raises(InputError, match=meant):
        load_cluster(text)


def test_a_name_that_is_near_nothing_is_answered_with_where_to_describe_it() -> None:
    assert nearest("toaster", Library()) == ""
    with pytest.raises(InputError, match="add_a_gpu"):
        load_cluster("toaster")


def test_a_stated_number_of_devices_is_all_there_are() -> None:
    part, two, whole = (load_cluster(name, devices=1) for name in ("4xh100", "16xh100", "nodes/dgx-h100"))
    assert (part.devices, part.node.count) == (4, 4)
    assert (two.devices, two.node.count) == (16, 8)
    assert whole.node.device.name == part.node.device.name == two.node.device.name


def test_a_number_that_no_whole_nodes_have_is_refused() -> None:
    with pytest.raises(InputError, match="dgx-h100 has 8 devices"):
        load_cluster("12xh100")


def test_every_node_goes_by_its_own_file_first() -> None:
    assert {name for name in list_names("nodes") if load_cluster(f"nodes/{name}").node.name != name} == set()


def test_a_training_step_takes_the_stated_devices() -> None:
    for number in (8, 16):
        start = start_workload("llama-3-8b", [f"{number}xh100"], ["training"])
        assert re.search(rf"on {number} devices of {number}xh100", start.lines[0])


def test_a_device_by_itself_has_its_folder_before_it() -> None:
    alone, node = (load_cluster(name, devices=8) for name in ("devices/gb200", "gb200"))
    assert (alone.node.count, node.node.count) == (1, 72)
    assert alone.node.device.name == node.node.device.name


def test_own_nodes_have_names_too(tmp_path: Path) -> None:
    folder = tmp_path / "hardware/nodes"
    folder.mkdir(parents=True)
    (folder / "ours.yaml").write_text(
        "schema: costmodel/node@1\nextends: nodes/dgx-h100\nname: ours\naliases: [tower]\n"
    )
    (folder / "torn.yaml").write_text("schema: [")
    assert called("tower", Library([tmp_path])) == ("nodes/ours", None)
