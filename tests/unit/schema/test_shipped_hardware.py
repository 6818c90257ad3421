"""The shipped devices, nodes and clusters as a whole: reachable, sourced, consistent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import costmodel
from costmodel.hardware import Cluster
from costmodel.network.collectives import ring
from costmodel.network.group_links import group_links
from costmodel.records import replace
from costmodel.schema.device import NO_SOURCE
from costmodel.schema.files import list_names, load_cluster, load_document, load_node
from costmodel.workload.operators import Group

KINDS = ("devices", "nodes", "clusters", "topologies")
FILES = [(kind, name) for kind in KINDS for name in list_names(kind)]
NOT_MEASURED = ("name", "device", "node", "aliases", "calibration", "architecture", "sources", "routing", "per")


def leaves(value: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted field, value) of every leaf; items of lists stand under their names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{field}.{key}" if field else key)
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for item in value:
            yield from leaves(item, f"{field}.{item.get('name', '')}")
    else:
        yield field, value


def covered(field: str, sources: list[dict[str, Any]]) -> bool:
    """Tell whether a source covers a field, or a mapping that it stands in."""
    parts = field.split(".")
    above = {".".join(parts[: at + 1]) for at in range(len(parts))}
    return any(above & set(source["fields"]) for source in sources)


def test_every_device_is_reachable_through_a_node() -> None:
    used = {load_node(name).device.name for name in list_names("nodes")}
    assert set(list_names("devices")) <= used


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_a_file_is_named_as_it_says(kind: str, name: str) -> None:
    assert load_document(kind, name)["name"] == name


@pytest.mark.parametrize(("kind", "name"), FILES)
def test_every_quantity_has_a_source_and_every_gap_a_reason(kind: str, name: str) -> None:
    document = load_document(kind, name)
    bare = [
        field
        for field, value in leaves({key: value for key, value in document.items() if key not in NOT_MEASURED})
        if (isinstance(value, float) or field.rsplit(".", 1)[-1] in ("latency", "bandwidth", "tdp", "rental"))
        and not field.endswith(".name")
        and not (value is None and field == "network.bandwidth")  # as fast as the NIC
        and not covered(field, document["sources"])
    ]
    assert bare == []


def unsourced(document: dict[str, Any], field: str) -> bool:
    """Tell whether a file says that no source states a field."""
    return covered(field, [source for source in document["sources"] if source["cite"] == NO_SOURCE])


@pytest.mark.parametrize("name", list_names("devices"))
def test_every_device_has_a_rent_or_says_that_no_source_states_one(name: str) -> None:
    document = load_document("devices", name)
    rent = document["price"]["rental"]
    assert unsourced(document, "price.rental") if rent is None else rent > 0


@pytest.mark.parametrize("name", list_names("devices"))
def test_every_link_states_a_bandwidth_and_a_latency_or_why_not(name: str) -> None:
    document = load_document("devices", name)
    for link, values in document["links"].items():
        assert values["bandwidth"] > 0
        if values["latency"] is None:
            gaps = [source for source in document["sources"] if "no source" in source["cite"]]
            assert covered(f"links.{link}.latency", gaps)
        else:
            assert 1e-7 < values["latency"] < 1e-4


@pytest.mark.parametrize("name", list_names("devices"))
def test_idle_power_is_a_part_of_the_limit(name: str) -> None:
    document = load_document("devices", name)
    power = document["power"]
    if power["tdp"] is None:
        assert unsourced(document, "power.tdp")
        return
    assert power["idle"] is None or 0.02 * power["tdp"] < power["idle"] < 0.25 * power["tdp"]


@pytest.mark.parametrize("name", list_names("nodes"))
def test_a_host_s_link_is_one_of_its_devices(name: str) -> None:
    node = load_node(name)
    assert node.host.link in node.device.links


@pytest.mark.parametrize(
    ("name", "devices"),
    [("h800-2048-mpft", 2048), ("h800-2048-mrft", 2048), ("a100-superpod", 1120), ("h100-superpod", 1016),
     ("tpu-v6e-256", 256), ("tpu-v7-9216", 9216), ("trn2-torus", 64)],
)  # fmt: skip
def test_clusters_have_as_many_devices_as_published(name: str, devices: int) -> None:
    assert load_cluster(name).devices == devices


def test_mi300x_is_used_like_any_other_device(tmp_path: Path) -> None:
    workload = tmp_path / "amd.yaml"
    workload.write_text(
        "schema: costmodel/workload@1\nmodel: models/llama-3-8b\nscenarios:\n  decode:\n    phase: decode\n"
        "    cluster: nodes/mi300x-x8\n    parallel: {tp: 8}\n    batch_per_device: 8\n    input_tokens: 1024\n"
        "    output_tokens: 128\n    micro_batches: 1\n",
        encoding="utf-8",
    )
    document = costmodel.load(workload).simulate()["scenarios"]["decode"]
    assert document["memory"]["fits"]
    weights = 2 * 8.03e9 / 8 / 5.3e12  # read once a token
    assert document["metrics"]["tpot"] > weights


def test_results_on_a_device_that_is_a_forecast_say_so_and_what_is_unknown() -> None:
    def notes(cluster: str) -> list[str]:
        result = costmodel.load("deepseek_v3", cluster=cluster, scenarios=["decode"]).evaluate("decode")
        return [note for note in result.point().notes if "is a forecast" in note]

    (note,) = notes("nodes/vr-nvl144")
    assert note.startswith("vr200 is a forecast: announced in 2026")
    assert "power.idle" in note
    assert notes("nodes/gb200-nvl72") == []


@pytest.mark.parametrize(("node", "ranks"), [("hgx-b200", 8), ("trn2-ultraserver", 64), ("gb200-nvl72", 72),
                                             ("trn3-ultraserver", 144), ("cloudmatrix384", 384),
                                             ("gb200-nvl576", 576)])  # fmt: skip
def test_a_scale_up_domain_is_one_node(node: str, ranks: int) -> None:
    """A gather in it is one ring over its link alone: (n-1)/n of the bytes, n-1 steps."""
    cluster = Cluster("domain", load_node(node), 1, None)
    assert cluster.devices == ranks
    link, size = cluster.node.intra, 1e9
    links = group_links(Group(ranks, 1), cluster)
    assert links.nodes == 1
    assert ring(size, links) == pytest.approx(
        (ranks - 1) / ranks * size / link.bandwidth + (ranks - 1) * (link.latency or 0)
    )
    assert ring(size, group_links(Group(2 * ranks, 1), replace(cluster, count=2))) > ring(size, links)
