"""The hardware of a scenario: from what `cluster` says to a cluster of nodes of devices."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from costmodel.declared import SI
from costmodel.errors import InputError, Problem, suggest
from costmodel.hardware import Cluster, Device, Node
from costmodel.quantities import Count, ceil, is_single, minimum
from costmodel.records import Record, replace
from costmodel.schema import build
from costmodel.schema.assemble import Assembly, DocumentPart, Stop
from costmodel.schema.device import ClusterFile, DeviceFile, NodeFile
from costmodel.schema.framework import FrameworkFile
from costmodel.schema.hardware_names import called, kind_of_name, nearest
from costmodel.schema.inputs import record_folder
from costmodel.schema.kernel_names import unknown_names
from costmodel.schema.overrides import apply_overrides
from costmodel.schema.plausible import implausible
from costmodel.schema.references import Library
from costmodel.schema.strict import Strict, validate_tree
from costmodel.schema.tree import KEPT, Tree

_KINDS: dict[type[Strict], str] = {
    DeviceFile: "device", NodeFile: "node", ClusterFile: "cluster", FrameworkFile: "framework"
}  # fmt: skip


class NodeInstallation(Record):
    """A node, its document and its device's."""

    device_part: DocumentPart[DeviceFile]
    node_part: DocumentPart[NodeFile]
    node: Node


class Installation(Record):
    """A scenario's hardware: its documents, and the cluster that they describe."""

    device_part: DocumentPart[DeviceFile]
    node_part: DocumentPart[NodeFile]
    cluster_part: DocumentPart[ClusterFile]
    cluster: Cluster


def install(
    assembly: Assembly, reference: Tree, scenario: str | None, ranks: build.Ranks, limit: Count | None = None
) -> Installation:
    """Return the hardware that a scenario's `cluster` means.

    scenario: null for a cluster file by itself.
    ranks: those of the layout. A node instead of a cluster means as many such nodes as hold them.
    limit: the scenario's `devices`: only the first so many are used.
    """
    above = f"scenarios.{scenario}.cluster" if scenario else ""
    reference, most = _as_called(assembly, reference)
    limit = most if limit is None else limit
    ranks = ranks if limit is None else replace(ranks, devices=limit)
    document, field, is_node = _cluster_document(assembly, reference, above)
    overrides = assembly.overrides_of("cluster", scenario)
    of_node = [override for override in overrides if override.target.path[0] == "node"]
    name = apply_overrides(document, of_node, field).child("node")
    inner: NodeInstallation | None = None
    with assembly.collecting_problems():
        inner = _install_named_node(assembly, name, scenario, above)
    if inner is not None:
        share = build.share_of_node(ranks, inner.node.count, np.inf)
        needed = ceil(ranks.devices / share) if is_node else None
        document = _with_defaults(document, inner.node, needed, reference)
    elif is_node:
        raise Stop
    network = document.child("network")
    if network is None or network.value is None:  # an override of every scenario's network does not apply here
        overrides = [
            override for override in overrides
            if override.target.scenario or override.target.path[0] != "network" or len(override.target.path) == 1
        ]  # fmt: skip
    part = assembly.part(ClusterFile, document, overrides, field)
    if inner is None:
        raise Stop
    part.require()
    assembly.warnings.extend(unlike_others(ClusterFile, part.tree, part.original))
    cluster = build.cluster(part.file, inner.node)
    used = build.share_of_node(ranks, cluster.node.count, cluster.count)
    cluster = replace(cluster, node=replace(cluster.node, count=used))
    cluster = cluster if limit is None else _first_devices(limit, cluster, scenario)
    return Installation(inner.device_part, inner.node_part, part, cluster)


def _install_named_node(assembly: Assembly, name: Tree | None, scenario: str | None, above: str) -> NodeInstallation:
    if name is None or not isinstance(name.value, str):
        raise Stop
    if _kind_of(assembly.library, name, above) == "devices":
        return install_node(assembly, _alone(assembly, name, above), scenario)
    document = assembly.library.document(name, "nodes", "node", f"{above}.node".lstrip("."))
    return install_node(assembly, document, scenario)


def _alone(assembly: Assembly, device: Tree, above: str) -> Tree:
    """Return the document of a node that holds one device and nothing else, whose first link leads to the host."""
    document = assembly.library.document(device, "devices", "device", above)
    links = document.child("links")
    link = next(iter(links.value), None) if links is not None and links.is_mapping else None
    if link is None:
        message, hint = "has no link to a host", "add `links: {pcie: {bandwidth: 64 GB/s, latency: null}}`"
        assembly.problems.append(Problem(document.location, "links", message, hint))
    entries = {
        "name": document.child("name"), "device": device, "count": Tree(1), "intra": Tree(link or "pcie"),
        "host": Tree({"link": Tree(link)}) if link else None,
    }  # fmt: skip
    return Tree({key: each for key, each in entries.items() if each is not None}, device.location)


def _with_defaults(document: Tree, node: Node, needed: Count | None, reference: Tree) -> Tree:
    """Return a cluster's document with its defaults.

    A node instead of a cluster gets its name and the count that is needed. Several nodes with a NIC but without a
    network share one switch, as wide as they need and without a latency of its own.
    """
    location = reference.location
    if needed is not None:
        document = document.with_entries(name=Tree(node.name, location), count=Tree(SI(needed), location))
    count_tree, network = document.child("count"), document.child("network")
    count = count_tree.value if count_tree else None
    count = count.value if isinstance(count, SI) else count
    has_network = network is not None and network.value is not None
    if node.nic is None or has_network or not isinstance(count, (int, float, np.ndarray)):
        return document
    if np.all(np.less_equal(count, 1)):
        return document
    radix = count * node.count * node.nic.per_device
    switch = Tree({"topology": Tree("unspecified"), "radix": Tree(SI(radix))}, location)
    return document.with_entries(network=switch)


def install_node(assembly: Assembly, document: Tree, scenario: str | None = None) -> NodeInstallation:
    """Return a node and its device, with their documents."""
    part = assembly.part(NodeFile, document, assembly.overrides_of("node", scenario))
    name = part.tree.child("device")
    if name is None or not isinstance(name.value, str):
        raise Stop
    device_tree = assembly.library.document(name, "devices", "device", "device")
    device_part, device = install_device(assembly, device_tree, scenario)
    part.require()
    for field in ("intra", "host.link"):
        link = part.tree.at(field.split("."))
        if link is not None and link.value not in device.links:
            raise link.error(
                f"{device.name} has no link {link.value!r}", suggest(link.value, list(device.links)), field
            )
    assembly.warnings.extend(unlike_others(NodeFile, part.tree, part.original))
    return NodeInstallation(device_part, part, build.node(part.file, device))


def _cluster_document(assembly: Assembly, reference: Tree, above: str) -> tuple[Tree, str, bool]:
    """Return the cluster's document, its field, and whether it is a node instead of a cluster."""
    if reference.is_mapping:
        return (*assembly.inline_or_named(reference, "cluster", above), False)
    if _kind_of(assembly.library, reference, above) != "clusters":
        return Tree({"node": reference}, reference.location), above, True
    return (*assembly.inline_or_named(reference, "cluster", above), False)


def _as_called(assembly: Assembly, reference: Tree) -> tuple[Tree, int | None]:
    """Return a reference, or that of the node which people call so, and the number of devices that they state."""
    text = reference.value
    meant = called(text, assembly.library) if isinstance(text, str) else None
    if meant is None:
        return reference, None
    node, number = meant
    of = "" if number is None else f"{number} device{'' if number == 1 else 's'} of "
    note = f"{text} is read as {of}{node}, by its name"
    assembly.notes.extend([] if note in assembly.notes else [note])
    return replace(reference, value=node), number


def _kind_of(library: Library, reference: Tree, above: str) -> str:
    """Return of which folder's kind a reference to hardware is: a device stands for a node that holds it alone."""
    text = str(reference.value)
    if text.startswith("./"):
        schema = library.schema_of(library.find(text, "clusters", origin=reference.location, field=above))
        return f"{schema}s" if schema in ("node", "device") else "clusters"
    kind = kind_of_name(text, library)
    if kind is None:
        near = nearest(text, library) or "describe it in a file, as docs/howto/add_a_gpu.md does"
        part = "; layouts of fewer ranks take a part of a node" if re.search(r"-x\d+$", text) else ""
        hint = f"{near} (`costmodel hardware list` has all{part})"
        raise reference.error(f"unknown cluster or node {text!r}", hint, above)
    return kind


def install_device(
    assembly: Assembly, document: Tree, scenario: str | None = None
) -> tuple[DocumentPart[DeviceFile], Device]:
    """Return a device's document and the device."""
    part = assembly.part(DeviceFile, document, assembly.overrides_of("device", scenario))
    original = assembly.part(DeviceFile, document)
    part.require()
    assembly.warnings.extend(unlike_others(DeviceFile, part.tree, document))
    assembly.problems.extend(unknown_names(assembly.library, part.tree))
    restated = frozenset(
        name for name in part.file.math
        if part.tree.at(("math", name, "peak")) is not document.at(("math", name, "peak"))
    )  # fmt: skip
    device = build.device(part.file, original.file, restated)
    if assembly.library.has("devices", device.name) or document.location is None or document.location.line is None:
        return part, device
    record_folder()
    return part, replace(device, path=str(Path(document.location.source).resolve()))


@lru_cache(maxsize=KEPT)
def unlike_others(model: type[Strict], tree: Tree, original: Tree | None = None) -> tuple[Problem, ...]:
    """Return what is unlike all known hardware in a document; nothing of one that is not valid, which others say."""
    file = validate_tree(model, tree, [])
    return () if file is None else tuple(implausible(_KINDS[model], file, tree, original=original))


def _first_devices(limit: Count, cluster: Cluster, scenario: str | None) -> Cluster:
    """Return the cluster of the first `limit` devices: as many of each node, or a part of one."""
    used = minimum(limit, cluster.node.count)
    nodes = limit / used
    if is_single(limit) and is_single(cluster.devices) and (limit > cluster.devices or nodes != int(nodes)):
        raise InputError.single(
            f"cannot use the first {limit:g} devices of {cluster.count:g} nodes with {cluster.node.count:g} each",
            hint=f"write at most {cluster.devices:g}, in whole nodes or inside one",
            field=f"scenarios.{scenario}.devices",
        )  # fmt: skip
    return replace(cluster, node=replace(cluster.node, count=used), count=nodes)
