"""Every kernel of torch that the harness times, run on a CPU: it computes what its shape says."""

from __future__ import annotations

import itertools

import pytest

from costmodel.records import replace

torch = pytest.importorskip("torch", reason="kernels are torch's: pip install 'costmodel[profile]'")

from costmodel.profiling.libraries import build  # noqa: E402
from costmodel.profiling.machine import machine  # noqa: E402
from costmodel.profiling.operands import Operands  # noqa: E402
from costmodel.profiling.shapes import SUITES, ProfileLimits, Shape, shapes  # noqa: E402
from costmodel.profiling.watches import HostWatch  # noqa: E402

REACH = ProfileLimits({"fp32": 1e11, "bf16": 1e11}, 1e10, 1e7, 1e-3, gpu=False)


def smallest() -> list[Shape]:
    found: dict[tuple[str, ...], Shape] = {}
    for shape in shapes([name for name in SUITES if name != "collectives"], REACH):
        if shape.family not in found or shape.traffic < found[shape.family].traffic:
            found[shape.family] = shape
    return list(found.values())


def test_a_kernel_of_every_family_runs():
    for shape in smallest():
        operands = Operands("cpu", 2**20)
        operands.prepare(shape.traffic)
        kernel = build(shape, operands)
        assert kernel.name, shape.row_id
        assert min(HostWatch().series([kernel.make(), kernel.make()]).seconds) > 0, shape.row_id


def result_of(op, sizes, sub_op="", dtype="fp32"):
    shape = Shape("s", op, dtype, tuple(sizes.items()), sub_op, causal="1")
    operands = Operands("cpu", 2**20)
    operands.prepare(shape.traffic)
    return build(shape, operands).make()()


@pytest.mark.parametrize(("op", "sub_op"), [("gemm", ""), ("gemm", "dgrad"), ("gemm_wgrad", "")])
def test_products_have_the_sizes_of_their_row(op, sub_op):
    assert result_of(op, {"m": 5, "n": 7, "k": 3}, sub_op).shape == (5, 7)


def test_grouped_products_have_the_rows_of_all_groups():
    sizes = {"m": 64, "n": 16, "k": 32, "num_groups": 4}
    assert result_of("grouped_gemm", sizes, dtype="bf16").shape == (64, 16)
    assert result_of("grouped_gemm", sizes, "bwd_grad_act", dtype="bf16").shape == (64, 32)
    assert result_of("grouped_gemm", sizes, "bwd_grad_w", dtype="bf16").shape == (4, 16, 32)


def test_a_layer_of_experts_is_the_weighted_sum_of_its_experts():
    operands = Operands("cpu", 2**20)
    given: list[torch.Tensor] = []
    tensor = operands.tensor
    operands.tensor = lambda *sizes: given.append(tensor(*sizes)) or given[-1]
    sizes = {"num_tokens": 8, "num_experts": 4, "topk": 2, "hidden": 32, "inter": 16}
    torch.manual_seed(3)
    shape = Shape("s", "moe_layer", "bf16", tuple(sizes.items()), backend="grouped_mm_layer")
    call = build(shape, operands).make()
    x, up, down, weights = (each.float() for each in given[:4])
    torch.manual_seed(3)
    order = torch.randperm(16)
    expected = torch.zeros(8, 32)
    for place, copy in enumerate(order.tolist()):
        token, expert = copy // 2, place // 4
        inner = torch.nn.functional.glu(x[token] @ up[expert].T, dim=-1)
        expected[token] += weights[token, copy % 2, 0] * (inner @ down[expert].T)
    assert torch.allclose(call().float(), expected, atol=0.15)


def test_the_backend_of_attention_is_the_one_that_torch_is_confined_to():
    shape = Shape("s", "attention_prefill", "fp32", tuple(CORE.items()), causal="1", backend="math")
    operands = Operands("cpu", 2**20)
    kernel = build(shape, operands)
    assert kernel.name == "torch.scaled_dot_product_attention math"
    call = kernel.make()
    with torch.profiler.profile() as profile:
        call()
    assert "aten::_scaled_dot_product_attention_math" in {event.name for event in profile.events()}
    chosen = build(replace(shape, backend=""), operands)
    assert chosen.name.rpartition(" ")[2] in ("flash", "math")


def test_a_gradient_is_laid_out_as_the_output_so_that_nothing_copies_it():
    operands = Operands("cpu", 2**20)
    out = torch.empty(2, 8, 5, 4).transpose(1, 2)
    like = operands.like("fp32", out)
    assert (like.shape, like.stride()) == (out.shape, out.stride())


def test_optimizer_steps_run_over_states_of_their_own():
    shape = Shape("optimizer", "elementwise", "bf16", (("m", 1), ("n", 4096)), "adamw")
    operands = Operands("cpu", 2**20)
    operands.prepare(shape.traffic)
    kernel = build(shape, operands)
    first, second = kernel.make(), kernel.make()
    states = [next(iter(step.__self__.state.values()))["exp_avg"].data_ptr() for step in (first, second)]
    assert states[0] != states[1]


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
    assert set(found.state(0.0, 1.0)) == {"clock_mhz", "driver"}
    assert found.versions == {"torch": found.framework.removeprefix("torch ")}
