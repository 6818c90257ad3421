"""The controls of a scenario: the keys of its file that a page offers, each with its unit and its phases."""

from __future__ import annotations

from functools import cache

from costmodel.records import ValueRecord
from costmodel.schema.strict import file_models
from costmodel.schema.workload import PHASES
from costmodel.workload.plans import SETS
from costmodel.workload.schedules import SCHEDULES

INFERENCE = ("decode", "generate", "serving")
PRECISIONS, FRAMEWORKS = "precisions", "frameworks"  # kinds of files whose names are the choices
ZERO_STAGES = ("0", "1", "2", "3")


class Control(ValueRecord):
    """One key of a scenario.

    path: as `--set` takes it behind `scenarios.NAME.`.
    unit: what a plain number counts, blank of names.
    phases: that have it, blank for all.
    choices: its values, or the kind of files whose names these are, blank where it is a number.
    """

    path: str
    label: str
    unit: str = ""
    phases: tuple[str, ...] = ()
    choices: tuple[str, ...] | str = ()

    def is_of(self, phase: str) -> bool:
        """Tell whether a phase has it."""
        return not self.phases or phase in self.phases

    @property
    def meaning(self) -> str:
        """Return what the file's key means, as docs/formats.md says it."""
        return _meaning((self.phases or tuple(PHASES))[0], self.path)


@cache
def _meaning(phase: str, path: str) -> str:
    models, meaning = [PHASES[phase]], ""
    for part in path.split("."):
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        meaning = next((field.description or "" for field in fields), "")
        models = [model for field in fields for model in file_models(field.annotation)]  # type: ignore[misc]
    return meaning


GROUPS: dict[str, tuple[Control, ...]] = {
    "Load": (
        Control("rate", "arrivals", "requests/s, as 8 /s", ("serving",)),
        Control("concurrency", "in flight", "requests", ("serving",)),
        Control("batch_per_device", "batch", "requests per device", ("decode",)),
        Control("batch", "batch", "requests", ("generate",)),
        Control("tokens_per_device", "prompts in flight", "tokens per device", ("prefill",)),
        Control("input_tokens", "prompt", "tokens", ("prefill", *INFERENCE)),
        Control("output_tokens", "answer", "tokens", INFERENCE),
        Control("global_batch", "batch", "sequences per step", ("training",)),
        Control("sequence", "sequence", "tokens", ("training",)),
        Control("micro_batch", "micro-batch", "sequences", ("training",)),
        Control("batch", "batch", "images or videos", ("diffusion",)),
        Control("height", "height", "pixels", ("diffusion",)),
        Control("width", "width", "pixels", ("diffusion",)),
        Control("frames", "frames", "per video", ("diffusion",)),
        Control("steps", "steps", "of denoising", ("diffusion",)),
    ),
    "Layout": (
        Control("parallel.tp", "tensor", "devices"),
        Control("parallel.pp", "pipeline", "stages"),
        Control("parallel.dp", "data", "copies"),
        Control("parallel.ep", "experts", "devices"),
        Control("parallel.cp", "context", "devices"),
        Control("micro_batches", "overlapped", "micro-batches", ("prefill", *INFERENCE)),
        Control("schedule", "schedule", "", ("training",), tuple(SCHEDULES)),
        Control("recompute", "recomputed", "", ("training",), tuple(SETS)),
        Control("optimizer.zero", "ZeRO", "stage", ("training",), ZERO_STAGES),
    ),
    "Program": (
        Control("precision", "formats", "", (), PRECISIONS),
        Control("framework", "framework", "", (), FRAMEWORKS),
    ),
}
CONTROLS = tuple(control for group in GROUPS.values() for control in group)
PATHS = tuple(dict.fromkeys(control.path for control in CONTROLS))
