"""What starts a plan: an engine's or a trainer's commands, manifests; and the settings that a launch script states."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from costmodel.errors import InputError
from costmodel.planning.launch.deployment import Deployment, deployment
from costmodel.planning.launch.layouts import engine_of
from costmodel.planning.launch.manifests import compose, kubernetes
from costmodel.planning.launch.scripts import script
from costmodel.planning.launch.training import training_script
from costmodel.schema.files import load_model

ENGINES = ("vllm", "sglang", "trt-llm")
TRAINERS = ("megatron", "torchtitan")
FORMATS = (*ENGINES, "dynamo", *TRAINERS, "k8s", "compose")


def emit(form: str, request: Mapping[str, Any], entry: Mapping[str, Any], search_path: tuple[str, ...] = ()) -> str:
    """Return what starts a plan, as text. form: of `FORMATS`; request, entry: of `plan --json`.

    Raises InputError on an unknown form, on a server's form for a training run and the other way round.
    """
    trains = bool(request.get("train"))
    check_form(form, trains=trains)
    deployed = deployment(request, entry, search_path)
    if trains:
        return training_script(form, deployed, load_model(deployed.model, search_path))
    if form in ENGINES:
        return script(form, deployed)
    key = engine_of(deployed.framework)
    if key is None:
        raise InputError.single(
            f"{deployed.framework} has no launch commands", hint=f"use --emit {ENGINES[0]}", field="--emit"
        )
    if form == "dynamo":
        return script(key, deployed, routed=True)
    written: Callable[[str, Deployment], str] = kubernetes if form == "k8s" else compose
    return written(key, deployed)


def check_form(form: str, *, trains: bool) -> None:
    """Raise InputError where nothing is written in a form."""
    known = TRAINERS if trains else tuple(each for each in FORMATS if each not in TRAINERS)
    if form not in known:
        what = "a training run" if trains else "servers"
        raise InputError.single(
            f"{form!r} does not start {what}", hint=f"choose one of {', '.join(known)}", field="--emit"
        )
