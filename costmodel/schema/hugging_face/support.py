"""Which config.json files are read, by family, tower and class of the weights. Which are refused, and why."""

from __future__ import annotations

from typing import Any

from costmodel.schema.hugging_face.tables import encoders, families, table


def support() -> dict[str, Any]:
    """Return what is read and what is not, by name, with the counts."""
    names = table("names")
    others = {**names["aliases"], **names["text_families"]}
    read = {name: sorted(other for other, family in others.items() if family == name) for name in sorted(families())}
    return {
        "families": read,
        "encoders": sorted(encoders()),
        "architectures": dict(sorted(names["architectures"].items())),
        "refused": dict(sorted(names["refused"].items())),
        "counts": {"families": len(read), "encoders": len(encoders()), "refused": len(names["refused"])},
    }
