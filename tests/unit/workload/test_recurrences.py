"""Recurrences: work of chunks against counting it, constant state, time from one chunk to the next."""

from __future__ import annotations

import pytest
from builders import DENSE_MODEL, GQA, MACHINE, context

from costmodel.cost.calibration import FamilyFit
from costmodel.cost.kernels import attention_time
from costmodel.records import replace
from costmodel.workload.architecture import (
    Architecture,
    DenseFfn,
    Layer,
    Memories,
    Mixer,
    MoeFfn,
    NeuralMemory,
    NoFfn,
    Recurrence,
)
from costmodel.workload.counting import kv_bytes_per_token, parameter_count
from costmodel.workload.kv_cache import cached_bytes, state_bytes
from costmodel.workload.layers import model_work
from costmodel.workload.operators import AttentionKernel, Elementwise, Gemm, Operator

LINEAR = Recurrence(heads=4.0, key_dim=8.0, value_dim=16.0, chunk=4.0)
MEMORY = NeuralMemory(heads=4.0, depth=2, width=1.0, chunk=64.0)


def model(mixer: Mixer, layers: int = 1) -> Architecture:
    return replace(DENSE_MODEL, layers=(Layer(layers, mixer, DenseFfn(256.0, gated=True)),))


def forward(mixer: Mixer, phase: str, length: float, sequences: float = 1.0) -> tuple[Operator, ...]:
    seen = context(model(mixer), phase=phase, new_tokens=length, kv_len=64.0, sequences=sequences)
    return model_work(seen).layers[0].forward


def scan(mixer: Mixer, phase: str = "prefill", length: float = 64.0) -> AttentionKernel:
    return next(each for each in forward(mixer, phase, length) if isinstance(each, AttentionKernel))


def test_chunked_linear_attention() -> None:
    """Counts the multiply-adds of plain loops: scores and values inside a chunk, query times state, state update."""
    tokens, chunk, q, v, heads = 64, 4, 8, 16, 4
    counted = 0
    for _ in range(heads):
        for _ in range(tokens // chunk):
            for _ in range(chunk):
                counted += chunk * q  # one query against all keys of the chunk: whole squares
                counted += chunk * v  # its scores against their values
                counted += q * v  # the query against the state of earlier chunks
                counted += q * v  # its key and value into the state
    assert scan(LINEAR).flop == 2 * counted
    moved = tokens * heads * (2 * q + 2 * v) * 2 + heads * q * v * 2  # q, k, v, result; the state at the end
    assert scan(LINEAR).traffic == moved


def test_mamba_2_s_kernels_pass_states_and_products_through_memory() -> None:
    """Adds up kernel by kernel what a chunk reads and writes: of 64 tokens, one head in a group of its own."""
    chunk, q, v = 64.0, 8.0, 16.0
    mixer = Recurrence(heads=1.0, key_dim=q, value_dim=v, chunk=chunk, decay="gated")
    x, b, s, g = (
        2 * chunk * v,
        2 * chunk * q,
        q * v,
        chunk * chunk,
    )  # bytes of x, of B or C; numbers of states, products
    forward = [
        2 * b + 4 * g,  # products of C and B
        x + b + 4 * s,  # states of a chunk
        4 * s + 2 * s,  # states of those before
        4 * g + x + b + 2 * s + x,  # result
    ]
    work = model_work(context(model(mixer), new_tokens=chunk)).layers[0]
    one, gradient = (
        next(each for each in half if isinstance(each, AttentionKernel)) for half in (work.forward, work.input_gradient)
    )
    assert float(one.traffic) == pytest.approx(sum(forward) + 2 * q * v)
    assert float(gradient.traffic) > 3 * float(one.traffic)
    short = replace(mixer, chunk=16.0)  # four times the states, a fourth of the products
    extra = scan(short).traffic - scan(mixer).traffic
    assert float(extra) == pytest.approx(3 * s * 12 - 0.75 * g * 8)


def test_a_decoding_step_reads_and_writes_its_states() -> None:
    step = scan(LINEAR, "decode", 1.0)
    assert step.flop == 4 * 4 * 8 * 16  # 4*H*q*v
    assert step.traffic == 4 * (2 * 8 + 2 * 16) * 2 + 2 * 4 * 8 * 16 * 2
    many = scan(replace(LINEAR, memories=Memories(number=4.0, top_k=2.0, shared=1.0)), "decode", 1.0)
    assert many.flop == 3 * step.flop


def test_the_state_does_not_grow() -> None:
    # SYSTEMS 2.11: MoM of 340M keeps 5*4*256^2*24 numbers, 62.9 MB
    mixer = Recurrence(4.0, 256.0, 256.0, 64.0, decay="gated", memories=Memories(4.0, 2.0, 1.0))
    assert 24 * state_bytes(mixer, 1024.0, 2.0, 1.0) == pytest.approx(62.9e6, rel=1e-3)
    assert cached_bytes(mixer, 1e6, 2.0, 1.0) == 0.0
    assert kv_bytes_per_token(model(mixer)) == 0.0
    assert kv_bytes_per_token(model(GQA)) > 0.0


def test_parameters_of_a_recurrence() -> None:
    hidden, base = 1024, parameter_count(model(LINEAR)).total
    without = parameter_count(replace(model(LINEAR), layers=(Layer(1, LINEAR, NoFfn()),)))
    assert base - without.total == 3 * hidden * 256 + hidden  # the FFN and its norm
    many = replace(LINEAR, memories=Memories(number=4.0, top_k=2.0, shared=1.0))
    assert parameter_count(model(many)).total - base == 4 * hidden * 4 * (8 + 16) + hidden * 4
    assert parameter_count(model(many)).active_with_embedding - base == 2 * hidden * 4 * (8 + 16) + hidden * 4


def test_a_scan_takes_its_chunks_one_after_the_other() -> None:
    """100 processors at 1 GHz run 2 blocks each: 200 of 4 heads are one wave of 16 steps, 204 are two."""
    mixer = replace(LINEAR, chunk_cycles=1e4, blocks=2.0)

    def seconds(sequences: float, length: float = 64.0) -> float:
        (core,) = (each for each in forward(mixer, "prefill", length, sequences) if isinstance(each, AttentionKernel))
        return float(attention_time(core, MACHINE, FamilyFit()).compute)

    assert seconds(1.0) == pytest.approx(16 * 1e4 / 1e9)
    assert seconds(50.0) == seconds(1.0)
    assert seconds(51.0) == pytest.approx(2 * seconds(50.0))
    assert seconds(1.0, 128.0) == pytest.approx(2 * seconds(1.0))


def test_a_channel_of_each_sequence_is_a_row_of_a_prompt_s_convolution() -> None:
    mixer = replace(LINEAR, short_conv=4.0)
    for length, sequences in ((64.0, 1.0), (64.0, 3.0), (16.0, 3.0)):
        prompt, step = (forward(mixer, phase, length, sequences) for phase in ("prefill", "decode"))
        rows = [
            each.rows for each in (*prompt, *step) if isinstance(each, Elementwise) and each.kind.startswith("conv")
        ]
        assert rows == [sequences * mixer.channels, 0.0]  # whatever the tokens; a step has too few to tell


def test_channels_that_decay_by_themselves_have_three_convolutions_of_a_prompt() -> None:
    mixer = Recurrence(heads=8.0, key_dim=64.0, value_dim=64.0, chunk=64.0, decay="delta", short_conv=4.0)
    apart = replace(mixer, decay="channel_delta")

    def convolutions(one: Recurrence, phase: str) -> list[Elementwise]:
        found = forward(one, phase, 100.0, 3.0)
        return [each for each in found if isinstance(each, Elementwise) and each.name == "short convolution"]

    (joined,), three = convolutions(mixer, "prefill"), convolutions(apart, "prefill")
    assert len(three) == 3
    assert sum(float(each.traffic) for each in three) == pytest.approx(float(joined.traffic))
    assert sum(float(each.rows) for each in three) == pytest.approx(float(joined.rows))
    assert len(convolutions(apart, "decode")) == 1


def test_the_backward_scan_has_cycles_of_its_own() -> None:
    """16 chunks of 1e4 cycles at 1 GHz forward; backward 16 of 4.2e4, not twice the forward ones."""
    mixer = replace(LINEAR, chunk_cycles=1e4)
    times = {}
    for cycles in (None, 4.2e4):
        one = replace(mixer, gradient_cycles=cycles)
        work = model_work(context(model(one), phase="training", new_tokens=64.0, kv_len=64.0)).layers[0]
        (core,) = (each for each in work.input_gradient if isinstance(each, AttentionKernel))
        times[cycles] = float(attention_time(core, MACHINE, FamilyFit()).compute)
    assert times[None] == pytest.approx(16 * 2e4 / 1e9)
    assert times[4.2e4] == pytest.approx(16 * 4.2e4 / 1e9)


def test_memory_learns_with_every_token() -> None:
    work = [
        each for each in forward(MEMORY, "prefill", 128.0) if isinstance(each, Gemm) and each.name.startswith("memory")
    ]
    weights = 2 * 1024.0**2
    assert MEMORY.weights(1024.0) == weights
    assert sum(each.flop for each in work) == 128 * (2 + 6) * weights
    assert state_bytes(MEMORY, 1024.0, 2.0, 1.0) == 2 * weights * 2  # weights and momentum
    assert replace(MEMORY, depth=4).weights(1024.0) == 4 * 1024.0**2


def test_mixture_of_experts_routing() -> None:
    """Each token meets top_k experts; every expert gets its share of the rows."""
    ffn = MoeFfn(experts=8.0, intermediate=64.0, top_k=2, shared=1.0)
    layers = (Layer(1, GQA, ffn),)
    work = model_work(
        context(replace(DENSE_MODEL, layers=layers), phase="prefill", new_tokens=32.0, kv_len=32.0)
    ).layers[0]
    counted = 0
    for token in range(32):
        for expert in {token % 8, (token + 3) % 8}:
            assert 0 <= expert < 8
            counted += 3 * 1024 * 64
        counted += 3 * 1024 * 64  # the shared one
    counted += 32 * 1024 * 8  # the router
    names = ("router", "expert up", "expert down", "shared up", "shared down")
    found = [each for each in work.forward if isinstance(each, Gemm) and (each.name in names or "expert" in each.name)]
    assert sum(each.flop for each in found) == 2 * counted


def test_a_state_of_several_programs_fills_more_processors() -> None:
    """100 processors run 1 program each: 25 sequences of 4 heads fill them, and with 4 programs a head 4 times over."""
    whole = replace(LINEAR, chunk_cycles=1e4)
    split = replace(whole, columns=4.0)  # of 16

    def seconds(mixer: Recurrence, sequences: float) -> float:
        (core,) = (each for each in forward(mixer, "prefill", 64.0, sequences) if isinstance(each, AttentionKernel))
        return float(attention_time(core, MACHINE, FamilyFit()).compute)

    assert seconds(whole, 1.0) == seconds(split, 1.0) == seconds(split, 6.0)
    assert seconds(whole, 25.0) == seconds(whole, 1.0)
    assert seconds(split, 25.0) == pytest.approx(4 * seconds(whole, 25.0))
