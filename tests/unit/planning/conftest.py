"""Small spaces: one framework, a device in a node."""

from __future__ import annotations

import pytest

from costmodel.planning import structures


@pytest.fixture
def one_framework(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others are more of the same."""
    monkeypatch.setattr(structures, "ENGINES", {"vllm": "vLLM"})
