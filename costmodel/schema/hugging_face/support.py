"""Which config.json files are read, by family, tower and class of the weights. Which are refused, and why."""

from __future__ import annotations

from typing import Any

from costmodel.schema.hugging_face.encoders import ENCODERS
from costmodel.schema.hugging_face.families import FAMILIES
from costmodel.schema.hugging_face.refused import REFUSED
from costmodel.schema.hugging_face.wrappers import ALIASES, ARCHITECTURES, TEXT_FAMILIES


def support() -> dict[str, Any]:
    """Return what is read and what is not, by name, with the counts."""
    families = {
        name: sorted({alias for table in (ALIASES, TEXT_FAMILIES) for alias, family in table.items() if family == name})
        for name in sorted(FAMILIES)
    }
    return {
        "families": families,
        "encoders": sorted(ENCODERS),
        "architectures": dict(sorted(ARCHITECTURES.items())),
        "refused": dict(sorted(REFUSED.items())),
        "counts": {"families": len(families), "encoders": len(ENCODERS), "refused": len(REFUSED)},
    }
