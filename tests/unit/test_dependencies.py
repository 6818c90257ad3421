"""What is imported from pydantic is there in the oldest version that pyproject.toml admits."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

from sources import statements, trees

ROOT = Path(__file__).resolve().parents[2]
OLDEST = "2.7"
NAMES = {
    "pydantic": {
        "AfterValidator", "BaseModel", "BeforeValidator", "ConfigDict", "Discriminator", "Field",
        "GetCoreSchemaHandler", "GetJsonSchemaHandler", "PrivateAttr", "RootModel", "StringConstraints", "Tag",
        "ValidationError", "create_model", "model_validator",
    },
    "pydantic.fields": {"FieldInfo"},
    "pydantic.functional_validators": {"ModelWrapValidatorHandler"},
}  # fmt: skip
"""Names that pydantic 2.7.0 has, where every command ran: of later ones `pydantic` itself has more."""


def test_pydantic_2_7_has_what_is_imported() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    assert f"pydantic>={OLDEST}" in dependencies
    later = []
    for path, tree in trees().items():
        for node in statements(tree):
            if isinstance(node, ast.ImportFrom) and node.module in NAMES:
                later += [f"{path.name}: {each.name}" for each in node.names if each.name not in NAMES[node.module]]
    assert later == []
