"""Single files by name or path: for the commands that show hardware and models, and for `validate`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from costmodel.errors import ImplausibleInput, InputError, Problem
from costmodel.hardware import Cluster, Device, Network, Node
from costmodel.quantities import Quantity
from costmodel.records import Record
from costmodel.schema import build, build_model
from costmodel.schema.anchor import AnchorFile, SiteScatterFile
from costmodel.schema.assemble import Assembly, Stop, in_order
from costmodel.schema.calibration import EffectsFile, FitsFile, KernelAnchorsFile, RelativesFile
from costmodel.schema.case import CaseFile, ValidationFile, check_cases
from costmodel.schema.device import ClusterFile, DeviceFile, NodeFile, TopologyFile
from costmodel.schema.document import model_document
from costmodel.schema.fit_plan import FitPlanFile
from costmodel.schema.framework import FrameworkFile, PrecisionFile
from costmodel.schema.hugging_face import import_config
from costmodel.schema.installation import install, install_device, install_node, unlike_others
from costmodel.schema.kernel_names import unknown_names
from costmodel.schema.loader import parse_tree, yaml_of
from costmodel.schema.model import ModelFile
from costmodel.schema.model_names import is_config, model_reference
from costmodel.schema.overrides import read_overrides
from costmodel.schema.references import Library, as_reference, folder_of
from costmodel.schema.resolve import measured_steps, resolve_tree
from costmodel.schema.strict import Strict
from costmodel.schema.tree import Tree
from costmodel.schema.what_if import LeversFile, StudyFile, WhatIfFile
from costmodel.schema.workload import WorkloadFile
from costmodel.workload.architecture import Architecture
from costmodel.workload.framework_parts import TunedTiles
from costmodel.workload.scenario import Framework, Precision

Loaded = TypeVar("Loaded")

FILES: dict[str, type[Strict]] = {
    "device": DeviceFile, "node": NodeFile, "cluster": ClusterFile, "framework": FrameworkFile,
    "precision": PrecisionFile, "calibration": FitsFile, "model": ModelFile, "workload": WorkloadFile, "case": CaseFile,
    "what_if": WhatIfFile, "fit_plan": FitPlanFile, "topology": TopologyFile, "validation": ValidationFile,
    "study": StudyFile, "anchor": AnchorFile, "site_scatter": SiteScatterFile,
    "kernel_anchors": KernelAnchorsFile, "effects": EffectsFile, "relatives": RelativesFile, "lever": LeversFile,
}  # fmt: skip
"""Kind of file -> its model."""


def validate(path: str | Path, search_path: Sequence[str | Path] = ()) -> list[Problem]:
    """Return every problem of a file, or of the workload of that name, and of the files that it refers to."""
    library = Library(search_path)
    assembly = Assembly(library)
    with assembly.collecting_problems():
        is_name = not Path(path).exists() and library.has_workload(path)
        _check(assembly, library.find_workload(path) if is_name else Path(path))
    return in_order([*assembly.problems, *assembly.warnings])


def _check(assembly: Assembly, path: Path) -> None:
    library = assembly.library
    if is_config(path):
        assembly.part(ModelFile, import_config(path).tree)
        return
    schema = library.schema_of(path)
    tree = library.read(path, schema)
    if schema == "workload":
        assembly.problems.extend(resolve_tree(tree, path.stem, library).warnings)
    elif schema == "case":
        check_cases(assembly, tree, path)
    elif schema == "anchor":
        measured_steps(tree, library)
    elif schema == "cluster":
        install(assembly, tree, None, build.Ranks(1.0))
    elif schema == "node":
        install_node(assembly, tree)
    elif schema == "device":
        install_device(assembly, tree)
    else:
        part = assembly.part(FILES[schema], tree)
        assembly.problems.extend(library.clashes(path, folder_of(schema)))
        if schema == "framework":
            assembly.problems.extend(unknown_names(library, tree))
            part.require()
            assembly.warnings.extend(unlike_others(FrameworkFile, part.tree))


def list_names(kind: str, search_path: Sequence[str | Path] = ()) -> list[str]:
    """Return the names of the files of a kind: `devices`, `models` … or `workloads`."""
    return Library(search_path).names(kind)


def load_device(name: str, search_path: Sequence[str | Path] = ()) -> Device:
    """Return the device of a name or a file."""
    return _load(name, "device", search_path, lambda assembly, tree: install_device(assembly, tree)[1])


def load_tuned_tiles(framework: str, device: str, search_path: Sequence[str | Path] = ()) -> TunedTiles:
    """Return the layers of experts whose tiles a framework ships tuned on a device, both by name."""
    return _load(
        framework, "framework", search_path,
        lambda assembly, tree: build.tuned_tiles(assembly.part(FrameworkFile, tree).file, device),
    )  # fmt: skip


def load_framework(name: str, search_path: Sequence[str | Path] = ()) -> Framework:
    """Return the framework of a name or a file, on no device in particular."""
    return _load(
        name, "framework", search_path,
        lambda assembly, tree: build.framework(assembly.part(FrameworkFile, tree).file),
    )  # fmt: skip


def load_precision(name: str, search_path: Sequence[str | Path] = ()) -> Precision:
    """Return the number formats of a name or a file, with an optimizer of its own widths."""
    return _load(
        name, "precision", search_path,
        lambda assembly, tree: build.precision(assembly.part(PrecisionFile, tree).file),
    )  # fmt: skip


def load_topology(name: str, search_path: Sequence[str | Path] = ()) -> tuple[Network, Quantity | None]:
    """Return the network of a topology file, and how many endpoints are in use: null for all."""

    def load(assembly: Assembly, tree: Tree) -> tuple[Network, Quantity | None]:
        file = assembly.part(TopologyFile, tree).file
        return build.network(file.network), file.endpoints

    return _load(name, "topology", search_path, load)


def load_node(name: str, search_path: Sequence[str | Path] = ()) -> Node:
    """Return the node of a name or a file, with its device."""
    return _load(name, "node", search_path, lambda assembly, tree: install_node(assembly, tree).node)


def load_cluster(
    name: str,
    search_path: Sequence[str | Path] = (),
    *,
    devices: float = 1.0,
    changes: Mapping[str, object] | None = None,
) -> Cluster:
    """Return the cluster of a name or a file. For a node, a cluster of as many as hold `devices`.

    changes: paths of `hardware.…` and their new values, as for `--set`. Warns of implausible values.
    """
    overrides = read_overrides(changes or {}, [])
    for override in overrides:
        if override.target.document not in ("cluster", "node", "device"):
            raise override.value.error("is not part of the hardware", "write --set hardware.…")
    assembly = Assembly(Library(search_path), overrides)
    with assembly.raising_problems():
        cluster = install(assembly, Tree(as_reference(name)), None, build.Ranks(devices)).cluster
        assembly.report_unused()
        if assembly.problems:
            raise Stop
        for problem in in_order(assembly.warnings):
            warnings.warn(str(problem), ImplausibleInput, stacklevel=2)
        return cluster


def load_model(name: str, search_path: Sequence[str | Path] = ()) -> Architecture:
    """Return the model of a name, a file, a config.json or the folder that holds one."""
    return read_model(name, search_path).architecture


class ModelDocument(Record):
    """A model. document: its file, checked, in SI, with its sources; notes: what the file says that is ignored."""

    architecture: Architecture
    document: dict[str, Any]
    notes: tuple[str, ...]


def read_model(name: str, search_path: Sequence[str | Path] = (), chosen: str | None = None) -> ModelDocument:
    """Return the model of a name, a file, a config.json or the folder that holds one, with its document and notes.

    chosen: the family to read a config.json by (null: as it says).
    """
    assembly = Assembly(Library(search_path))
    with assembly.raising_problems():
        reference = model_reference(name)
        asked = Tree(reference) if chosen is None else Tree({"hf": Tree(reference), "as": Tree(chosen)})
        tree, _ = assembly.model(asked, "")
        file = assembly.part(ModelFile, tree).file
        document = model_document(file) | file.model_dump(include={"aliases", "sources"})
        return ModelDocument(build_model.architecture(file), document, tuple(assembly.notes))


def read_models(search_path: Sequence[str | Path] = ()) -> tuple[dict[str, ModelDocument], list[Problem]]:
    """Return every model on the search path by its name, and the problems of those that cannot be read."""
    models: dict[str, ModelDocument] = {}
    problems: list[Problem] = []
    for name in list_names("models", search_path):
        try:
            models[name] = read_model(name, search_path)
        except InputError as error:
            problems.extend(error.problems)
    return models, problems


def imported_yaml(
    path: str | Path, chosen: str | None = None, stated: Mapping[str, Any] | None = None
) -> tuple[str, tuple[str, ...]]:
    """Return a config.json, or that of a folder, as the text of a model file, and notes on its ignored keys.

    chosen: the family to read it by (null: as the file says).
    stated: what no config.json says: name, aliases, sources (null: that it was imported from there).
    """
    assembly = Assembly(Library())
    with assembly.raising_problems():
        imported = import_config(Path(path), chosen=chosen)
        assembly.part(ModelFile, imported.tree).require()
        source = {"fields": ["hidden", "vocabulary", "layers"], "cite": f"imported from {path}", "kind": "derived"}
        said = {"sources": [source], **(stated or {})}
        entries = {key: parse_tree(json.dumps(value), str(path)) for key, value in said.items()}
        return yaml_of(imported.tree.with_entries(**entries), "model"), imported.notes


def load_document(kind: str, name: str, search_path: Sequence[str | Path] = ()) -> dict[str, Any]:
    """Return a file of a kind (`devices`, `models` …) as nested dicts, checked and in SI, with its sources."""
    schema = next(schema for schema in FILES if folder_of(schema) == kind)
    return _load(name, schema, search_path, lambda assembly, tree: assembly.part(FILES[schema], tree).file.model_dump())


def _load(
    name: str, schema: str, search_path: Sequence[str | Path], load: Callable[[Assembly, Tree], Loaded]
) -> Loaded:
    assembly = Assembly(Library(search_path))
    with assembly.raising_problems():
        tree = assembly.library.document(Tree(as_reference(name)), folder_of(schema), schema, "")
        return load(assembly, tree)
