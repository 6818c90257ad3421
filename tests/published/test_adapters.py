"""LoRA and QLoRA of Llama 3.1 8B on one RTX 4090, as torchtune's README of October 2024 states them."""

from __future__ import annotations

from pathlib import Path

import pytest

import costmodel

GIB = 2**30
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "fine_tune.md"


@pytest.mark.parametrize(("name", "memory", "tokens_per_second"), [("lora", 16.2, 3083), ("qlora", 7.4, 2413)])
def test_memory_and_rate_are_near_the_published_ones(name: str, memory: float, tokens_per_second: float) -> None:
    """Its peak is that of PyTorch's allocator, which the context and libraries are no part of."""
    point = costmodel.load("llama3_8b_lora_rtx4090").evaluate(name).point()
    assert point.memory is not None
    context = 0.3e9  # `reserve` of the framework
    assert (point.on_device - context) / GIB == pytest.approx(memory, rel=0.05)
    assert point.metrics["tokens_per_second"] == pytest.approx(tokens_per_second, rel=0.16)
    interval = point.intervals["tokens_per_second"]
    assert interval is not None
    assert interval[0] < tokens_per_second < interval[1]
    sizes = (point.on_device, point.memory["weights"])
    row = " | ".join([*(f"{size / GIB:.1f} GiB" for size in sizes), f"{point.metrics['tokens_per_second']:,.0f}"])
    assert row in PAGE.read_text(encoding="utf-8")
