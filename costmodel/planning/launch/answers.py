"""What a launch script's deployment is predicted to do, by the machinery of `simulate`."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from typing import Any

from costmodel.api import Workload, load
from costmodel.errors import InputError
from costmodel.planning.launch.deployment import BOTH
from costmodel.planning.launch.options import Settings
from costmodel.planning.launch.reading import Launched
from costmodel.planning.request import Limit, PlanRequest
from costmodel.records import Record
from costmodel.result import Point
from costmodel.schema.files import load_model

_NOT_OF_A_SCENARIO = ("model", "cluster", "context", "chunked", "tokens", "layers", "hidden", "shards")
_PARTS = ("parallel", "scheduler", "memory", "speculative", "optimizer")


class Answer(Record):
    """A launch script's prediction.

    settings: as they are predicted; changes: of the workload that `simulate` makes of the model, in that phase.
    notes: what was not understood or is assumed.
    """

    workload: Workload
    point: Point
    settings: Settings
    notes: tuple[str, ...]
    request: PlanRequest
    launched: Launched
    phase: str
    changes: Settings

    @property
    def arguments(self) -> str:
        """Return the arguments with which `costmodel simulate` predicts the same."""
        words = [str(self.settings["model"]), "--cluster", str(self.settings["cluster"]), "--phase", self.phase]
        for path, value in self.changes.items():
            words += ["--set", f"{path}={'null' if value is None else value}"]
        return shlex.join(words)

    def document(self) -> dict[str, Any]:
        """Return it as `plan --json` prints plans: one entry, whose metrics are those of `simulate`."""
        result = self.point.document()
        metrics = result["metrics"]
        parts = {part: _part(self.settings, part) for part in _PARTS}
        holds = result["memory"]["fits"] and _holds(self.request, metrics)
        engine = self.launched.engine
        assert engine is not None
        entry = {
            "cluster": self.settings["cluster"], "devices": result["devices"],
            "replicas": self.settings.get("replicas.count", 1), "framework": engine.key,
            "precision": self.settings.get("precision.compute"), **parts, "prefill": None, "decode": None,
            "metrics": metrics, "intervals": result["intervals"], "holds": holds, "binds": result["bound"],
            "cost_rate": metrics.get("cost_rate"),
        }  # fmt: skip
        return {"request": self.request.document(), "plans": [entry], "notes": list(self.notes)}


def answer(launched: Launched, request: PlanRequest) -> Answer:
    """Return the prediction for a script. The request's model, cluster, load and lengths replace what it states.

    Raises InputError where no cluster or no catalogue model is known.
    """
    role = "train" if "train" in launched.settings else BOTH
    if role not in launched.settings:
        raise InputError.single(
            "starts a pool for prompts and one that decodes; one engine's settings are predicted at a time",
            hint="write them as a workload with `prefill` and `decode` and run `costmodel simulate`",
            field=launched.path,
        )  # fmt: skip
    settings = launched.of(role)
    settings.setdefault("replicas.count", launched.count[role])
    phase = "training" if role == "train" else "serving"
    model = _required(request.model or settings.get("model") or launched.model, "a model", "MODEL")
    clusters = request.clusters or tuple(filter(None, [settings.get("cluster")]))
    cluster = _required(clusters[0] if clusters else None, "a cluster", "--cluster")
    notes = list(launched.notes)
    if not load_model(model, request.search_path).has_experts:
        settings.pop("parallel.expert_tensor", None)  # of which engines slice none
    settings = _answerable(settings | {"model": model, "cluster": cluster}, request, notes, phase)
    engine = launched.engine
    assert engine is not None
    changes = {f"scenarios.{phase}.{path}": value for path, value in _scenario(settings).items()}
    changes[f"scenarios.{phase}.framework"] = engine.key.removeprefix("dynamo-")
    loaded = load(model, set=changes, cluster=cluster, search_path=request.search_path, phases=(phase,))
    point = loaded.points()[phase]
    return Answer(loaded, point, settings, (*notes, *loaded.notes), request, launched, phase, changes)


def _answerable(settings: Settings, request: PlanRequest, notes: list[str], phase: str) -> Settings:
    """Return the settings that are predicted: with the request's load, without drafts of an unknown acceptance."""
    if phase == "training":
        return {path: value for path, value in settings.items() if path != "replicas.count"}
    stated = {"input_tokens": request.isl, "output_tokens": request.osl, "rate": request.rate, "users": request.users}
    given = {path: value for path, value in stated.items() if value is not None}
    if "rate" in given or "users" in given:
        settings = {path: value for path, value in settings.items() if path not in ("rate", "users")}
    settings = settings | given
    if "users" in settings:
        counts = [settings[name] for name in ("users", "replicas.count")]
        if not all(isinstance(each, int | float) and each > 0 for each in counts):
            raise InputError.single(
                f"states {counts[0]} users of {counts[1]} engines", hint="write numbers above zero", field="users"
            )
        settings["concurrency"] = math.ceil(settings.pop("users") / settings["replicas.count"])
    if "speculative.depth" in settings and "speculative.acceptance" not in settings:
        notes.append("drafts are left out: no option states how many are accepted")
        settings = {path: value for path, value in settings.items() if not path.startswith("speculative.")}
    if "rate" not in settings and "concurrency" not in settings:
        notes.append("no load is stated: 32 requests in flight for each engine; state --rate or --users")
    if "rate" in settings:
        settings["concurrency"] = None
    return settings


def _scenario(settings: Settings) -> Settings:
    return {path: value for path, value in settings.items() if path not in _NOT_OF_A_SCENARIO}


def _required(value: Any, what: str, field: str) -> str:
    if value is None:
        raise InputError.single(f"the script states no option for {what}", hint=f"name it with {field}", field=field)
    return str(value)


def _part(settings: Settings, part: str) -> Settings:
    return {
        path.partition(".")[2]: value
        for path, value in settings.items()
        if path.startswith(f"{part}.") and value is not None
    }


def _holds(request: PlanRequest, metrics: Mapping[str, Any]) -> bool:
    """Tell whether the metrics meet the request's limits; the closed form's mean stands for a missing percentile."""
    return all(
        _statistic(metrics, name, limit) <= limit.seconds
        for name, limit in (("ttft", request.ttft), ("tpot", request.tpot))
        if limit is not None
    )


def _statistic(metrics: Mapping[str, Any], name: str, limit: Limit) -> float:
    """Return a metric's statistic that a limit is on, infinity where there is none."""
    tails = (metrics.get("percentiles") or {}).get(name) or {}
    value = tails.get(limit.statistic) if limit.statistic != "mean" else None
    value = metrics.get(name) if value is None else value
    return float("inf") if value is None else float(value)
