"""Shipped tables of published runs.

- training recipes: how many tokens a step models of a size were trained on
- training runs: how well they used their devices
- receipts: errors of inference, by device, engine and kind of model
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator

from msgspec import convert

from costmodel.records import ValueRecord
from costmodel.schema.loader import MAX_TABLE_BYTES, read_text
from costmodel.schema.references import display_path, package_root
from costmodel.units import parse
from costmodel.workload.architecture import Architecture
from costmodel.workload.counting import parameter_count

RECIPES = "training_recipes.csv"  # in `workloads/` of the package's data
RUNS = "training_runs.csv"
RECEIPTS = "receipts.csv"  # made by `python -m reports.validation.receipts`


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


class Receipt(ValueRecord):
    """Errors of published runs. kind: `dense` or `experts`; metric: `ttft`, `tpot` or `rate`.

    state: `blind` where nothing that a prediction rests on saw the runs, else `seen`.
    median, mean: of the absolute relative errors.
    """

    device: str
    framework: str
    kind: str
    metric: str
    state: str
    runs: int
    median: float
    mean: float


class PublishedRun(ValueRecord):
    """A published training run. parameters: of one token; mfu: model FLOP over the peak of 16 bits.

    device_mtbf: mean time between failures of one device [s]; restart: from a failure until training goes on [s].
    """

    name: str
    parameters: float
    devices: float
    mfu: float
    device_mtbf: float | None
    restart: float | None
    cite: str


def training_recipes() -> list[TrainingRecipe]:
    """Return the shipped recipes."""
    return [convert(row, TrainingRecipe, strict=False) for row in _rows(RECIPES)]


def receipts(device: str, framework: str, kind: str) -> list[Receipt]:
    """Return what is known of runs of a device and kind of model under an engine, of any release."""
    rows = (convert(row, Receipt, strict=False) for row in _rows(RECEIPTS))
    return [each for each in rows if (each.device, each.framework, each.kind) == (device, framework, kind)]


def published_runs() -> list[PublishedRun]:
    """Return the shipped published runs."""

    def seconds(text: str, unit: str) -> float | None:
        return parse(f"{text} {unit}", "duration") if text else None

    return [
        PublishedRun(
            row["run"], float(row["parameters"]), float(row["devices"]), float(row["mfu"]),
            seconds(row["device_mtbf_hours"], "h"), seconds(row["restart_minutes"], "min"), row["cite"],
        )
        for row in _rows(RUNS)
    ]  # fmt: skip


def _rows(name: str) -> Iterator[dict[str, str]]:
    path = package_root() / "workloads" / name
    return iter(csv.DictReader(io.StringIO(read_text(path, display_path(path), MAX_TABLE_BYTES), newline="")))


def nearest_recipe(architecture: Architecture) -> TrainingRecipe:
    """Return the recipe of the model that is nearest in the logarithms of all and of active parameters."""
    count = parameter_count(architecture)

    def distance(recipe: TrainingRecipe) -> float:
        total = math.log(recipe.parameters / float(count.total))
        return math.hypot(total, math.log(recipe.active_parameters / float(count.active_with_embedding)))

    return min(training_recipes(), key=distance)
