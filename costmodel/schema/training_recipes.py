"""Published training recipes: how many tokens a step models of a size were trained on."""

from __future__ import annotations

import csv
import io
import math

from costmodel.records import ValueRecord
from costmodel.schema.loader import MAX_TABLE_BYTES, read_text
from costmodel.schema.references import display_path, package_root
from costmodel.workload.architecture import Architecture
from costmodel.workload.counting import parameter_count

RECIPES = "training_recipes.csv"  # in `workloads/` of the package's data


class TrainingRecipe(ValueRecord):
    """The batch of a published training run. parameters: all, and those of one token; global_batch: sequences."""

    model: str
    parameters: float
    active_parameters: float
    sequence: int
    global_batch: int
    cite: str

    @property
    def tokens(self) -> int:
        """Return the tokens of a step."""
        return self.sequence * self.global_batch


def training_recipes() -> list[TrainingRecipe]:
    """Return the shipped recipes."""
    path = package_root() / "workloads" / RECIPES
    rows = csv.DictReader(io.StringIO(read_text(path, display_path(path), MAX_TABLE_BYTES), newline=""))
    return [
        TrainingRecipe(
            row["model"], float(row["parameters"]), float(row["active_parameters"]), int(row["sequence"]),
            int(row["global_batch"]), row["cite"],
        )
        for row in rows
    ]  # fmt: skip


def nearest_recipe(architecture: Architecture) -> TrainingRecipe:
    """Return the recipe of the model that is nearest in the logarithms of all and of active parameters."""
    count = parameter_count(architecture)

    def distance(recipe: TrainingRecipe) -> float:
        total = math.log(recipe.parameters / float(count.total))
        return math.hypot(total, math.log(recipe.active_parameters / float(count.active_with_embedding)))

    return min(training_recipes(), key=distance)
