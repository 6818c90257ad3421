"""The terminal view of an installation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from costmodel.report.page import show, table

_SHOWN, _MISSING_SHOWN = 5, 2  # hidden files, and missing packages, that are listed
_GIB = 2**30
_INSTALLED, _MISSING = ("yes", "green"), ("no", "yellow")
_COLUMNS = ("devices", "nodes", "clusters", "frameworks", "models", "workloads")


def show_doctor(document: Mapping[str, Any]) -> None:
    """Print versions, extras, data folders, accelerator and the folder of compiled code. document: that of `--json`."""
    _show_versions(document["versions"])
    _show_extras(document["extras"])
    _show_roots(document["data_roots"])
    _show_accelerator(document["accelerator"])
    _show_compiled(document["numba"])
    _show_catalogue(document["catalogue"])


def _show_versions(versions: Mapping[str, Any]) -> None:
    show("versions", "bold")
    show(f"costmodel {versions['costmodel']} in {versions['package']}")
    show(f"Python {versions['python']} ({versions['executable']}) on {versions['platform']}")
    if versions["dependencies"]:
        rows = table("package", "version", "required", "met")
        for name, package in versions["dependencies"].items():
            met = _INSTALLED if package["met"] else ("no", "red")
            rows.add(name, package["version"] or "not installed", package["requires"], met)
        show(rows)


def _show_extras(extras: Mapping[str, Any]) -> None:
    show("\nextras", "bold")
    if not extras:
        show("none: the package's metadata list no extras")
        return
    rows = table("extra", "installed", "gives", "?missing")
    for name, extra in extras.items():
        missing = _first(extra["missing"], _MISSING_SHOWN)
        rows.add(name, _INSTALLED if extra["installed"] else _MISSING, extra["gives"], missing)
    show(rows)
    for extra in extras.values():
        if not extra["installed"]:
            show(f"to add it: {extra['install']}", "dim")


def _first(names: Sequence[str], shown: int) -> str:
    """Return the first of some names, and how many more there are."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _show_roots(roots: Sequence[Mapping[str, Any]]) -> None:
    show("\ndata folders, in the order in which a file is looked for", "bold")
    if not roots:
        return
    rows = table("named by", *(f">{kind}" for kind in _COLUMNS), "folder")
    for root in roots:
        counts = (f"{root['counts'][kind]:,}" for kind in _COLUMNS)
        rows.add(root["named_by"], *counts, root["path"] if root["exists"] else f"{root['path']} (absent)")
    show(rows)
    for root in roots:
        if root["shadows"]:
            hidden = _first(root["shadows"], _SHOWN)
            show(f"{root['path']} hides files of the same name in later folders: {hidden}")


def _show_accelerator(facts: Mapping[str, Any] | None) -> None:
    show("\naccelerator", "bold")
    if facts is None:
        show("none: torch is needed to find one; pip install 'costmodel[profile]'")
        return
    build = f"CUDA {facts['cuda']}" if facts["cuda"] else "no CUDA"
    show(f"{facts['name']}, {facts['memory'] / _GIB:.1f} GiB; torch {facts['torch']} built for {build}")
    if facts["kind"] == "cpu":
        show("torch finds no GPU: `costmodel profile` times this CPU")
        return
    show(f"driver {facts['driver'] or 'unknown (nvidia-smi does not run)'}")
    file = facts["device_file"]
    show(f"described by devices/{file}" if file else "no device file describes it: `costmodel profile` writes one")


def _show_compiled(numba: Mapping[str, Any] | None) -> None:
    show("\ncompiled code", "bold")
    if numba is None:
        show("none: serving and flows run as Python, many times slower; pip install 'costmodel[fast]'")
    elif numba["writable"]:
        some = f"{numba['compiled']:,} functions compiled" if numba["compiled"] else "none yet: the first run compiles"
        show(f"numba {numba['version']} keeps that of serving in {numba['folder']} ({some})")
    else:
        show(f"numba {numba['version']} keeps none")


def _show_catalogue(catalogue: Mapping[str, Any] | None) -> None:
    show("\ncompiled catalogue", "bold")
    if catalogue is None or catalogue["folder"] is None:
        show("none: every run reads its files anew")
    else:
        show(f"{catalogue['entries']:,} entries in {catalogue['folder']}")
