"""Which implementations of a plan are fitted: by whole names, or by parts of names."""

from __future__ import annotations

import pytest

from reports.fits.kernels import is_chosen

NAMES = ("b200-sxm/trtllm", "b200-sxm/trtllm-moe", "h100-sxm/trtllm")


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ("b200-sxm/trtllm", {"b200-sxm/trtllm"}), ("trtllm-moe", {"b200-sxm/trtllm-moe"}), ("trtllm", set(NAMES)),
        ("", set(NAMES)), ("h100-sxm,trtllm-moe", {"h100-sxm/trtllm", "b200-sxm/trtllm-moe"}), ("none", set()),
    ],
)  # fmt: skip
def test_a_whole_name_is_that_implementation_alone(asked: str, chosen: set[str]) -> None:
    assert {name for name in NAMES if is_chosen(name, asked.split(","), NAMES)} == chosen
