"""A framework of a stated release: which of its files describes it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from costmodel.errors import kind_of
from costmodel.records import replace
from costmodel.schema.framework import TrainingDefaultsFile
from costmodel.schema.overrides import Override
from costmodel.schema.references import Library
from costmodel.schema.tree import Tree
from costmodel.schema.workload import PlanFile, TrainingFile
from costmodel.workload.architecture import Architecture
from costmodel.workload.scenario import Framework
from costmodel.workload.split_rules import passes_keys_on

_FOLDER, _KEY = "frameworks", "release"
_RELEASE = re.compile(r"\d+(\.\d+)*")
_DECIMALS = 2  # of a number that cannot be short of a zero, as a version with three decimals would be


def of_release(
    library: Library, reference: Tree, overrides: Sequence[Override], field: str
) -> tuple[Tree, list[Override], list[Override]]:
    """Return a reference to the file of a framework's release; the overrides of that file, and those that named it.

    `{name: NAME, release: R, ...}` is the file whose last release is the first not before R, or NAME itself, which
    describes the newest, with the other keys over it. An override of `release` counts as the key. Raises InputError on
    a release that is no version, or of a framework without a name.
    """
    asked = [override for override in overrides if override.target.path == (_KEY,)]
    rest = [override for override in overrides if override not in asked]
    stated = asked[-1].value if asked else reference.child(_KEY) if reference.is_mapping else None
    if stated is None:
        return reference, rest, asked
    name = reference.child("name") if reference.is_mapping else reference
    if name is None or not isinstance(name.value, str):
        raise stated.error("a release is that of a framework", "write {name: NAME, release: R}", field)
    short = name.value.removeprefix(f"{_FOLDER}/")
    file = replace(name, value=f"{_FOLDER}/{_file_of(library, short, _numbers(_text(stated, field)))}")
    others = reference.without("name", _KEY) if reference.is_mapping else None
    if others is None or not others.value:
        return file, rest, asked
    return others.with_entries(extends=file), rest, asked


def _text(stated: Tree, field: str) -> str:
    """Return a release as text. Raises InputError on a number that may have lost a zero: 26.1 is 26.10 as well."""
    text = repr(stated.value) if isinstance(stated.value, float) else str(stated.value)
    is_lossy = isinstance(stated.value, float) and len(text.partition(".")[2]) < _DECIMALS
    if not isinstance(stated.value, str | float) or is_lossy or not _RELEASE.fullmatch(text):
        raise stated.error(
            f"must be a version in quotes, not {kind_of(stated.value)}", 'write it as "26.04"', f"{field}.{_KEY}"
        )
    return text


def _file_of(library: Library, name: str, asked: tuple[int, ...]) -> str:
    """Return the file of a release: that with the first last release which covers it, else the newest's."""
    covering = [(last, file) for last, file in _files(library, name) if asked[: len(last)] <= last]
    return min(covering)[1] if covering else name


def _files(library: Library, name: str) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield the last release of each file of a framework that describes earlier ones, and its name."""
    for file in library.names(_FOLDER):
        base, _, version = file.rpartition("-")
        if base == name and _RELEASE.fullmatch(version):
            last = library.document(Tree(file), _FOLDER, "framework", "").text(_KEY)
            if last is not None:
                yield _numbers(last), file


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))


# ---- What a framework does with a model unless a scenario states otherwise -------------------------------------------


def with_defaults(plan: PlanFile, defaults: TrainingDefaultsFile) -> PlanFile:
    """Return a scenario with the framework's sharding where it states none. Other phases have none."""
    if not isinstance(plan, TrainingFile):
        return plan
    stated = plan.optimizer.model_fields_set
    known = {"zero": defaults.zero, "overlap": defaults.overlap}
    changes = {key: value for key, value in known.items() if value is not None and key not in stated}
    return plan.model_copy(update={"optimizer": plan.optimizer.model_copy(update=changes)}) if changes else plan


def with_exchange(
    plan: PlanFile, defaults: TrainingDefaultsFile, kernels: Framework, architecture: Architecture
) -> PlanFile:
    """Return a scenario with the framework's exchange of keys where it states none and the model can have that one."""
    if not isinstance(plan, TrainingFile) or defaults.context is None or "context" in plan.parallel.model_fields_set:
        return plan
    can_ring = not kernels.unfused_attention and all(passes_keys_on(layer.mixer) for layer in architecture.kinds)
    if defaults.context == "ring" and not can_ring:
        return plan
    return plan.model_copy(update={"parallel": plan.parallel.model_copy(update={"context": defaults.context})})


def for_model(kernels: Framework, architecture: Architecture) -> Framework:
    """Return a framework whose engine prepares steps ahead as it does for this model."""
    engine = kernels.engine
    if engine is None or engine.scheduler.recurrent_overlapped is None or not architecture.has_recurrences:
        return kernels
    scheduler = replace(engine.scheduler, overlapped=engine.scheduler.recurrent_overlapped)
    return replace(kernels, engine=replace(engine, scheduler=scheduler))
