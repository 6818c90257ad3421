"""Random hardware, models, layouts and scenarios that can run."""

from __future__ import annotations

from builders import (
    BF16,
    CLUSTER,
    DECODE,
    DEVICE,
    FP8,
    FRAMEWORK,
    GENERATE,
    LATENT,
    MOE,
    NODE,
    PREFILL,
    SERVING,
    STEP,
    UNFUSED,
    pools,
    scenario,
)
from hypothesis import settings
from hypothesis import strategies as st

from costmodel.hardware import Cluster, Host, Link, MathUnit, MemoryLevel, Network, Nic
from costmodel.records import replace
from costmodel.workload.architecture import Architecture, Attention, DenseFfn, HeadGroup, Layer, Mixer, Mtp, Pattern
from costmodel.workload.dtypes import GroupScaling
from costmodel.workload.engine import Scheduler
from costmodel.workload.plans import SETS, Sharding, Speculative, Training
from costmodel.workload.scenario import (
    Communication,
    Disaggregated,
    Offload,
    Parallelism,
    Plan,
    Precision,
    Routing,
    Scenario,
    Tile,
)
from costmodel.workload.schedules.catalogue import SCHEDULES

# Of a property that evaluates whole scenarios: a quarter of the examples that the profile gives to others.
few = settings(max_examples=settings().max_examples // 4)


def rates(low: float, high: float) -> st.SearchStrategy[float]:
    """Return positive numbers spread evenly over their magnitude."""
    return st.integers(0, 100).map(lambda step: low * (high / low) ** (step / 100))


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    """Draw a cluster with enough memory for everything below."""
    clock, maximum = draw(rates(8e8, 3e9)), draw(rates(1e9, 3e9))
    native = draw(st.booleans())
    dense = draw(rates(500, 20_000))
    device = replace(
        DEVICE,
        processors=float(draw(st.integers(30, 200))),
        clock=clock,
        clock_max=maximum,
        math={
            "fp32": MathUnit(draw(rates(50, 600)), maximum),
            "bf16": MathUnit(dense, clock),
            "fp8": MathUnit(2 * dense, clock, "fp32" if native else "fp22", "native" if native else "software"),
        },
        memory=(
            MemoryLevel("l2", 5e7, draw(st.one_of(st.none(), rates(1e12, 3e13)))),
            MemoryLevel("hbm", 1e15, draw(rates(3e11, 1e13))),
        ),
        links={
            "nvlink": Link("nvlink", draw(rates(2e10, 2e12)), draw(st.one_of(st.none(), rates(1e-7, 1e-5)))),
            "pcie": Link("pcie", draw(rates(5e9, 1e11)), None),
        },
    )
    nic = Nic(draw(rates(5e9, 2e11)), float(draw(st.integers(1, 4))), draw(st.one_of(st.none(), rates(1e-7, 1e-5))))
    network = Network(
        "fat_tree",
        1.0,
        float(draw(st.sampled_from([16, 64]))),
        draw(st.one_of(st.none(), rates(5e9, 2e11))),
        2e-6,
        4e-6,
        "adaptive",
    )
    node = replace(
        NODE, device=device, count=float(draw(st.sampled_from([2, 4, 8]))), intra=device.links["nvlink"], nic=nic,
        host=Host(1e15, draw(rates(1e10, 1e12)), 2.0, {}, draw(st.sampled_from(["pcie", "nvlink"]))),
    )  # fmt: skip
    return replace(CLUSTER, node=node, count=4096.0, network=draw(st.sampled_from([network, None])))


@st.composite
def models(draw: st.DrawFn) -> Architecture:
    """Draw a small model of eight layers."""
    window = (HeadGroup(1.0, Pattern("window", 128.0)),)
    mixers: list[Mixer] = [
        Attention(16.0, 16.0, 64.0, 64.0, bias=True, rotary_dim=16.0),
        Attention(16.0, 4.0, 64.0, 64.0),
        Attention(16.0, 4.0, 64.0, 64.0, bias=True, output_bias=False, qk_norm="head", head_groups=window),
        LATENT,
        replace(LATENT, q_lora=None),
    ]
    mixer = draw(st.sampled_from(mixers))
    block = {"norm": draw(st.sampled_from(["rms", "layer"])), "dropout": draw(st.booleans())} | draw(
        st.sampled_from(
            [
                {},
                {"norm_position": "after"},
                {"norm_position": "both"},
                {"block": "parallel"},
                {"block": "parallel", "shared_norm": True},
            ]
        )
    )
    dense = DenseFfn(2048.0, gated=draw(st.booleans()), bias=draw(st.booleans()))
    groups = draw(st.sampled_from([(None, None), (8.0, 4)]))
    experts = replace(
        MOE, groups=groups[0], group_top_k=groups[1], gated=draw(st.booleans()), shared_gate=draw(st.booleans())
    )
    first, other = Layer(1, mixer, dense, **block), Layer(1, mixer, experts, **block)
    runs = [(replace(first, repeat=8),), (replace(first, repeat=2), replace(other, repeat=6)), (first, other) * 4]
    return Architecture(
        "random",
        1024.0,
        32_000.0,
        draw(st.sampled_from(runs)),
        mtp=draw(st.sampled_from([None, Mtp(1)])),
        final_norm=draw(st.sampled_from([None, "none"])),
        embedding_norm=draw(st.sampled_from([None, "layer"])),
    )


@st.composite
def layouts(draw: st.DrawFn) -> Parallelism:
    """Draw degrees that divide the models."""
    tp, dp, pp = (float(draw(st.sampled_from(choices))) for choices in ([1, 2, 4], [1, 2, 8], [1, 2, 4]))
    ep = float(draw(st.sampled_from([degree for degree in (1, 2, 4, 8, 16, 32) if tp * dp % degree == 0])))
    cp, context = float(draw(st.sampled_from([1, 2]))), draw(st.sampled_from(["gather", "ring", "ulysses"]))
    slices = dp * cp % ep == 0 and draw(st.booleans())
    return Parallelism(
        tp=tp, pp=pp, dp=dp, ep=ep, cp=cp, slices_experts=slices, sequence_parallel=draw(st.booleans()), context=context
    )


@st.composite
def shardings(draw: st.DrawFn, zero: int) -> Sharding:
    """Draw options of a ZeRO stage."""
    return Sharding(
        draw(st.sampled_from([None, True, False])),
        draw(st.sampled_from([None, "micro_batch", "step"])),
        zero == 3 and draw(st.booleans()),
        None if zero == 0 else draw(st.sampled_from([None, 1.0])),
        draw(st.sampled_from([None, "bf16"])),
    )


@st.composite
def offloads(draw: st.DrawFn, zero: int) -> Offload:
    """Draw what the host keeps of a training step."""
    optimizer, weights, activations = (draw(st.sampled_from([0.0, 0.0, 0.5, 1.0])) for _ in range(3))
    return Offload(optimizer, weights if zero == 3 else 0.0, activations, draw(st.booleans()))


@st.composite
def plans(draw: st.DrawFn, schedule: str, *, drafting: bool, experts: bool) -> Plan:
    """Draw a phase with its sizes. drafting: the model has a module that can draft tokens; experts: it has experts."""
    zero = draw(st.integers(0, 3))
    training = replace(
        STEP,
        schedule=schedule,
        sequence=float(draw(st.sampled_from([256, 1024, 4096]))),
        micro_batch=float(draw(st.sampled_from([1, 2]))),
        global_batch=128.0,
        recompute=SETS[draw(st.sampled_from(sorted(SETS)))],
        zero=zero,
        sharding=draw(shardings(zero)),
    )
    micro_batches = draw(st.sampled_from([1, 2]))
    prefill = replace(PREFILL, micro_batches=micro_batches)
    drafts = Speculative(float(draw(st.sampled_from([1, 3]))), draw(st.sampled_from([0.0, 0.8, 1.0])))
    drafted = drafts if drafting and draw(st.booleans()) else None
    hits = draw(st.sampled_from([0.0, 0.563, 1.0]))
    decode = replace(
        DECODE,
        micro_batches=micro_batches,
        batch_per_device=float(draw(st.sampled_from([2, 16, 64]))),
        speculative=drafted,
    )
    generate = replace(
        GENERATE,
        micro_batches=micro_batches,
        output_tokens=float(draw(st.sampled_from([1, 256]))),
        pipeline_batches=draw(st.sampled_from([None, 1.0])),
        speculative=drafted,
    )
    serving = replace(
        SERVING,
        micro_batches=micro_batches,
        concurrency=float(draw(st.sampled_from([8, 64, 512]))),
        scheduler=Scheduler(token_budget=draw(st.sampled_from([None, 128.0, 4096.0]))),
        prefix_hit_rate=hits,
        speculative=drafted,
    )
    shares = (4.0, 8.0) if experts else (1.0, 1.0)
    two = pools(Parallelism(dp=4.0, ep=shares[0]), Parallelism(tp=2.0, dp=4.0, ep=shares[1]), hits, drafted)
    phases: list[Plan] = [training, prefill, decode, generate, serving, two]
    return draw(st.sampled_from(phases))


@st.composite
def scenarios(draw: st.DrawFn) -> Scenario:
    """Draw a scenario that can run; DualPipe only on an even pipeline."""
    layout = draw(layouts())
    model = draw(models())
    schedule = draw(st.sampled_from(sorted(set(SCHEDULES) - ({"dualpipe"} if layout.pp == 1 else set()))))
    experts = _has_experts(model)
    layout = layout if experts else replace(layout, ep=1.0)
    plan = draw(plans(schedule, drafting=model.mtp is not None, experts=experts))
    if isinstance(plan, Training):
        layout = replace(layout, virtual=float(SCHEDULES[schedule].virtual or 2))
    communication = Communication(
        float(draw(st.sampled_from([0, 8, 20]))),
        "fp8",
        "bf16",
        draw(st.sampled_from(["normal", "low_latency"])),
        draw(st.sampled_from([None, None, 1.0, 1.3])),
    )
    cores = [FRAMEWORK, UNFUSED]
    if layout.context == "ring":  # which needs a fused core without windows
        cores = [FRAMEWORK]
        layout = replace(layout, context="gather") if _has_windows(model) else layout
    framework = replace(draw(st.sampled_from(cores)), launch=draw(rates(1e-7, 5e-6)))
    drawn = scenario(
        plan, model, layout, draw(st.sampled_from([BF16, FP8])), communication, draw(clusters()), framework
    )
    drawn = replace(drawn, routing=draw(routings(drawn)))
    return replace(drawn, offload=draw(offloads(plan.zero))) if isinstance(plan, Training) else drawn


def _has_windows(model: Architecture) -> bool:
    mixers = [layer.mixer for layer in model.layers]
    groups = [group for mixer in mixers if isinstance(mixer, Attention) for group in mixer.head_groups]
    return any(group.pattern.kind != "full" for group in groups)


def _has_experts(model: Architecture) -> bool:
    return not all(isinstance(layer.ffn, DenseFfn) for layer in model.layers)


@st.composite
def routings(draw: st.DrawFn, of: Scenario) -> Routing:
    """Draw how tokens spread over the experts of a scenario; a model without any has only the default."""
    if not _has_experts(of.architecture):
        return Routing()
    kinds = [
        Routing(),
        Routing("uniform"),
        Routing("zipf", exponent=draw(st.sampled_from([0.0, 0.5, 1.2]))),
        Routing("counts", counts=tuple(float(1 + expert % 7) for expert in range(64))),
    ]
    chosen = draw(st.sampled_from(kinds))
    if isinstance(of.plan, Training):
        limits = [None, 1.25] if of.communication.expert_load is None else [None]
        return replace(chosen, capacity=draw(st.sampled_from(limits)))
    placement = draw(st.sampled_from([None, "balanced"]))
    ranks = 8.0 if isinstance(of.plan, Disaggregated) else of.parallel.ep
    return replace(chosen, placement=placement, redundant=draw(st.sampled_from([0.0, 1.0])) * ranks)


@st.composite
def stored_formats(draw: st.DrawFn) -> Precision:
    """Draw formats of inference: weights and caches that may be narrower than what is computed in."""
    base = draw(st.sampled_from([BF16, FP8]))
    return replace(
        base,
        weights=draw(st.sampled_from(["fp8", "int8", "int4", "q6_k", "nvfp4", base.linear])),
        head_weights=draw(st.sampled_from([None, "q6_k", "int8"])),
        weight_scaling=GroupScaling(
            draw(st.sampled_from([None, 32.0, 128.0])), zero=draw(st.sampled_from([None, "int4", "fp16"]))
        ),
        kv_cache=draw(st.sampled_from(["bf16", "fp8", "int8", "int4"])),
        kv_scaling=GroupScaling(draw(st.sampled_from([None, 64.0, 128.0])), zero=draw(st.sampled_from([None, "fp16"]))),
    )


@st.composite
def served(draw: st.DrawFn) -> Scenario:
    """Draw inference in any formats, with small tiles for products that expand weights or none."""
    drawn = draw(scenarios().filter(lambda each: not isinstance(each.plan, Training)))
    small = draw(st.sampled_from([(), (Tile(16, 128), Tile(16, 128, 16), Tile(64, 128))]))
    framework = replace(drawn.framework, weight_only_tiles=small)
    return replace(drawn, precision=draw(stored_formats()), framework=framework)
