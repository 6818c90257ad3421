"""`costmodel doctor`: what is installed, what is there, and what is wrong with it."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from costmodel.cli.options import json_option, path_option, print_json
from costmodel.errors import InputError, Problem
from costmodel.records import asdict

SHOWN_KINDS = ("devices", "nodes", "clusters", "frameworks", "models", "workloads")
_LONG = 1.0  # seconds of an import after which a person sees what is loaded
_CACHE = "NUMBA_CACHE_DIR"


@click.command("doctor")
@json_option
@path_option
def command(*, as_json: bool, search_path: tuple[str, ...]) -> int:
    """Show versions, extras, data folders, the accelerator that `profile` would time, and what is kept between runs.

    An extra that is not installed comes with the command that adds it and is no problem. Problems go to standard error,
    each with its fix, and make the exit code 2.
    """
    problems: list[Problem] = []
    document = {
        "versions": _versions(problems), "extras": _extras(), "data_roots": _data_roots(search_path, problems),
        "accelerator": _accelerator(search_path, problems), "numba": _numba(problems),
        "catalogue": _catalogue(problems),
    }  # fmt: skip
    if as_json:
        print_json(document | {"problems": [str(problem) for problem in problems]})
    else:
        from costmodel.report.doctor import show_doctor

        show_doctor(document)
    if problems:
        sys.stdout.flush()
        raise InputError(problems)
    return 0


def _versions(problems: list[Problem]) -> dict[str, Any]:
    import costmodel
    from costmodel import packages
    from costmodel.version import __version__

    stated, required = packages.stated_version(), packages.dependencies()
    if stated != __version__:
        message = f"is {__version__}, but its metadata say {stated}" if stated else "is not installed as a package"
        hint = "pip install it again, from its folder or its wheel"
        problems.append(Problem(None, packages.PACKAGE, f"{message}: extras and requirements are unknown", hint))
    for each in required:
        if not each.is_met:
            message = "is not installed" if each.version is None else f"is {each.version}, {each.requires} is required"
            problems.append(Problem(None, each.name, message, f"pip install '{each.name}{each.requires}'"))
    return {
        "costmodel": __version__, "package": str(Path(costmodel.__file__).parent),
        "python": platform.python_version(), "executable": sys.executable, "platform": platform.platform(),
        "dependencies": {each.name: _package(each) for each in required},
    }  # fmt: skip


def _extras() -> dict[str, Any]:
    from costmodel.packages import extras

    return {
        extra.name: {
            "installed": not extra.missing, "gives": extra.gives,
            "packages": {each.name: _package(each) for each in extra.packages},
            "missing": list(extra.missing), "install": extra.command,
        }
        for extra in extras()
    }  # fmt: skip


def _package(required: Any) -> dict[str, Any]:
    return {"version": required.version, "requires": required.requires, "met": required.is_met}


def _data_roots(search_path: tuple[str, ...], problems: list[Problem]) -> list[dict[str, Any]]:
    """Return the folders that are searched, in that order, nothing where what reads files cannot be imported."""
    try:
        from costmodel.schema.references import roots

        import_module("costmodel.schema.loader")
    except ImportError as error:
        problems.append(Problem(None, "data_roots", f"files cannot be read: {error}", "install what is missing first"))
        return []
    listed = roots(search_path)
    problems.extend(root.problem for root in listed if root.problem is not None)
    return [
        {
            "path": str(root.path.absolute()), "named_by": root.named_by, "exists": root.is_there,
            "counts": {kind: root.counts[kind] for kind in SHOWN_KINDS}, "shadows": list(root.shadows),
        }
        for root in listed
    ]  # fmt: skip


def _accelerator(search_path: tuple[str, ...], problems: list[Problem]) -> dict[str, Any] | None:
    """Return the device that `profile --device auto` would time, null without torch."""
    if find_spec("torch") is None:
        return None
    begin = time.monotonic()
    try:
        from costmodel.profiling.found_device import accelerator

        if (took := time.monotonic() - begin) > _LONG:
            click.echo(f"note: importing torch took {took:.1f} s", err=True)

        def names() -> Any:
            from costmodel.calibration.unmeasured_width import device_names

            return device_names(search_path)

        listed = accelerator(names)
    except (ImportError, OSError, RuntimeError) as error:
        message = str(error).partition("\n")[0] or type(error).__name__
        hint = "install torch again for this driver: https://pytorch.org/get-started/locally"
        problems.append(Problem(None, "accelerator", f"torch is installed but does not work: {message}", hint))
        return None
    return asdict(listed)


def _numba(problems: list[Problem]) -> dict[str, Any] | None:
    """Return where numba keeps the code that it compiles, null without numba."""
    if find_spec("numba") is None:
        return None
    from costmodel.packages import version_of

    version, folder = version_of("numba"), None
    try:
        from costmodel.serving.compiled import kept_in

        folder = kept_in()
    except ImportError as error:
        hint = "pip install --upgrade 'costmodel[fast]'"
        problems.append(Problem(None, "numba", f"it is installed but does not work: {error}", hint))
        return {"version": version, "folder": None, "writable": False, "compiled": 0}
    named = os.environ.get(_CACHE)
    if folder is None:
        hint = f"set {_CACHE} to a folder that can be written"
        problems.append(Problem(None, "numba", "it finds no folder for compiled code and keeps none", hint))
    elif folder and named and not Path(folder).resolve().is_relative_to(Path(named).resolve()):
        hint = "name a folder that can be written, or unset it"
        problems.append(Problem(None, _CACHE, f"{named} cannot be written; compiled code goes to {folder}", hint))
    compiled = len(list(Path(folder).glob("*.nbi"))) if folder else 0
    return {"version": version, "folder": folder or None, "writable": bool(folder), "compiled": compiled}


def _catalogue(problems: list[Problem]) -> dict[str, Any] | None:
    """Return where the compiled catalogue is kept, null where its modules cannot be imported."""
    try:
        from costmodel.schema.catalogue import VARIABLE, entries, folder
    except ImportError:
        return None  # what is missing is among the versions
    kept = folder()
    there = next((place for place in (kept, *kept.parents) if os.path.lexists(place)), None) if kept else None
    writable = there is not None and there.is_dir() and os.access(there, os.W_OK)
    if kept is not None and not writable:
        message = f"{kept} cannot be written: every run reads its files anew"
        hint = f"set {VARIABLE} to a folder that can be written, or to nothing"
        problems.append(Problem(None, "catalogue", message, hint))
    count = len(entries(kept)) if kept is not None else 0
    return {"folder": None if kept is None else str(kept), "writable": writable, "entries": count}
