"""Every kernel of torch that the harness times, run on a CPU: it computes what its shape says."""

from __future__ import annotations

import itertools

import pytest

torch = pytest.importorskip("torch", reason="kernels are torch's: pip install 'costmodel[profile]'")

from costmodel.profiling.libraries import build  # noqa: E402
from costmodel.profiling.machine import HostWatch, machine  # noqa: E402
from costmodel.profiling.operands import Operands  # noqa: E402
from costmodel.profiling.shapes import SUITES, ProfileLimits, Shape, shapes  # noqa: E402

REACH = ProfileLimits({"fp32": 1e11, "bf16": 1e11}, 1e10, 1e7, 1e-3, gpu=False)


def smallest() -> list[Shape]:
    found: dict[tuple[str, ...], Shape] = {}
    for shape in shapes([name for name in SUITES if name != "collectives"], REACH):
        if shape.family not in found or shape.traffic < found[shape.family].traffic:
            found[shape.family] = shape
    return list(found.values())


@pytest.mark.parametrize("shape", smallest(), ids=lambda shape: shape.row_id)
def test_a_kernel_of_every_family_runs(shape):
    operands = Operands("cpu", 2**20)
    operands.prepare(shape.traffic)
    kernel = build(shape, operands)
    assert kernel.name
    assert min(HostWatch().times([kernel.make(), kernel.make()])) > 0


def result_of(op, sizes, sub_op="", dtype="fp32"):
    shape = Shape("s", op, dtype, tuple(sizes.items()), sub_op, causal="1")
    operands = Operands("cpu", 2**20)
    operands.prepare(shape.traffic)
    return build(shape, operands).make()()


@pytest.mark.parametrize(("op", "sub_op"), [("gemm", ""), ("gemm", "dgrad"), ("gemm_wgrad", "")])
def test_products_have_the_sizes_of_their_row(op, sub_op):
    assert result_of(op, {"m": 5, "n": 7, "k": 3}, sub_op).shape == (5, 7)


def test_grouped_products_have_the_rows_of_all_groups():
    assert result_of("grouped_gemm", {"m": 12, "n": 7, "k": 3, "num_groups": 4}).shape == (4, 3, 7)


CORE = {"batch": 2, "q_heads": 4, "kv_heads": 4, "head_dim": 16, "v_head_dim": 16, "q_len": 6, "kv_len": 6}


def test_attention_masks_a_prompt_and_its_gradient_has_three_parts():
    assert result_of("attention_prefill", CORE).shape == (2, 4, 6, 16)
    assert [each.shape for each in result_of("attention_backward", CORE)] == [(2, 4, 6, 16)] * 3
    assert result_of("attention_decode", CORE | {"q_len": 1}).shape == (2, 4, 1, 16)


def test_absorbed_mla_gives_every_head_a_value():
    sizes = CORE | {"kv_heads": 1, "head_dim": 24, "v_head_dim": 16, "q_len": 1, "kv_len": 9}
    assert result_of("mla_decode", sizes).shape == (2, 1, 4, 16)


def test_operands_of_a_call_do_not_overlap_and_the_next_call_has_others():
    operands = Operands("cpu", 2**10)
    operands.prepare(3 * 4e6)
    parts = [operands.tensor("fp32", 1000, 1000) for _ in range(3)]
    begins = sorted(part.data_ptr() for part in parts)
    assert all(after - before >= 4e6 for before, after in itertools.pairwise(begins))
    assert operands.tensor("fp32", 1000, 1000).data_ptr() not in begins


def test_operands_hold_no_number_that_slows_arithmetic_down():
    x = Operands("cpu", 2**20).tensor("bf16", 1000, 1000)
    assert bool(torch.isfinite(x).all())
    assert 0.4 < float(x.float().abs().mean()) < 0.6


def test_a_machine_says_what_it_is():
    found = machine("cpu", threads=1)
    assert found.facts.processors == 1
    assert found.facts.memory > found.facts.cache >= 0
    assert found.facts.clock_max >= found.facts.clock > 0
    assert found.framework.startswith("torch ")
    assert set(found.state()) == {"clock_mhz", "power_w", "driver"}
