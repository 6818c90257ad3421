"""Single files by name or path: for the commands that show hardware and models, and for `validate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from costmodel.errors import InputError, Problem
from costmodel.hardware import Cluster, Device, Node
from costmodel.schema import build
from costmodel.schema.assemble import Assembly
from costmodel.schema.calibration import FitsFile
from costmodel.schema.case import CaseFile, check_cases
from costmodel.schema.cluster import ClusterFile, NodeFile
from costmodel.schema.device import DeviceFile
from costmodel.schema.fit_plan import FitPlanFile
from costmodel.schema.framework import FrameworkFile, PrecisionFile
from costmodel.schema.installation import install, install_device, install_node
from costmodel.schema.model import ModelFile
from costmodel.schema.references import Library, as_reference
from costmodel.schema.resolve import in_order, resolve_tree
from costmodel.schema.strict import Strict
from costmodel.schema.tree import Tree
from costmodel.schema.what_if import WhatIfFile
from costmodel.schema.workload import WorkloadFile
from costmodel.workload.architecture import Architecture

Made = TypeVar("Made")

FILES: dict[str, type[Strict]] = {
    "device": DeviceFile, "node": NodeFile, "cluster": ClusterFile, "framework": FrameworkFile,
    "precision": PrecisionFile, "calibration": FitsFile, "model": ModelFile, "workload": WorkloadFile, "case": CaseFile,
    "what_if": WhatIfFile, "fit_plan": FitPlanFile,
}  # fmt: skip
"""The model of every kind of file."""


def validate(path: str | Path, search_path: Sequence[str | Path] = ()) -> list[Problem]:
    """Return every problem of a file and of the files that it names, by file and line; none if it is sound."""
    assembly = Assembly(Library(search_path))
    with assembly.noting():
        _check(assembly, Path(path))
    return in_order(assembly.problems)


def _check(assembly: Assembly, path: Path) -> None:
    library = assembly.library
    schema = library.schema_of(path)
    tree = library.read(path, schema)
    if schema == "workload":
        resolve_tree(tree, path.stem, library)
    elif schema == "case":
        check_cases(assembly, tree, path)
    elif schema == "cluster":
        install(assembly, tree, None, 1.0, None)
    elif schema == "node":
        install_node(assembly, tree)
    elif schema == "device":
        install_device(assembly, tree)
    else:
        assembly.part(FILES[schema], tree)


def list_names(kind: str, search_path: Sequence[str | Path] = ()) -> list[str]:
    """Return the names of the files of a kind: `devices`, `models` … or `workloads`."""
    return Library(search_path).names(kind)


def load_device(name: str, search_path: Sequence[str | Path] = ()) -> Device:
    """Return the device of a name or a file."""
    return _load(name, "device", search_path, lambda assembly, tree: install_device(assembly, tree)[1])


def load_node(name: str, search_path: Sequence[str | Path] = ()) -> Node:
    """Return the node of a name or a file, its device inside."""
    return _load(name, "node", search_path, lambda assembly, tree: install_node(assembly, tree)[2])


def load_cluster(name: str, search_path: Sequence[str | Path] = (), *, devices: float = 1.0) -> Cluster:
    """Return the cluster of a name or a file; of a node, as many of it as hold `devices`."""
    assembly = Assembly(Library(search_path))
    with assembly.noting():
        return install(assembly, Tree(as_reference(name)), None, devices, None).built
    raise InputError(in_order(assembly.problems))


def load_model(name: str, search_path: Sequence[str | Path] = ()) -> Architecture:
    """Return the model of a name or a file."""
    return _load(
        name, "model", search_path, lambda assembly, tree: build.architecture(assembly.part(ModelFile, tree).file)
    )  # fmt: skip


def load_document(kind: str, name: str, search_path: Sequence[str | Path] = ()) -> dict[str, Any]:
    """Return a file of a kind (`devices`, `models` …) as nested dicts, checked and in SI, with its sources."""
    schema = kind.removesuffix("s")
    return _load(name, schema, search_path, lambda assembly, tree: assembly.part(FILES[schema], tree).file.model_dump())


def _load(name: str, schema: str, search_path: Sequence[str | Path], make: Callable[[Assembly, Tree], Made]) -> Made:
    assembly = Assembly(Library(search_path))
    with assembly.noting():
        tree = assembly.library.document(Tree(as_reference(name)), f"{schema}s", schema, "")
        return make(assembly, tree)
    raise InputError(in_order(assembly.problems))
