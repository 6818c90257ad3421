"""The formats described: JSON Schema, and the page that is generated from the models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_world import problems_of

from costmodel.schema.export import formats_markdown, json_schema
from costmodel.schema.files import FILES

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"


@pytest.mark.parametrize("kind", list(FILES))
def test_every_kind_has_a_json_schema(kind: str) -> None:
    schema = json_schema(kind)
    assert json.loads(json.dumps(schema))["properties"]["schema"] == {"const": f"costmodel/{kind}@1"}
    assert schema["additionalProperties"] is False


def test_the_schema_of_a_workload_describes_every_phase() -> None:
    options = json_schema("workload")["properties"]["scenarios"]["additionalProperties"]["oneOf"]
    assert [option["properties"]["phase"]["const"] for option in options] == [
        "training", "prefill", "decode", "generate", "serving", "ep_bound",
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
