"""Images and videos from noise: what each setting multiplies, what limits are, and what the device holds."""

from __future__ import annotations

import numpy as np
import pytest
from builders import CLUSTER, GQA, scenario, spreads

from costmodel.analytic.diffusion import DiffusionEvaluation
from costmodel.analytic.evaluation import evaluate, ledger_of
from costmodel.analytic.grid import evaluate_grid, evaluate_point
from costmodel.cost.spread import EXACT
from costmodel.quantities import Quantity
from costmodel.records import replace
from costmodel.workload.architecture import (
    Architecture,
    Attention,
    Convolution,
    Denoiser,
    DenseFfn,
    Layer,
    NoFfn,
    ResidualBlock,
    TextEncoder,
)
from costmodel.workload.diffusion import decoder_tiles, grid_of
from costmodel.workload.plans import Diffusion
from costmodel.workload.scenario import Parallelism, Scenario
from costmodel.workload.validity import rules

CALIBRATION = spreads(1.0, 1.5, 2.0)
D = 512.0
MIXER = Attention(q_heads=8.0, kv_heads=8.0, head_dim=64.0, v_head_dim=64.0, causal=False, rotary=False)
STREAMS = Layer(4, MIXER, DenseFfn(2048.0, gated=False), norm="plain", text="own", modulation="matrix")
TEXTS = TextEncoder(
    tokens=128.0,
    hidden=1024.0,
    vocabulary=1000.0,
    layers=(Layer(2, replace(GQA, causal=False), DenseFfn(2048.0, True)),),
)
DECODER = (
    Layer(1, Convolution(3.0, inputs=16.0), NoFfn(), norm="none", width=64.0),
    Layer(2, ResidualBlock(frames=3.0), NoFfn(), norm="none", width=64.0, scale=64.0, frame_scale=4.0),
    Layer(1, Convolution(3.0, outputs=3.0), NoFfn(), norm="none", width=64.0, scale=64.0, frame_scale=4.0),
)
MODEL = Architecture(
    "denoiser", D, 1.0, (STREAMS,), features=True,
    denoiser=Denoiser(
        channels=16.0, compression=8.0, frame_compression=4.0, patch=2.0, text_tokens=128.0,
        text_projectors=((1024.0, D),), text_encoders=(TEXTS,), decoder=DECODER, encoder=DECODER[1:2],
    ),
)  # fmt: skip
IMAGE = Diffusion(height=512.0, width=768.0, steps=20.0)


def asked(plan: Diffusion = IMAGE, model: Architecture = MODEL, **parallel: object) -> Scenario:
    return scenario(plan, model, Parallelism(**parallel))  # type: ignore[arg-type]


def metrics(plan: Diffusion = IMAGE, model: Architecture = MODEL, **parallel: object) -> dict[str, Quantity]:
    found = evaluate(asked(plan, model, **parallel), CALIBRATION).metrics(None)
    return {name: value for name, value in found.items() if value is not None}


def described(change: dict[str, object]) -> Architecture:
    assert MODEL.denoiser is not None
    return replace(MODEL, denoiser=replace(MODEL.denoiser, **change))


def broken(plan: Diffusion, model: Architecture = MODEL, **parallel: object) -> list[str]:
    return [rule.message for rule in rules(asked(plan, model, **parallel)) if not np.all(rule.holds)]


def test_latency_is_the_sum_of_its_parts() -> None:
    found = metrics(replace(IMAGE, encoded=1.0))
    parts = ("text_encoder_time", "encoder_time", "denoiser_time", "decoder_time")
    assert found["latency"] == pytest.approx(sum(found[name] for name in parts))
    assert all(found[name] > 0 for name in parts)
    assert found["denoiser_time"] == pytest.approx(20 * found["denoising_step_time"])
    assert found["images_per_second"] == pytest.approx(1 / found["latency"])


def test_a_point_adds_up() -> None:
    point = evaluate_point(asked(replace(IMAGE, encoded=1.0, cached_steps=0.3, tile=256.0)), CALIBRATION)
    assert all(line.time >= 0 for line in point.breakdown)
    assert sum(line.time for line in point.breakdown) == pytest.approx(point.metrics["latency"])


def test_kernels_take_as_much_longer_as_under_any_load_of_seconds() -> None:
    """On one device all time is that of kernels. What is copied from the host is not."""
    of = asked()
    slow = replace(of, framework=replace(of.framework, sustained_slowdown=1.25))
    before, after = (evaluate_point(each, CALIBRATION).metrics["latency"] for each in (of, slow))
    assert after == pytest.approx(1.25 * before)
    copied = [replace(each, plan=replace(IMAGE, resident="one")) for each in (of, slow)]
    before_copied, after_copied = (evaluate_point(each, CALIBRATION).metrics["latency"] for each in copied)
    assert after_copied - after == pytest.approx(before_copied - before)


def test_an_interval_holds_how_whole_runs_scatter() -> None:
    """Kernels that are known exactly leave the width of whole runs to the latency, the rate and the cost."""
    known = {name: replace(fit, spread=EXACT) for name, fit in CALIBRATION.families.items()}
    runs = spreads(0.8, 1.0, 1.25, ("composition_diffusion",)).families
    kernel = spreads(0.999999, 1.0, 1.000001, ("gemm/bf16",)).families
    point = evaluate_point(asked(), replace(CALIBRATION, families={**known, **kernel, **runs}))
    for name in ("latency", "denoiser_time", "images_per_second", "cost_per_image"):
        low, high = point.intervals[name]
        value = point.metrics[name]
        assert (low / value, high / value) == pytest.approx((0.8, 1.25), rel=1e-3), name


def test_steps_scale_the_denoiser_and_nothing_else() -> None:
    few, many = metrics(), metrics(replace(IMAGE, steps=60.0))
    assert many["denoiser_time"] == pytest.approx(3 * few["denoiser_time"])
    assert many["decoder_time"] == few["decoder_time"]
    assert many["text_encoder_time"] == few["text_encoder_time"]


def test_guidance_is_a_second_sequence_of_every_step() -> None:
    """Without it, a batch of two images has the steps of one image with guidance."""
    guided, plain = metrics(), metrics(replace(IMAGE, guidance="none", batch=2.0))
    assert guided["denoising_step_time"] == pytest.approx(plain["denoising_step_time"])
    embedded = metrics(replace(IMAGE, guidance="embedded"))
    assert embedded["denoising_step_time"] < guided["denoising_step_time"]
    assert metrics(model=described({"guidance": "embedded"}))["latency"] == embedded["latency"]


def test_samplers_are_sequences_of_the_same_prompts() -> None:
    one, two = metrics(), metrics(replace(IMAGE, samplers=2.0))
    assert two["denoising_step_time"] > 1.5 * one["denoising_step_time"]
    assert two["text_encoder_time"] == one["text_encoder_time"]


def test_one_frame_is_an_image() -> None:
    video = metrics(replace(IMAGE, frames=1.0))
    assert video == metrics()
    assert grid_of(replace(IMAGE, frames=33.0), MODEL.denoiser).frames == 9  # type: ignore[arg-type]
    longer = metrics(replace(IMAGE, frames=33.0))
    assert longer["denoising_step_time"] > 8 * video["denoising_step_time"]
    assert 25 < longer["decoder_time"] / video["decoder_time"] <= 34


def test_a_cache_of_no_step_saves_nothing_and_one_of_all_leaves_the_ends() -> None:
    whole = metrics()["denoising_step_time"]
    assert metrics(replace(IMAGE, cached_steps=0.0))["denoising_step_time"] == whole
    half = metrics(replace(IMAGE, cached_steps=0.5))["denoising_step_time"]
    quarter = metrics(replace(IMAGE, cached_steps=0.5, cached_layers=0.5))["denoising_step_time"]
    none = metrics(replace(IMAGE, cached_steps=1.0))["denoising_step_time"]
    assert 0 < none < half < quarter < whole
    assert half == pytest.approx((whole + none) / 2)
    assert quarter == pytest.approx((3 * whole + none) / 4)


def test_ranks_that_share_the_passes_of_a_step_exchange_their_predictions() -> None:
    alone, shared = metrics(), metrics(replace(IMAGE, guidance_parallel=2.0), dp=2.0)
    plain = metrics(replace(IMAGE, guidance="none"))
    exchange = shared["denoising_step_time"] - plain["denoising_step_time"]
    assert exchange > 0
    assert shared["denoising_step_time"] < alone["denoising_step_time"]
    names = {each.operator.name: float(each.time.seconds) for each in evaluate(asked(), CALIBRATION).operators()}
    assert names["guidance exchange"] == 0.0


@pytest.mark.parametrize("context", ["ulysses", "ring", "gather"])
def test_sequence_parallelism_splits_steps_and_neither_texts_nor_pixels(context: str) -> None:
    one, two = metrics(), metrics(cp=2.0, context=context)
    assert two["denoising_step_time"] < one["denoising_step_time"]
    assert two["decoder_time"] == one["decoder_time"]
    assert two["text_encoder_time"] == one["text_encoder_time"]


def test_tiles_are_as_many_as_their_strides_and_overlap() -> None:
    """96 latents along width: tiles of 32 every 24, the last of 24. 64 along height: 32, 32, 16."""
    count, tile = decoder_tiles(replace(IMAGE, tile=256.0), MODEL.denoiser)  # type: ignore[arg-type]
    assert count == 3 * 4
    assert tile.places == pytest.approx((32 + 32 + 16) / 3 * (32 + 32 + 32 + 24) / 4)
    whole = metrics()["decoder_time"]
    assert metrics(replace(IMAGE, tile=2048.0))["decoder_time"] == whole
    assert metrics(replace(IMAGE, tile=256.0))["decoder_time"] > whole
    without = replace(IMAGE, tile=256.0, tile_overlap=0.0)
    assert decoder_tiles(without, MODEL.denoiser)[0] == 2 * 3  # type: ignore[arg-type]


def test_tiles_and_streams_of_frames_take_less_memory() -> None:
    video = replace(IMAGE, frames=33.0, height=1024.0, width=1024.0)
    whole, tiled = ledger_of(asked(video)), ledger_of(asked(replace(video, tile=256.0)))
    streamed = ledger_of(asked(video, described({"streamed": True})))
    assert whole is not None
    assert tiled is not None
    assert streamed is not None
    assert tiled.activations < whole.activations / 4
    assert streamed.activations < whole.activations / 4
    assert tiled.weights == whole.weights


def test_all_networks_are_resident_or_one_that_is_copied() -> None:
    found = evaluate(asked(), CALIBRATION)
    assert isinstance(found, DiffusionEvaluation)
    parts = found.details()["parts"]
    assert isinstance(parts, dict)
    assert set(parts) == {"text encoder", "denoiser", "decoder"}
    assert found.ledger is not None
    assert found.ledger.weights == pytest.approx(sum(each["weights"] for each in parts.values()))
    assert found.ledger.activations == pytest.approx(max(each["activations"] for each in parts.values()))
    hosted = replace(asked(replace(IMAGE, resident="one")), cluster=CLUSTER)
    one = evaluate(hosted, CALIBRATION)
    assert one.ledger is not None
    assert one.ledger.weights == pytest.approx(max(each["weights"] for each in parts.values()))
    assert one.metrics(None)["latency"] > metrics()["latency"]  # type: ignore[operator]


def test_networks_that_share_the_steps_are_all_held_and_one_runs() -> None:
    twice = described({"networks": 2})
    one, two = ledger_of(asked()), ledger_of(asked(model=twice))
    assert one is not None
    assert two is not None
    found = evaluate(asked(), CALIBRATION)
    assert isinstance(found, DiffusionEvaluation)
    assert two.weights - one.weights == pytest.approx(found.ledgers[1].weights)
    assert metrics(model=twice)["latency"] == metrics()["latency"]


def test_what_is_not_denoised_is_attended_to() -> None:
    half = metrics(replace(IMAGE, active=0.5))
    assert half["denoising_step_time"] < metrics()["denoising_step_time"]
    assert half["decoder_time"] == metrics()["decoder_time"]


def test_settings_may_be_axes() -> None:
    steps, batch = np.array([10.0, 20.0]).reshape(-1, 1), np.array([1.0, 4.0]).reshape(1, -1)
    plan = replace(IMAGE, steps=steps, batch=batch, height=np.array([[512.0, 1024.0]]), tile=256.0)
    grid = evaluate_grid(asked(plan), CALIBRATION, (2, 2))
    for i, j in np.ndindex(2, 2):
        one = replace(plan, steps=float(steps[i, 0]), batch=float(batch[0, j]), height=(512.0, 1024.0)[j])
        assert grid.metrics["latency"][i, j] == pytest.approx(metrics(one)["latency"])  # type: ignore[index]


@pytest.mark.parametrize(
    ("plan", "parallel", "message"),
    [
        (replace(IMAGE, height=500.0), {}, "500 pixels are no whole latents or patches of 16"),
        (replace(IMAGE, frames=32.0), {}, "31 frames behind the first are no whole latents"),
        (replace(IMAGE, guidance_parallel=2.0), {}, "does not divide the data-parallel ranks"),
        (replace(IMAGE, guidance="none", guidance_parallel=2.0), {"dp": 2.0}, "does not divide the passes of a step"),
        (IMAGE, {"pp": 2.0}, "the stages of a step would wait"),
        (replace(IMAGE, batch=3.0), {"dp": 2.0}, "3 images are not whole images for 2 replicas"),
    ],
)
def test_what_cannot_be_is_said(plan: Diffusion, parallel: dict[str, float], message: str) -> None:
    assert any(message in each for each in broken(plan, **parallel)), broken(plan, **parallel)


def test_models_without_latents_do_not_denoise() -> None:
    assert broken(IMAGE, replace(MODEL, denoiser=None)) == ["denoiser denoises no latents"]
    assert broken(replace(IMAGE, encoded=1.0), described({"encoder": ()})) == ["denoiser has no encoder of pixels"]
