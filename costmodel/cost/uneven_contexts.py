"""Decoding over contexts of unequal length, by kernels in which one thread block reads a whole context."""

from __future__ import annotations

from typing import Any

from costmodel.cost.attention import DecodeForm
from costmodel.cost.machine import Machine
from costmodel.quantities import Mask, Quantity
from costmodel.workload.framework_parts import UnevenContexts
from costmodel.workload.operators import AttentionKernel

WHOLE = ("fa2", "fa2_shared")  # rules whose kernels plan no balance between contexts


def filling_sequences(kernel: AttentionKernel, machine: Machine, contexts: UnevenContexts) -> Quantity:
    """Return the sequences whose thread blocks, one a key head, together load as fast as device memory gives.

    hbm_bandwidth / (load_rate * clock * kv_heads)
    """
    clock = machine.device.math[kernel.dtype].clock
    return machine.hbm_bandwidth / (contexts.load_rate * clock * kernel.kv_heads)


def uneven_factor(filling: Any, sequences: Any, ratio: Any, p: Any) -> Any:
    """Return by how much longer a kernel takes whose longest context is `ratio` times as long as the mean one.

        ((1 + y(ratio)^p) / (1 + y(1)^p))^(1/p),    y(ratio) = filling * ratio / sequences

    y: the time in which one thread block loads the longest context, over that in which device memory gives all of them.
    The kernel waits for both. The time with equal contexts, which is measured, holds y(1) already.
    """
    longest, mean = (filling * ratio / sequences) ** p, (filling / sequences) ** p
    return ((1.0 + longest) / (1.0 + mean)) ** (1.0 / p)


def reads_whole_contexts(kernel: AttentionKernel, form: object, machine: Machine) -> Mask:
    """Tell where a decoding kernel gives each context and key head to one thread block: where it splits no keys."""
    if not isinstance(form, DecodeForm) or form.split_kv_rule not in WHOLE:
        return False
    return form.terms(kernel, machine)["splits"] == 1.0
