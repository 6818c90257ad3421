"""The architectures of all models at once, from the compiled catalogue: their files are read when any has changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from costmodel.records import Record
from costmodel.schema import catalogue
from costmodel.schema.catalogue import Question
from costmodel.schema.inputs import Answers, recorded
from costmodel.schema.references import Library
from costmodel.workload.architecture import Architecture
from costmodel.workload.counting import parameter_count


class ListedModel(Record):
    """A model of the search path. weights: the format that it is published in where that is narrow, null: 16 bits."""

    architecture: Architecture
    parameters: float
    weights: str | None


def listed_models(search_path: Sequence[str | Path] = ()) -> dict[str, ListedModel]:
    """Return every model on the search path that can be read, by its name, the largest first."""
    question = Question("listed models", (), Library(search_path).roots)
    recalled = catalogue.recall(question)
    if recalled is not None:
        known: dict[str, ListedModel] = recalled.answer
        return known
    from costmodel.schema.files import read_models  # every kind of file loads with it

    rests_on: Answers = {}
    with recorded(rests_on):
        models, _ = read_models(search_path)
    listed = {
        name: ListedModel(
            each.architecture,
            float(parameter_count(each.architecture).total),
            (each.document["quantization"] or {}).get("weights"),
        )
        for name, each in models.items()
    }
    listed = dict(sorted(listed.items(), key=lambda item: -item[1].parameters))
    catalogue.keep(question, rests_on, listed)
    return listed
