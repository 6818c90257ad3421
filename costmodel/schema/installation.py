"""The hardware of a scenario: from what `cluster` says to a cluster of nodes of devices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from costmodel.errors import InputError
from costmodel.hardware import Cluster, Device, Node
from costmodel.quantities import Count, is_single
from costmodel.schema import build
from costmodel.schema.assemble import Assembly, DocumentPart, Stop
from costmodel.schema.cluster import ClusterFile, NodeFile
from costmodel.schema.device import DeviceFile
from costmodel.schema.overrides import apply_overrides
from costmodel.schema.quantity import SI
from costmodel.schema.references import suggest
from costmodel.schema.tree import Tree


@dataclass(frozen=True, slots=True, eq=False)
class Installation:
    """A scenario's hardware: its documents, and the cluster that they build."""

    device_part: DocumentPart[DeviceFile]
    node_part: DocumentPart[NodeFile]
    cluster_part: DocumentPart[ClusterFile]
    built: Cluster


def install(
    assembly: Assembly, reference: Tree, scenario: str | None, layout: Count, limit: Count | None
) -> Installation:
    """Return the hardware that a scenario's `cluster` means.

    layout: devices that the layout takes; a node where a cluster is expected stands for as many as hold them.
    limit: the scenario's `devices`: only the first so many are kept. scenario: null for a cluster file by itself.
    """
    place = f"scenarios.{scenario}.cluster" if scenario else ""
    document, field, is_node = _cluster_document(assembly, reference, place)
    changes = assembly.overrides_of("cluster", scenario)
    named = apply_overrides(document, [change for change in changes if change.target.path[0] == "node"], field).child(
        "node"
    )
    inside = None
    with assembly.collecting_problems():
        inside = _inside(assembly, named, scenario, place)
    if inside is not None:
        needed = build.nodes_for(layout if limit is None else limit, inside[2].count) if is_node else None
        document = _completed(document, inside[2], needed, reference)
    elif is_node:
        raise Stop
    fabric = document.child("network")
    if fabric is None or fabric.value is None:  # what a change for all scenarios does to a fabric passes this one by
        changes = [c for c in changes if c.target.scenario or c.target.path[0] != "network" or len(c.target.path) == 1]
    cluster = assembly.part(ClusterFile, document, changes, field)
    if inside is None:
        raise Stop
    node, device, built_node = inside
    built = build.cluster(cluster.file, built_node)
    built = built if limit is None else _first(limit, built, scenario)
    return Installation(device, node, cluster, built)


def _inside(
    assembly: Assembly, named: Tree | None, scenario: str | None, place: str
) -> tuple[DocumentPart[NodeFile], DocumentPart[DeviceFile], Node]:
    """Return what a cluster's `node` names."""
    if named is None or not isinstance(named.value, str):
        raise Stop
    stated = assembly.library.document(named, "nodes", "node", f"{place}.node".lstrip("."))
    return install_node(assembly, stated, scenario)


def _completed(document: Tree, node: Node, needed: Count | None, reference: Tree) -> Tree:
    """Return a cluster's document with what it leaves open.

    A node that stands for a cluster gets its name and the count that is needed. Several nodes with a NIC and without a
    stated network hang on one switch as wide as they need, without a latency of its own.
    """
    at = reference.location
    if needed is not None:
        document = document.with_entries(name=Tree(node.name, at), count=Tree(SI(needed), at))
    stated, fabric = document.child("count"), document.child("network")
    count = stated.value if stated else None
    count = count.value if isinstance(count, SI) else count
    is_stated = fabric is not None and fabric.value is not None
    if node.nic is None or is_stated or not isinstance(count, (int, float, np.ndarray)):
        return document
    if np.all(np.less_equal(count, 1)):
        return document
    radix = count * node.count * node.nic.per_device
    return document.with_entries(network=Tree({"topology": Tree("unspecified"), "radix": Tree(SI(radix))}, at))


def install_node(
    assembly: Assembly, stated: Tree, scenario: str | None = None
) -> tuple[DocumentPart[NodeFile], DocumentPart[DeviceFile], Node]:
    """Return a node's document, its device's, and the node that they build."""
    node = assembly.part(NodeFile, stated, assembly.overrides_of("node", scenario))
    named = node.tree.child("device")
    if named is None or not isinstance(named.value, str):
        raise Stop
    device, built = install_device(assembly, assembly.library.document(named, "devices", "device", "device"), scenario)
    node.require()
    for field in ("intra", "host.link"):
        stated_link = node.tree.at(field.split("."))
        if stated_link is not None and stated_link.value not in built.links:
            raise InputError.single(
                f"{built.name} has no link {stated_link.value!r}", hint=suggest(stated_link.value, list(built.links)),
                field=field, location=stated_link.location,
            )  # fmt: skip
    return node, device, build.node(node.file, built)


def _cluster_document(assembly: Assembly, reference: Tree, place: str) -> tuple[Tree, str, bool]:
    """Return the cluster's document, the field its own fields are below, and whether it stands for one node or more."""
    if reference.is_mapping:
        return (*assembly.inline_or_named(reference, "cluster", place), False)
    text, library = str(reference.value), assembly.library
    if text.startswith("./"):
        is_node = library.schema_of(library.find(text, "clusters", origin=reference.location, field=place)) == "node"
    else:
        known = [f"{kind}/{name}" for kind in ("clusters", "nodes") for name in library.names(kind)]
        found = [name for name in (text, f"clusters/{text}", f"nodes/{text}") if name in known]
        if not found:
            raise InputError.single(
                f"no cluster or node {text!r} is on the search path", hint=suggest(text, known),
                field=place, location=reference.location,
            )  # fmt: skip
        is_node = found[0].startswith("nodes/")
    if is_node:
        return Tree({"node": reference}, reference.location), place, True
    return (*assembly.inline_or_named(reference, "cluster", place), False)


def install_device(
    assembly: Assembly, stated: Tree, scenario: str | None = None
) -> tuple[DocumentPart[DeviceFile], Device]:
    """Return a device's document and the device."""
    part = assembly.part(DeviceFile, stated, assembly.overrides_of("device", scenario))
    before = assembly.part(DeviceFile, stated)
    restated = frozenset(
        name for name in part.file.math
        if part.tree.at(("math", name, "peak")) is not stated.at(("math", name, "peak"))
    )  # fmt: skip
    return part, build.device(part.file, before.file, restated)


def _first(limit: Count, whole: Cluster, scenario: str | None) -> Cluster:
    """Return the cluster of the first `limit` devices: whole nodes, or a part of one."""
    nodes, used = build.first_devices(limit, whole.node.count)
    if is_single(limit) and is_single(whole.devices) and (limit > whole.devices or nodes != int(nodes)):
        per_node = whole.node.count
        raise InputError.single(
            f"{limit:g} devices cannot be the first of {whole.count:g} nodes with {per_node:g} each",
            hint=f"write at most {whole.devices:g}, in whole nodes or inside one",
            field=f"scenarios.{scenario}.devices",
        )  # fmt: skip
    return replace(whole, node=replace(whole.node, count=used), count=nodes)
