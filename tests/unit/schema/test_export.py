"""The formats described: JSON Schema, and the page that is generated from the models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from small_world import problems_of

from costmodel.schema.export import formats_markdown, json_schema
from costmodel.schema.files import FILES
from costmodel.serving.draw import share_beginnings
from costmodel.workload.requests import SharedPrefix

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"


@pytest.mark.parametrize("kind", list(FILES))
def test_every_kind_has_a_json_schema(kind: str) -> None:
    schema = json_schema(kind)
    assert json.loads(json.dumps(schema))["properties"]["schema"] == {"const": f"costmodel/{kind}@1"}
    assert schema["additionalProperties"] is False


def test_the_schema_of_a_workload_describes_every_phase() -> None:
    options = json_schema("workload")["properties"]["scenarios"]["additionalProperties"]["oneOf"]
    assert [option["properties"]["phase"]["const"] for option in options] == [
        "training", "prefill", "decode", "generate", "serving", "rl", "ep_bound", "diffusion",
    ]  # fmt: skip


def test_an_unknown_kind_is_an_error_with_the_nearest_one() -> None:
    (problem,) = problems_of(lambda: json_schema("devise"))
    assert "did you mean `device`" in problem.hint


def test_every_field_is_described() -> None:
    rows = [line for line in formats_markdown().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert all(line.split("|")[4].strip() for line in rows)


def test_the_page_is_the_one_that_the_models_generate() -> None:
    assert PAGE.read_text(encoding="utf-8") == formats_markdown()


def test_a_shared_beginning_is_said_to_come_in_addition_to_the_prompt() -> None:
    """As the drawn requests have it: three tokens before each prompt of two."""
    prompts, _ = share_beginnings(np.array([2, 2]), SharedPrefix(groups=1.0, tokens=3.0), 1, np.random.default_rng(0))
    assert list(prompts) == [5, 5]
    (row,) = (line for line in formats_markdown().splitlines() if line.startswith("| `requests.prefix.tokens`"))
    assert "in addition to `input`" in row
