"""A collective or an expert exchange by itself, asked for in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from costmodel.analytic.messages import EXCHANGES, CollectiveRequest, CollectiveTime, answer, routing_of
from costmodel.calibration.fit_files import DEFAULT_FRAMEWORK, framework_of
from costmodel.calibration.fit_lookup import load_calibration
from costmodel.errors import InputError
from costmodel.hardware import Cluster
from costmodel.network.expert_all_to_all import PAYLOADS, payload_bytes
from costmodel.records import replace
from costmodel.schema.files import load_cluster, load_model
from costmodel.schema.references import Library
from costmodel.units import parse, whole


def answered(
    request: CollectiveRequest,
    cluster: str,
    engine: str,
    changes: Mapping[str, object],
    search_path: Sequence[str | Path] = (),
) -> tuple[CollectiveTime, Cluster]:
    """Return the time of a message on a cluster, with some of its fields changed, and that cluster."""
    loaded = load_cluster(cluster, search_path, devices=float(max(request.ranks, 1)), changes=changes)
    framework = framework_of(request.framework or DEFAULT_FRAMEWORK, Library(search_path))
    calibration = load_calibration(loaded.device, framework, search_path)
    return answer(request, loaded, calibration, framework, engine), loaded


def read_message(
    kind: str, ranks: int, size: str, model: str, search_path: Sequence[str | Path] = ()
) -> CollectiveRequest:
    """Return what `KIND[:OPTION,…]`, a number of ranks and a size ask for.

    Raises InputError on an option that the kind does not have, and on a bad size.
    """
    name, _, rest = kind.partition(":")
    said = _options(name, rest)
    wide = float(payload_bytes("bf16"))
    try:
        buffer = parse(size, "size")
    except InputError as error:
        raise InputError([replace(one, field="--size") for one in error.problems]) from None
    if name in EXCHANGES:
        said["routing"] = routing_of(load_model(model, search_path))
        buffer *= said.get("element", wide) / wide
    if buffer < 0:
        raise InputError.single(f"{size!r} is negative", hint="write --size 64MiB")
    return CollectiveRequest(name, ranks, buffer, **said)


def _options(name: str, text: str) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for option in filter(None, text.split(",")):
        key, equals, value = option.partition("=")
        if equals and key in ("chunks", "stride", "groups", "seed"):
            number = whole(value)
            if number is None or (key in ("stride", "groups") and number < 1):
                raise InputError.single(f"{option!r} is no whole number", hint=f"write {key}=8")
            said[key] = number
        elif equals and key == "framework":
            said["framework"] = value
        elif option in PAYLOADS and name in EXCHANGES:
            said["element"] = float(payload_bytes(option))
        elif option == "low_latency" and name in EXCHANGES:
            said["mode"] = option
        elif option == "in_network" and name in EXCHANGES:
            said["in_network"] = True
        elif not equals and name not in EXCHANGES and "algorithm" not in said:
            said["algorithm"] = option
        else:
            raise InputError.single(f"{name} has no option {option!r}", hint="see `costmodel collective --help`")
    return said
