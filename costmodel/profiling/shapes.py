"""The kernels that the harness can time: rows of a measurement table without their time, suite by suite."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from costmodel.errors import InputError
from costmodel.records import ValueRecord, field, replace

DESIGNED = "designed"
"""Beside the suites: five kernels of each family of theirs, which move fits that other devices lend the most."""
SUITES = (
    "copies",
    "gemm",
    "grouped_gemm",
    "attention",
    "mla",
    "moe",
    "elementwise",
    "optimizer",
    "launch",
    "collectives",
)
BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "fp8_e4m3": 1, "fp8_e4m3_blk128": 1}
FP4 = "nvfp4"
FP4_BACKEND = "block16"  # a scale for 16 elements
_FP4_BYTES = 9 / 16  # 16 elements of four bits and a scale of one byte
_NARROW = ("fp8", FP4)  # how formats begin whose products have scales, and results in BF16
TORCH, VLLM = "torch", "vllm"

_ROWS = tuple(2**power for power in range(15))
_WIDTHS = tuple(sorted(size * step for size in (2**power for power in range(7, 14)) for step in (2, 3)))
_LENGTHS = tuple(2**power for power in range(6, 18))
_HEADS = ((4, 4), (8, 8), (16, 16), (32, 32), (64, 64), (8, 2), (32, 8), (64, 8))
_HEAD_DIMS = (64, 128)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_LATENT = (576, 512)  # width of a cached token and of its values in absorbed MLA, as the measurement schema has it
_EXPANDED = (192, 128)  # the same of a head in expanded MLA
_BLOCK = 128  # elements that share a scale
_EXPERTS = ((8, 2), (64, 6), (128, 8))
_MEMORY = tuple(2**power for power in range(12, 31))
_LARGEST_CACHED = 2**27  # bytes of a copy that is repeated: beyond what caches hold
_MESSAGES = tuple(2**power for power in range(10, 31, 2))
_STREAMS = ("silu_and_mul", "rmsnorm_or_layernorm", "softmax", "gelu", "add", "embedding", "cross_entropy")
_OF_A_GPU = ("to_device", "to_host", "cuda_graph")
_GRADIENTS = ("bwd_grad_act", "bwd_grad_w")  # of a grouped product, as the measurement schema calls them
_ALIGNED_ROWS = 16  # of each group in a grouped weight gradient
_SUSTAINED = ((8192, 8192, 8192), (4096, 7168, 2048))
SUSTAINED_LOADS = ("random", "zeros", "half_duty")
# Backends of torch's attention on a GPU. `flash` has one width for keys and values.
_SAME_WIDTH, _OTHER_WIDTHS, _WIDE_LATENT = ("flash", "cudnn"), ("cudnn", "efficient"), ("efficient", "math")
# How cuBLAS scales and accumulates FP8: a scale for each tensor or row; partial sums promoted to FP32, or not (`fast`).
_SCALED = ("tensor_fast", "tensor_full", "row_fast")
_FLASHINFER = {"attention_decode": ("cuda_cores", "tensor_cores"), "attention_prefill": ("fa2", "fa3")}
_INCLUDES = {
    "gemm": "gemm", "gemm_wgrad": "gemm", "grouped_gemm": "gemm", "moe_layer": "permute,up_gemm,act,down_gemm,combine",
    **dict.fromkeys(
        ("attention_prefill", "attention_decode", "attention_backward", "mla_prefill", "mla_decode"), "attention"
    ),
    **dict.fromkeys(("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv"), "transfer"),
}  # fmt: skip
_COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")


class Shape(ValueRecord, dict=True):  # without slots: what is derived is kept
    """One kernel to time.

    op, sub_op, dtype, sizes, causal: as in the columns of the measurement schema.
    library, version: who runs it.
    backend: which of the library's kernels, blank where it has one.
    load: of a kernel that runs for seconds, one of SUSTAINED_LOADS.
    secondary: the row is context for people and no kernel of a model, such as an empty launch.
    """

    suite: str
    op: str
    dtype: str
    sizes: tuple[tuple[str, int], ...]
    sub_op: str = ""
    causal: str = ""
    library: str = TORCH
    version: str = ""
    backend: str = ""
    load: str = ""
    secondary: bool = False

    @cached_property
    def row_id(self) -> str:
        """Return the stable key of the row, by which a later run knows that it was measured."""
        sizes = ".".join(f"{name}{value}" for name, value in self.sizes)
        library = f"{self.library}-{self.version}" if self.version else self.library
        parts = (library, self.backend, self.load, self.op, self.sub_op, self.dtype, sizes)
        return "/".join(part for part in parts if part)

    @property
    def family(self) -> tuple[str, ...]:
        """Return what kernels have in common whose times are equal where their sizes are."""
        return self.op, self.sub_op, self.dtype, self.library, self.backend, self.load

    @property
    def leads(self) -> bool:
        """Tell whether most of a model's time goes to kernels of this family: products and attention, both ways."""
        forward = self.op in ("gemm", "attention_prefill", "grouped_gemm")
        return not self.secondary and (forward or self.op in ("gemm_wgrad", "attention_backward"))

    def size(self, name: str, otherwise: int = 1) -> int:
        """Return one of the sizes."""
        for known, value in self.sizes:
            if known == name:
                return value
        return otherwise

    def point(self) -> tuple[float, ...]:
        """Return the position in log-shape space [octaves]."""
        return tuple(math.log2(value) for _, value in self.sizes)

    def columns(self) -> dict[str, str]:
        """Return the cells that describe the kernel."""
        out = "bf16" if self.dtype.startswith(_NARROW) else self.dtype
        return {
            "row_id": self.row_id, "op": self.op, "sub_op": self.sub_op, "dtype_in": self.dtype, "dtype_out": out,
            "causal": self.causal, "tier": "secondary" if self.secondary else "primary",
            "distribution": "balanced" if self.op == "moe_layer" else "", "includes": _INCLUDES.get(self.op, ""),
            "backend": self.backend, "load": self.load,
            **{name: str(value) for name, value in self.sizes},
        }  # fmt: skip

    @cached_property
    def flop(self) -> float:
        """Return the work, to tell how long the kernel runs at least [FLOP]."""
        if self.op in ("gemm", "gemm_wgrad", "grouped_gemm"):
            return 2.0 * self.size("m") * self.size("n") * self.size("k")
        if self.op == "moe_layer":
            return 6.0 * self.size("num_tokens") * self.size("topk") * self.size("hidden") * self.size("inter")
        if not self.size("q_heads", 0):
            return 0.0
        new, keys = self.size("q_len"), self.size("kv_len")
        pairs = new * (keys - (new - 1) / 2 if self.causal == "1" else keys)
        width = self.size("head_dim") + self.size("v_head_dim")
        passes = 5.0 if self.op == "attention_backward" else 2.0
        return passes * self.size("batch") * self.size("q_heads") * pairs * width

    @cached_property
    def traffic(self) -> float:
        """Return the bytes of all operands and results, about [B]."""
        each = _FP4_BYTES if self.dtype == FP4 else BYTES[self.dtype]
        m, n, k = (self.size(name) for name in "mnk")
        if self.op in ("gemm", "gemm_wgrad", "grouped_gemm"):
            return each * float(m * k + self.size("num_groups") * n * k + m * n)
        if self.op == "moe_layer":
            weights = 3 * self.size("num_experts") * self.size("hidden") * self.size("inter")
            return each * float(weights + 4 * self.size("num_tokens") * self.size("topk") * self.size("hidden"))
        if self.size("q_heads", 0):
            width = self.size("head_dim") + self.size("v_head_dim")
            queries = self.size("q_heads") * self.size("q_len")
            shared = self.op == "mla_decode"
            keys = (1 if shared else self.size("kv_heads")) * self.size("kv_len")
            passes = 2.0 if self.op == "attention_backward" else 1.0
            return each * (passes * self.size("batch") * width * float(queries + keys))
        if self.size("bytes", 0):
            return 2.0 * self.size("bytes")
        return each * float(m * n) * {"optimizer": 7.0, "copies": 2.0}.get(self.suite, 4.0)


class ProfileLimits(ValueRecord):
    """What a device can time: kernels that its roofline takes at most `longest` for, whose operands fit.

    peaks: dense rate by number format [FLOP/s].
    bandwidth: of its memory [B/s].
    memory: for operands [B].
    versions: of the libraries that can be imported.
    cudnn: its version.
    gpu: it has a host, graphs, and kernels for queries that share a key head.
    hopper: kernels of its architecture run.
    ranks: of a group that runs collectives.
    local: of them on one node.
    """

    peaks: Mapping[str, float]
    bandwidth: float
    memory: float
    longest: float
    versions: Mapping[str, str] = field(default_factory=lambda: {TORCH: ""})
    cudnn: str = ""
    gpu: bool = True
    hopper: bool = False
    ranks: int = 1
    local: int = 1

    def holds(self, shape: Shape) -> bool:
        """Tell whether a kernel is short and small enough."""
        if shape.library not in self.versions or shape.traffic > self.memory:
            return False
        if shape.backend == "fa3" and not self.hopper:
            return False
        is_shared = shape.suite == "attention" and shape.size("q_heads") != shape.size("kv_heads")
        if not self.gpu and (shape.sub_op in _OF_A_GPU or is_shared):
            return False
        peak = self.peaks.get(shape.dtype)
        if peak is None:
            return shape.op == "launch" or not shape.flop
        return self.least_time(shape) <= self.longest

    def least_time(self, shape: Shape) -> float:
        """Return the roofline's time of a kernel [s]."""
        work = shape.flop / self.peaks[shape.dtype] if shape.flop else 0.0
        return max(work, shape.traffic / self.bandwidth)

    def named(self, shape: Shape) -> Shape:
        """Return a kernel with the versions of what runs it."""
        backend = f"cudnn-{self.cudnn}" if shape.backend == "cudnn" and self.cudnn else shape.backend
        return replace(shape, version=self.versions[shape.library], backend=backend)


def shapes(suites: Sequence[str], limits: ProfileLimits) -> list[Shape]:
    """Return the kernels of some suites (none: all) that a device can time. Raises InputError on an unknown suite.

    With `DESIGNED` among them, five of each family of the others.
    """
    known = (*SUITES, DESIGNED)
    wrong = [name for name in suites if name not in known]
    if wrong:
        raise InputError.single(f"no suite `{wrong[0]}`", field="--suite", hint=f"known: {', '.join(known)}")
    by_format = {
        "gemm": _gemm, "grouped_gemm": _grouped, "attention": _attention, "mla": _mla, "moe": _moe,
        "elementwise": _elementwise, "optimizer": _optimizer,
    }  # fmt: skip
    candidates: list[Shape] = []
    for name in [name for name in suites if name != DESIGNED] or SUITES:
        if name == "copies":
            candidates += copies(gpu=limits.gpu)
        elif name == "launch":
            candidates += launches()
        elif name == "collectives":
            candidates += collectives(limits)
        else:
            candidates += [shape for dtype in limits.peaks for shape in by_format[name](dtype, gpu=limits.gpu)]
    held = [limits.named(shape) for shape in candidates if limits.holds(shape)]
    return list(_designed(held, limits)) if DESIGNED in suites else held


def _designed(candidates: Sequence[Shape], limits: ProfileLimits) -> Iterator[Shape]:
    """Yield the five kernels of each family that say most of its launch, its memory and its arithmetic.

    The shortest, and of the longer half the two with the fewest and the two with the most FLOP a byte: where few rows
    move a transferred fit, those like them move the most. Rows that are context for people are left out.
    """
    families: dict[tuple[str, ...], list[Shape]] = {}
    for shape in candidates:
        if not shape.secondary:
            families.setdefault(shape.family, []).append(shape)
    for own in families.values():
        by_time = sorted(own, key=limits.least_time)
        longer = sorted(by_time[len(by_time) // 2 :], key=lambda shape: shape.flop / max(shape.traffic, 1.0))
        yield from dict.fromkeys((by_time[0], *longer[:2], *longer[-2:]))


def sustained(limits: ProfileLimits) -> list[Shape]:
    """Return loads of seconds that show the clock which a board holds under its power limit.

    Products by number format, of random numbers, of zeros, and of random numbers for half of the time; attention. A
    copy of the memory.
    """
    narrow = {"fp8_e4m3": "tensor_fast", "fp8_e4m3_blk128": "block", FP4: FP4_BACKEND}
    loads = [
        Shape(
            "sustained", "gemm", dtype, (("m", m), ("n", n), ("k", k)), backend=narrow.get(dtype, ""), load=load,
            secondary=True,
        )
        for dtype in limits.peaks
        for m, n, k in _SUSTAINED
        for load in (SUSTAINED_LOADS if (m, dtype) == (_SUSTAINED[0][0], "bf16") else SUSTAINED_LOADS[:1])
    ]  # fmt: skip
    prompt = _core_sizes(4, 32, 32, (128, 128), 4096, 4096)
    loads += [
        Shape(
            "sustained", "attention_prefill", "bf16", prompt, causal="1", backend=backend, load="random",
            secondary=True,
        )
        for backend in (_SAME_WIDTH if limits.gpu else ("",))
    ]  # fmt: skip
    copy = (("m", 1), ("n", 2**28))
    loads.append(Shape("sustained", "elementwise", "fp32", copy, "copy", load="random", secondary=True))
    fitting = [load for load in loads if load.dtype in (*limits.peaks, "fp32") and load.traffic <= limits.memory]
    return [limits.named(load) for load in fitting]


def copies(*, gpu: bool = True) -> list[Shape]:
    """Return copies from a cache's size to a memory's: on the device, again between the same two buffers, to the host.

    On a GPU operands are cold, so only a copy that is repeated shows the bandwidth of a cache.
    """
    own = [_copy(size) for size in _MEMORY]
    again = [_copy(size, "copy_again") for size in _MEMORY if gpu and size <= _LARGEST_CACHED]
    return (
        own
        + again
        + [
            Shape("copies", "host_copy", "fp32", (("bytes", size),), way, secondary=True)
            for way in ("to_device", "to_host")
            for size in _MEMORY[::3]
        ]
    )


def _copy(size: int, sub_op: str = "copy") -> Shape:
    sizes = (("m", 1), ("n", size // BYTES["fp32"]))
    return Shape("copies", "elementwise", "fp32", sizes, sub_op, secondary=sub_op != "copy")


def launches() -> list[Shape]:
    """Return kernels without work: what a launch takes by itself, and as a node of a graph."""
    return [Shape("launch", "launch", "fp32", (("m", 1),), how, secondary=True) for how in ("eager", "cuda_graph")]


def collectives(limits: ProfileLimits) -> list[Shape]:
    """Return the messages of a group, none in a group of one."""
    if limits.ranks < 2:
        return []
    return [
        Shape(
            "collectives", kind, "bf16",
            (("bytes", size * limits.ranks), ("world_size", limits.ranks), ("gpus_per_node", limits.local)),
        )
        for kind in _COLLECTIVES
        for size in _MESSAGES
    ]  # fmt: skip


def _gemm(dtype: str, *, gpu: bool) -> Iterator[Shape]:
    """Yield products of a linear layer: forward, input gradient (`dgrad`), weight gradient.

    FP8 kernels read both operands along the summed dimension in all three, so that input gradients are forward products
    of other sizes. With block scales the weight gradient scales both sides by 1 x 128.
    """
    for m, n, k in itertools.product(_ROWS, _WIDTHS, _WIDTHS):
        forward = Shape("gemm", "gemm", dtype, (("m", m), ("n", n), ("k", k)))
        gradient = Shape("gemm", "gemm_wgrad", dtype, (("m", n), ("n", k), ("k", m)))
        if dtype.endswith("blk128"):
            yield replace(forward, library="deep_gemm")
            if gpu:
                yield replace(forward, backend="block")
                if m >= _BLOCK:
                    yield replace(gradient, backend="block")
        elif dtype.startswith("fp8"):
            yield from (replace(forward, backend=backend) for backend in _SCALED)
        elif dtype == FP4:
            yield replace(forward, backend=FP4_BACKEND)
        else:
            yield forward
            if m > 1:
                yield replace(forward, sub_op="dgrad")
                yield gradient


def _grouped(dtype: str, *, gpu: bool) -> Iterator[Shape]:
    """Yield one product a group, of as many rows each, and the gradients of both operands."""
    if dtype.endswith(("blk128", FP4)) or (dtype.startswith("fp8") and not gpu) or dtype == "fp32":
        return
    backend = "row_fast" if dtype.startswith("fp8") else ""
    for groups, rows, n, k in itertools.product((4, 8, 16, 32), _ROWS[:11:2], _WIDTHS[::2], _WIDTHS[::2]):
        sizes = (("m", groups * rows), ("n", n), ("k", k), ("num_groups", groups))
        yield Shape("grouped_gemm", "grouped_gemm", dtype, sizes, backend=backend)
        if not backend and rows >= _ALIGNED_ROWS:
            yield from (Shape("grouped_gemm", "grouped_gemm", dtype, sizes, kind) for kind in _GRADIENTS)


def _attention(dtype: str, *, gpu: bool) -> Iterator[Shape]:
    """Yield causal attention over a prompt, its gradient, and one query over a cache, by every library and backend."""
    if dtype.startswith(_NARROW) or (gpu and dtype == "fp32"):
        return
    for batch, (heads, shared), width, keys in itertools.product(_BATCHES, _HEADS, _HEAD_DIMS, _LENGTHS):
        prompt, query = (_core_sizes(batch, heads, shared, (width, width), new, keys) for new in (keys, 1))
        kinds = [("attention_decode", query)]
        if batch <= 16:
            kinds += [("attention_prefill", prompt), ("attention_backward", prompt)]
        for op, sizes in kinds:
            shape = Shape("attention", op, dtype, sizes, causal="1")
            yield from (replace(shape, backend=backend) for backend in (_SAME_WIDTH if gpu else ("",)))
            if dtype in ("bf16", "fp16"):
                yield from (replace(shape, library=library) for library in ("flash_attn", "flash_attn_3"))
                backends = _FLASHINFER.get(op, ())
                yield from (replace(shape, library="flashinfer", backend=backend) for backend in backends)


def _mla(dtype: str, *, gpu: bool) -> Iterator[Shape]:
    """Yield MLA with the keys of every head over a prompt, and absorbed over a cache that all heads share."""
    if dtype not in ("bf16", "fp32") or (gpu and dtype == "fp32"):
        return
    for batch, heads, keys in itertools.product(_BATCHES, (4, 16, 32, 64, 128), _LENGTHS):
        if batch <= 8:
            prompt = _core_sizes(batch, heads, heads, _EXPANDED, keys, keys)
            shape = Shape("mla", "mla_prefill", dtype, prompt, causal="1")
            yield from (replace(shape, backend=backend) for backend in (_OTHER_WIDTHS if gpu else ("",)))
        shape = Shape("mla", "mla_decode", dtype, _core_sizes(batch, heads, 1, _LATENT, 1, keys), causal="1")
        yield from (replace(shape, backend=backend) for backend in (_WIDE_LATENT if gpu else ("",)))
        if dtype == "bf16":
            yield replace(shape, library="flash_mla")


def _core_sizes(
    batch: int, heads: int, shared: int, widths: tuple[int, int], new: int, keys: int
) -> tuple[tuple[str, int], ...]:
    return (
        ("batch", batch), ("q_heads", heads), ("kv_heads", shared), ("head_dim", widths[0]),
        ("v_head_dim", widths[1]), ("q_len", new), ("kv_len", keys),
    )  # fmt: skip


def _moe(dtype: str, *, gpu: bool) -> Iterator[Shape]:
    """Yield one rank's experts, each with the same number of tokens: permute, products, activation, weighted sum."""
    if dtype.startswith(_NARROW) or dtype == "fp32":
        return
    for tokens, (experts, chosen), hidden, inter in itertools.product(
        _ROWS[3::2] if gpu else _ROWS[3:11:2], _EXPERTS, _WIDTHS[2::3], _WIDTHS[1::3]
    ):
        sizes = (
            ("num_tokens", tokens), ("num_experts", experts), ("topk", chosen), ("hidden", hidden),
            ("inter", inter), ("ep_size", 1), ("tp_size", 1),
        )  # fmt: skip
        if tokens * chosen % experts == 0:
            shape = Shape("moe", "moe_layer", dtype, sizes, backend="grouped_mm_layer")
            yield shape
            if gpu:
                yield replace(shape, library=VLLM, backend="triton-vllm")


def _elementwise(dtype: str, *, gpu: bool) -> Iterator[Shape]:
    if not dtype.startswith(_NARROW) and not (gpu and dtype == "fp32"):
        for kind, m, n in itertools.product(_STREAMS, _ROWS[::2], _WIDTHS):
            yield Shape("elementwise", "elementwise", dtype, (("m", m), ("n", n)), kind)


def _optimizer(dtype: str, *, gpu: bool) -> Iterator[Shape]:  # noqa: ARG001  as the other suites
    if dtype in ("fp32", "bf16"):
        for power in range(12, 30, 2):
            yield Shape("optimizer", "elementwise", dtype, (("m", 1), ("n", 2**power)), "adamw")
