"""Small scenarios made of dataclasses alone: round numbers, so that times can be worked out by hand."""

from __future__ import annotations

import pytest

from costmodel.cost.calibration import Calibration, FamilyFit
from costmodel.cost.spread import Spread
from costmodel.cost.time import Machine
from costmodel.hardware import Cluster, Device, Host, Link, MathUnit, MemoryLevel, Network, Nic, Node, Power, Price
from costmodel.network.group_links import GroupLinks
from costmodel.quantities import Bytes, Count, Quantity, sum_of
from costmodel.records import replace
from costmodel.result import Point
from costmodel.workload.architecture import Architecture, Attention, DenseFfn, Layer, Mla, MoeFfn, Mtp
from costmodel.workload.context import Context
from costmodel.workload.engine import Scheduler
from costmodel.workload.kv_cache import cached_bytes
from costmodel.workload.plans import Decode, Generate, Prefill, Serving, Speculative, Training
from costmodel.workload.scenario import (
    Communication,
    Disaggregated,
    Framework,
    Parallelism,
    Plan,
    Pool,
    Precision,
    Scenario,
    Tile,
)

FAMILIES = (
    "gemm",
    "grouped_gemm",
    "bmm",
    "attention_prefill",
    "attention_decode",
    "attention_backward",
    "mla_backward",
    "mla_prefill",
    "mla_decode",
    "elementwise",
    "collective",
    "send_recv",
    "moe_dispatch",
    "moe_combine",
)

CLOCK = 1e9
DEVICE = Device(
    name="test-device",
    architecture="test",
    processors=100.0,
    clock=CLOCK,
    clock_max=CLOCK,
    math={
        "fp32": MathUnit(500.0, CLOCK),
        "bf16": MathUnit(10_000.0, CLOCK),
        "fp16": MathUnit(10_000.0, CLOCK),
        "fp8": MathUnit(20_000.0, CLOCK, "fp22", "software"),
    },
    memory=(MemoryLevel("smem", 2e7, 3e13), MemoryLevel("l2", 5e7, 1e13), MemoryLevel("hbm", 80e9, 2e12)),
    links={"nvlink": Link("nvlink", 200e9, 1e-6), "pcie": Link("pcie", 25e9, 2e-6)},
    power=Power(500.0),
    price=Price(2.0 / 3600, None),
)
NODE = Node(
    name="test-node",
    device=DEVICE,
    count=8.0,
    intra=DEVICE.links["nvlink"],
    peer_to_peer=True,
    nic=Nic(50e9, 1.0, 2e-6),
    host=Host(None, None, None),
)
CLUSTER = Cluster("test-cluster", NODE, 64.0, Network("fat_tree", 1.0, 64.0, None, 2e-6, 3e-6, "adaptive"))
ONE_NODE = Cluster("one-node", NODE, 1.0, None)
HOSTED = replace(CLUSTER, node=replace(NODE, host=Host(2e12, 400e9, 2.0)))  # 50 GB/s for each of eight devices

FRAMEWORK = Framework(
    name="test-framework",
    gemm_tiles=(Tile(128, 128), Tile(64, 64), Tile(64, 64, 4)),
    attention_tiles=(Tile(128, 128),),
    promotion_interval=128.0,
    launch=1e-6,
    reserve=3e8,
)
UNFUSED = replace(FRAMEWORK, implementations={"attention_prefill": ("unfused",)})

BF16 = Precision(
    linear="bf16",
    attention="bf16",
    router="bf16",
    head="bf16",
    residual="bf16",
    weights="bf16",
    master="fp32",
    gradients="fp32",
    moments="fp32",
    kv_cache="bf16",
    activations="bf16",
)
FP8 = replace(BF16, linear="fp8", router="fp32", activations="fp8", attention_output="e5m6", scale_block=128.0)

GQA = Attention(q_heads=16.0, kv_heads=4.0, head_dim=64.0, v_head_dim=64.0)
LATENT = Mla(heads=16.0, q_lora=256.0, kv_lora=128.0, nope_dim=64.0, rope_dim=32.0, v_head_dim=64.0)
MOE = MoeFfn(experts=64.0, intermediate=512.0, top_k=4, shared=1.0, groups=8.0, group_top_k=4)

DENSE_MODEL = Architecture("dense", 1024.0, 32_000.0, (Layer(8, GQA, DenseFfn(2816.0, gated=True)),))
MOE_MODEL = Architecture(
    "moe", 1024.0, 32_000.0, (Layer(2, LATENT, DenseFfn(2816.0, gated=True)), Layer(6, LATENT, MOE)), mtp=Mtp(1)
)
GPT_LAYER = Layer(
    48,
    Attention(64.0, 64.0, 96.0, 96.0, rotary=False, bias=True),
    DenseFfn(24_576.0, gated=False, bias=True),
    norm="layer",
    dropout=True,
)
GPT_22B = Architecture("gpt-22b", 6144.0, 51_200.0, (GPT_LAYER,), tied_embeddings=True, positions=2048.0)

STEP = Training("1f1b", global_batch=64.0, sequence=2048.0, micro_batch=1.0, recompute=frozenset(), zero=1)
PREFILL = Prefill(input_tokens=1024.0, tokens_per_device=4096.0, micro_batches=2)
DECODE = Decode(batch_per_device=32.0, input_tokens=1024.0, output_tokens=256.0, micro_batches=2)

GENERATE = Generate(batch=64.0, input_tokens=1024.0, output_tokens=256.0)
SERVING = Serving(input_tokens=1024.0, output_tokens=256.0, concurrency=32.0, scheduler=Scheduler(token_budget=512.0))
DRAFTS = Speculative(depth=1.0, acceptance=0.8)


def pools(
    prefill: Parallelism | None = None,
    decode: Parallelism | None = None,
    hits: Quantity = 0.0,
    drafts: Speculative | None = None,
) -> Disaggregated:
    """Return serving from two pools, each of one device where no layout is given."""
    prompts = replace(PREFILL, prefix_hit_rate=hits, speculative=drafts)
    requests = replace(DECODE, speculative=drafts)
    return Disaggregated(
        1024.0,
        256.0,
        Pool(Parallelism() if prefill is None else prefill, Communication(10.0, "fp8"), prompts),
        Pool(Parallelism() if decode is None else decode, Communication(mode="low_latency"), requests),
    )


MACHINE = Machine(DEVICE, FRAMEWORK, 100.0)


def scenario(
    plan: Plan = STEP,
    architecture: Architecture = DENSE_MODEL,
    parallel: Parallelism | None = None,
    precision: Precision = BF16,
    communication: Communication | None = None,
    cluster: Cluster = CLUSTER,
    framework: Framework = FRAMEWORK,
) -> Scenario:
    """Return a scenario; what is not given is plain: no parallelism, BF16."""
    return Scenario(
        "test",
        plan=plan,
        architecture=architecture,
        cluster=cluster,
        parallel=Parallelism() if parallel is None else parallel,
        precision=precision,
        communication=Communication() if communication is None else communication,
        framework=framework,
    )


def context(
    architecture: Architecture = DENSE_MODEL,
    parallel: Parallelism | None = None,
    phase: str = "training",
    sequences: Quantity = 1.0,
    new_tokens: Quantity = 1024.0,
    kv_len: Quantity | None = None,
) -> Context:
    """Return one rank's view; `replace` it for what else a test changes."""
    return Context(
        architecture=architecture,
        parallel=Parallelism() if parallel is None else parallel,
        precision=BF16,
        communication=Communication(),
        framework=FRAMEWORK,
        phase=phase,
        sequences=sequences,
        new_tokens=new_tokens,
        kv_len=new_tokens if kv_len is None else kv_len,
    )


def with_device(cluster: Cluster, device: Device) -> Cluster:
    """Return the cluster with other devices; the link inside nodes is the device's."""
    return replace(cluster, node=replace(cluster.node, device=device, intra=device.links["nvlink"]))


def with_math(device: Device, dtype: str, unit: MathUnit) -> Device:
    """Return the device with one math unit changed."""
    return replace(device, math={**device.math, dtype: unit})


def with_level(device: Device, name: str, bandwidth: Quantity, capacity: Quantity | None = None) -> Device:
    """Return the device with the bandwidth, and perhaps the capacity, of one memory level changed."""
    return replace(
        device,
        memory=tuple(
            MemoryLevel(name, level.capacity if capacity is None else capacity, bandwidth)
            if level.name == name
            else level
            for level in device.memory
        ),
    )


def links_of(
    size: float, local: float, inner: float = 200e9, outer: float = 50e9, latencies: tuple[float, float] = (1e-6, 3e-6)
) -> GroupLinks:
    """Return a group's path with `local` ranks on each node. latencies: inside and between nodes."""
    return GroupLinks(size, local, size / local, inner, outer, *latencies)


def spreads(low: float, median: float, high: float, families: tuple[str, ...] = FAMILIES) -> Calibration:
    """Return a calibration whose families all have one spread and no correction."""
    fit = FamilyFit(spread=Spread((1.0,), (low,), (median,), (high,)))
    return Calibration("test", dict.fromkeys(families, fit))


def assert_adds_up(point: Point) -> None:
    """Check that the parts of a step, and its breakdown with the bubble, add up to it, and that no line is negative."""
    whole = point.metrics["step_time"]
    assert point.schedule is not None
    assert sum(point.schedule.values()) == pytest.approx(whole, rel=1e-12)
    total = sum(line.time for line in point.breakdown) + (point.metrics["bubble_time"] or 0.0)
    assert total == pytest.approx(whole, rel=1e-12)
    assert min(line.time for line in point.breakdown) >= 0


def kv_bytes_per_sequence(architecture: Architecture, tokens: Count, element: Bytes, tp: Count) -> Bytes:
    """Return the KV cache of a sequence of `tokens` on one tensor-parallel rank, within windows [B].

    element: bytes of one cached element, scales included.
    """
    return sum_of(layer.repeat * cached_bytes(layer.mixer, tokens, element, tp) for layer in architecture.layers)
