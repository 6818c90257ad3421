"""The terminal view of an installation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from costmodel.report.page import is_verbose, show, show_hint, table

_SHOWN, _MISSING_SHOWN = 5, 2  # hidden files, and missing packages, that are listed
_GIB = 2**30
_INSTALLED, _MISSING = ("yes", "green"), ("no", "yellow")
_COLUMNS = ("devices", "nodes", "clusters", "frameworks", "models", "workloads")


def show_doctor(document: Mapping[str, Any]) -> None:
    """Print whether all is there, then versions, extras, data folders, accelerator and what is kept between runs.

    document: that of `--json`.
    """
    versions, extras = document["versions"], document["extras"]
    met = [package["met"] for package in versions["dependencies"].values()]
    there = [extra["installed"] for extra in extras.values()]
    show(
        f"costmodel {versions['costmodel']} on Python {versions['python']}: {sum(met)} of {len(met)} packages are met, "
        f"{sum(there)} of {len(there)} extras installed", "bold" if all(met) else "red",
    )  # fmt: skip
    show(f"costmodel in {versions['package']}; Python is {versions['executable']} on {versions['platform']}")
    _show_packages(versions["dependencies"])
    _show_extras(extras)
    for root in document["data_roots"]:
        counts = ", ".join(f"{root['counts'][kind]:,} {kind}" for kind in _COLUMNS)
        path = root["path"] if root["exists"] else f"{root['path']} (absent)"
        show(f"data folder of {root['named_by']}: {path}, {counts}")
        if root["shadows"]:
            hidden = _first(root["shadows"], _SHOWN)
            show(f"{root['path']} hides files of the same name in later folders: {hidden}")
    for line in _machine(document):
        show(line)
    show_hint()


def _show_packages(packages: Mapping[str, Any]) -> None:
    rows = table("package", "version", "required", "met")
    for name, package in packages.items():
        if is_verbose() or not package["met"]:
            met = _INSTALLED if package["met"] else ("no", "red")
            rows.add(name, package["version"] or "not installed", package["requires"], met)
    if rows.rows:
        show(rows)


def _show_extras(extras: Mapping[str, Any]) -> None:
    if not extras:
        show("extras: none: the package's metadata list no extras")
        return
    rows = table("extra", "installed", "gives", "?missing")
    for name, extra in extras.items():
        missing = _first(extra["missing"], _MISSING_SHOWN)
        rows.add(name, _INSTALLED if extra["installed"] else _MISSING, extra["gives"], missing)
    if is_verbose():
        show(rows)
    for name, extra in extras.items():
        if not extra["installed"]:
            show(f"no extra {name} ({extra['gives']}); to add it: {extra['install']}", "dim")


def _first(names: Sequence[str], shown: int) -> str:
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _machine(document: Mapping[str, Any]) -> Iterator[str]:
    facts, numba, catalogue = document["accelerator"], document["numba"], document["catalogue"]
    if facts is None:
        yield "accelerator: none: torch is needed to find one; pip install 'costmodel[profile]'"
    else:
        file, build = facts["device_file"], f"torch {facts['torch']} built for {facts['cuda'] or 'no'} CUDA"
        yield f"accelerator: {facts['name']}, {facts['memory'] / _GIB:.1f} GiB; {build}"
        own = f"described by devices/{file}" if file else "no device file describes it: `costmodel profile` writes one"
        gpu = f"driver {facts['driver'] or 'unknown (nvidia-smi does not run)'}; {own}"
        yield "torch finds no GPU: `costmodel profile` times this CPU" if facts["kind"] == "cpu" else gpu
    if numba is None:
        yield "compiled code: none: serving and flows run as Python, many times slower; pip install 'costmodel[fast]'"
    else:
        some = f"{numba['compiled']:,} of them so far" if numba["compiled"] else "none yet: the first run compiles"
        kept = f"keeps that of serving in {numba['folder']} (functions: {some})" if numba["writable"] else "keeps none"
        yield f"compiled code: numba {numba['version']} {kept}"
    if catalogue is None or catalogue["folder"] is None:
        yield "compiled catalogue: none: every run reads its files anew"
    else:
        yield f"compiled catalogue: {catalogue['entries']:,} entries in {catalogue['folder']}"
