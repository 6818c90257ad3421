"""Models on devices in phases: an answer that physics allows, or one line that says why not.

With `--long` every model on every device in every phase; else every model as it is trained and as it generates, every
second one also as it only reads prompts or only decodes, spread over the devices.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
from builders import BF16, FRAMEWORK, scenario

from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.cost.calibration import Calibration
from costmodel.hardware import Cluster, Node
from costmodel.quantities import Array
from costmodel.records import fields, replace
from costmodel.result import FITS, REASONS, Result
from costmodel.schema.files import list_names, load_model, load_node
from costmodel.workload.architecture import Architecture, Recurrence
from costmodel.workload.counting import parameter_count
from costmodel.workload.plans import Decode, Diffusion, Generate, Prefill, Training
from costmodel.workload.scenario import Parallelism, Plan, Precision, Scenario
from costmodel.workload.split_rules import heads_of, splits_nothing

DENOISERS = [name for name in list_names("models") if load_model(name).denoiser is not None]
MODELS = [name for name in list_names("models") if name not in DENOISERS]
DEVICES = list_names("devices")
SMALL = "mpt-125m"  # runs on every device
PARTS = {"prefill": 0, "decode": 2}  # of what a model generates: for every second model one of the two by itself
STRIDE = 5  # devices by which the models are shifted from one phase to the next
BATCHES, CONTEXTS = np.array([1.0, 4.0, 16.0]).reshape(-1, 1), np.array([512.0, 2048.0]).reshape(1, -1)
SHAPE = (3, 2)
STEPS = np.array([10.0, 30.0])
PLANS: dict[str, Plan] = {
    "prefill": Prefill(CONTEXTS, BATCHES * CONTEXTS),
    "decode": Decode(BATCHES, CONTEXTS, 0.0),
    "generate": Generate(BATCHES, CONTEXTS, 64.0),
    "training": Training("1f1b", BATCHES, CONTEXTS, 1.0, frozenset(), 1),
}
HEADLINES = {"prefill": "ttft", "decode": "tpot", "generate": "latency", "training": "step_time"}


@lru_cache(maxsize=1)
def nodes() -> dict[str, Node]:
    """Return the largest node of every device."""
    found: dict[str, Node] = {}
    for node in sorted((load_node(name) for name in list_names("nodes")), key=lambda each: float(each.count)):
        found[node.device.name] = node
    return found


@lru_cache(maxsize=128)
def model(name: str) -> Architecture:
    return load_model(name)


def asked(architecture: Architecture, device: str, phase: str) -> Scenario:
    """Return the phase of a model on one node of a device, split over as many devices as the heads allow."""
    node = nodes()[device]
    tp = max(degree for degree in (1, 2, 4, 8) if degree <= float(node.count) and divides_heads(architecture, degree))
    precision = BF16 if "bf16" in node.device.math else half(BF16)
    plan = PLANS[phase]
    if isinstance(plan, Prefill):
        plan = replace(plan, tokens_per_device=plan.tokens_per_device / tp)
    if isinstance(plan, Decode):
        plan = replace(plan, batch_per_device=plan.batch_per_device / tp)
    of = scenario(plan, architecture, Parallelism(tp=float(tp)), precision)
    return replace(of, cluster=Cluster(device, node, 1.0, None), framework=FRAMEWORK)


def divides_heads(architecture: Architecture, degree: int) -> bool:
    mixers = [layer.mixer for layer in architecture.kinds if not splits_nothing(layer.mixer)]
    parts = [heads_of(mixer) for mixer in mixers]
    shared = [mixer.key_heads or 1.0 for mixer in mixers if isinstance(mixer, Recurrence)]
    return all(float(part) % degree == 0 for part in (*parts, *(heads for heads in shared if heads != 1.0)))


def half(precision: Precision) -> Precision:
    """Return a precision with FP16 where it has BF16."""
    named = {name: "fp16" for name in fields(precision) if getattr(precision, name) == "bf16"}
    return replace(precision, **named)


def least_time(of: Scenario, phase: str) -> Array:
    """Return a bound that needs no operators: active parameters through memory once, through the math units twice."""
    device, architecture = of.cluster.device, of.architecture
    active = float(parameter_count(architecture).active)
    devices = float(of.parallel.devices)
    bandwidth = float(np.asarray(device.device_memory.bandwidth)) * devices
    peak = float(device.peak("bf16" if "bf16" in device.math else "fp16")) * devices
    tokens = BATCHES * (CONTEXTS if phase in ("prefill", "training") else 1.0)
    passes = {"training": 6.0, "prefill": 2.0, "decode": 2.0, "generate": 2.0}[phase]
    head = float(architecture.vocabulary * architecture.hidden)  # prefill asks the head for the last tokens only
    work = passes * tokens * (active - head) / peak
    read = 2.0 * (active - head) / bandwidth if phase == "decode" and len(architecture.kinds) == 1 else 0.0
    experts = any(hasattr(layer.ffn, "experts") for layer in architecture.kinds)
    return np.maximum(work, 0.0 if experts else read) * np.ones(SHAPE)


def check(result: Result, of: Scenario, phase: str) -> None:
    """Hold a grid of batches by contexts to what physics says."""
    time = np.broadcast_to(np.asarray(result.metrics[HEADLINES[phase]]), SHAPE)
    fits = np.broadcast_to(np.asarray(result.fits), SHAPE)
    reasons = np.broadcast_to(np.asarray(result.reason), SHAPE)
    assert np.isnan(time[~fits]).all()
    assert all(REASONS[int(code)] for code in reasons[~fits])
    assert (reasons[fits] == FITS).all()
    known = np.where(fits, time, np.nan)
    for name, value in result.metrics.items():
        if value is not None:
            values = np.broadcast_to(np.asarray(value), SHAPE)[fits]
            assert np.isfinite(values).all(), name
            assert (values >= 0).all(), name
    assert (known[fits] > 0).all()
    assert (known >= least_time(of, phase) * (1 - 1e-9))[fits].all()
    for axis in (0, 1):  # more requests, or longer ones, never take less time
        steps = np.diff(known, axis=axis)
        assert (steps[np.isfinite(steps)] >= -1e-12 * np.nanmax(known, initial=0.0)).all(), axis
    if phase == "decode":
        rate = BATCHES / known  # a larger batch shares the weights
        steps = np.diff(rate, axis=0)
        assert (steps[np.isfinite(steps)] >= -1e-9 * np.nanmax(rate, initial=0.0)).all()


def covering(device: str, phase: str) -> list[str]:
    """Return the models that meet a device in a phase; a small one trains and generates on every device."""
    place, shift = DEVICES.index(device), STRIDE * list(PLANS).index(phase)
    chosen = [name for at, name in enumerate(MODELS) if (at + shift) % len(DEVICES) == place]
    if phase not in PARTS:
        return sorted({SMALL, *chosen})
    return [name for name in chosen if MODELS.index(name) % 4 == PARTS[phase]]


def test_the_covering_set_has_every_model_trained_generating_and_in_one_part_and_on_every_device_some() -> None:
    met = {phase: {name for device in DEVICES for name in covering(device, phase)} for phase in PLANS}
    assert met["training"] == met["generate"] == set(MODELS)
    assert len(met["prefill"] | met["decode"]) >= len(MODELS) // 2
    for device in DEVICES:
        assert len({name for phase in PLANS for name in covering(device, phase)}) >= len(PLANS)


@pytest.mark.parametrize("device", DEVICES)
def test_every_model_answers_or_says_why_not(device: str, long: bool) -> None:
    for phase in PLANS:
        answered = False
        for name in MODELS if long else covering(device, phase):
            of = asked(model(name), device, phase)
            result = evaluate_grid(of, Calibration(), SHAPE)
            check(result, of, phase)
            answered |= bool(np.any(result.fits))
        assert answered or phase in PARTS, f"no model of the catalogue runs on the device: {phase}"


@pytest.mark.parametrize("at", range(len(DENOISERS)), ids=DENOISERS.__getitem__)
def test_every_model_that_denoises_answers_on_devices_that_hold_it(at: int, long: bool) -> None:
    """No faster than its parameters' products at the peak: each token visits all of them, in a U-Net fewer do."""
    architecture = model(DENOISERS[at])
    assert architecture.denoiser is not None
    plan = Diffusion(height=1024.0, width=1024.0, steps=STEPS, resident="one", tile=512.0)
    active = float(parameter_count(architecture).active)
    tokens = 4096.0 if architecture.denoiser.patch is not None and architecture.denoiser.compression == 8 else 0.0
    answered, met = 0, DEVICES if long else DEVICES[at % 6 :: 6]
    for device in met:
        precision = BF16 if "bf16" in nodes()[device].device.math else half(BF16)
        of = scenario(plan, architecture, Parallelism(), precision, framework=FRAMEWORK)
        result = evaluate_grid(replace(of, cluster=Cluster(device, nodes()[device], 1.0, None)), Calibration(), (2,))
        latency, fits = np.asarray(result.metrics["latency"]), np.asarray(result.fits)
        peak = float(nodes()[device].device.peak("bf16" if "bf16" in nodes()[device].device.math else "fp16"))
        half_of_text = 0.4  # matrices of text have a tenth of the tokens, and those of the time step one row
        assert (latency[fits] >= half_of_text * 2 * tokens * active * np.ravel(STEPS)[fits] / peak).all()
        assert (np.diff(latency[fits]) > 0).all()
        answered += bool(fits.any())
    assert answered > len(met) / 3


def test_what_does_not_fit_is_told_in_one_line() -> None:
    of = asked(model("llama-3.1-405b"), "rtx-4090", "decode")
    of = replace(of, plan=Decode(1.0, 512.0, 0.0), parallel=Parallelism())
    point = evaluate_point(of, Calibration())
    assert not point.fits
    assert point.reason is not None
    assert point.reason.startswith("does not fit in memory: the device needs ")
    assert set(point.metrics.values()) == {None}
