"""Norms by themselves and fused with the additions of the residual stream, and dropout on it."""

from __future__ import annotations

from costmodel.quantities import Bytes, Count
from costmodel.workload.context import Context
from costmodel.workload.operators import Elementwise
from costmodel.workload.work import Parameters, WorkBuilder


def add_norm(builder: WorkBuilder, context: Context, name: str, kind: str, rows: Count, width: Count) -> None:
    """Add a norm on its own: forward reads x and writes y, backward reads dy and x and writes dx."""
    size = rows * width * context.residual
    gradients = [Elementwise(f"{name} gradient", 3 * size, rows=rows)]
    if context.framework.training.is_unfused and not context.is_frozen:
        calls = 2.0 + norm_vectors(kind)
        gradients.append(Elementwise(f"{name} parameter gradients", 2 * size, rows=rows, calls=calls))
    builder.step("norm", [Elementwise(name, _norm_passes(kind) * size, kind="norm", rows=rows)], gradients)
    _save_norm(builder, name, kind, size, width)


def add_residual_norm(
    builder: WorkBuilder, context: Context, name: str, kind: str, *, branches: int = 1, norms: int = 1
) -> None:
    """Add norms fused with the preceding residual add, over the whole residual stream.

    Forward reads the residual and each branch, writes their sum and each y. Backward reads each branch's dy, the sum
    and the residual's gradient, writes dx. Recomputation reads the saved sum and writes each y.
    branches: 2 in a parallel block, with one or two `norms`.

    Unfused: 3 passes per addition, 2 per norm. Backward 3 per sum of gradients, 3 per norm and 2 for its parameters
    [PyTorch, native/cuda/layer_norm_kernel.cu]. The parameter gradients take two kernels, partial sums and their sum,
    and one per vector that adds to earlier micro-batches.
    """
    rows, count = context.residual_tokens, float(norms)
    size = rows * context.architecture.hidden * context.residual
    if context.framework.training.is_unfused:
        norm = Elementwise(name, _norm_passes(kind) * norms * size, kind="norm", rows=rows, calls=count)
        calls = norms * (2.0 + norm_vectors(kind))
        trained = Elementwise(f"{name} parameter gradients", 2 * norms * size, rows=rows, calls=calls)
        builder.step(
            "norm",
            [Elementwise(f"{name} residual add", 3 * branches * size, kind="add", calls=float(branches)), norm],
            [
                Elementwise(f"{name} gradient", 3 * norms * size, rows=rows, calls=count),
                *(() if context.is_frozen else (trained,)),
                Elementwise(f"{name} gradient sum", 3 * branches * size, kind="add", calls=float(branches)),
            ],
            recomputed=[norm],
        )
    else:
        builder.step(
            "norm",
            [Elementwise(name, (branches + norms + _norm_passes(kind)) * size, kind="norm", rows=rows)],
            [Elementwise(f"{name} gradient", (3 + branches) * size, rows=rows)],
            recomputed=[Elementwise(name, (1 + norms) * size, kind="norm", rows=rows)],
        )
    _save_norm(builder, name, kind, size, norms * context.architecture.hidden)


def add_norm_after(builder: WorkBuilder, context: Context, name: str, kind: str) -> None:
    """Add a norm of a branch's result z, fused with the residual add: x + N(z).

    Forward reads x and z, writes the sum. Backward reads z and the gradients of the residual and of the next branch,
    writes their sum and dz.
    """
    width, rows = context.architecture.hidden, context.residual_tokens
    size = rows * width * context.residual
    forward = Elementwise(name, 3 * size, kind="norm", rows=rows)
    builder.step("norm", [forward], [Elementwise(f"{name} gradient", 5 * size, rows=rows)])
    _save_norm(builder, name, kind, size, width)


def norm_vectors(kind: str) -> float:
    """Return the parameter vectors of a norm: a scale, in a layer or group norm a bias too. Without any none."""
    return {"layer": 2.0, "group": 2.0, "none": 0.0, "plain": 0.0}.get(kind, 1.0)


def _norm_passes(kind: str) -> float:
    """Return the passes of a norm over its tensor: a read and a write.

    The statistics of a group norm are those of a grid, so that it reads twice [PyTorch, native/cuda/
    group_norm_kernel.cu: RowwiseMomentsCUDAKernel, then the element-wise kernel].
    """
    return 3.0 if kind == "group" else 2.0


def _save_norm(builder: WorkBuilder, name: str, kind: str, size: Bytes, width: Count) -> None:
    """Save the input of norms and add their parameters. width: of all norms of that input."""
    builder.save(f"{name} input", "input", size)
    builder.add_parameters(Parameters.replicated(name, norm_vectors(kind) * width))


def add_dropout(builder: WorkBuilder, context: Context, name: str) -> None:
    """Add dropout on the residual branch: one pass, with a one-byte mask.

    Unfused, the residual-add kernel does the dropout, so that only the mask is added [NVIDIA Megatron-LM,
    core/fusions/fused_bias_dropout.py].
    """
    elements = context.residual_tokens * context.architecture.hidden
    size = elements * (2 * context.residual + 1.0)
    unfused = context.framework.training.is_unfused
    forward = Elementwise(name, elements, calls=0.0) if unfused else Elementwise(name, size)
    builder.step("dropout", [forward], [Elementwise(f"{name} gradient", size)])
    builder.save(f"{name} mask", "dropout", elements)
