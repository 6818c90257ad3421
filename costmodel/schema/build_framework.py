"""From a framework file to what belongs to kernels and hosts on one device."""

from __future__ import annotations

from costmodel.schema.device import DeviceFile
from costmodel.schema.framework import EagerPromptsFile, FrameworkFile
from costmodel.schema.records import record
from costmodel.workload import engine, scenario
from costmodel.workload.framework_parts import EagerPrompts, TunedTiles


def framework(file: FrameworkFile, device: DeviceFile | None = None) -> scenario.Framework:
    """Return what belongs to kernels and hosts. Each family has one or several kernel libraries.

    One kernel for prompts and decoding requests together is taken only where the device has a fit of it: elsewhere the
    two that are fitted separately say more than a mixed kernel that nobody measured.
    """
    named = {key: [names] if isinstance(names, str) else names for key, names in file.implementations.items()}
    if device is not None and (device.calibration is None or "attention_mixed" not in device.calibration.default):
        named.pop("attention_mixed", None)
    sizes = () if file.engine is None else tuple(sorted(file.engine.graph_sizes))
    return record(
        scenario.Framework,
        file,
        implementations={key: tuple(names) for key, names in named.items()},
        engine=None if file.engine is None else record(engine.Engine, file.engine, graph_sizes=sizes),
        eager_prompts=_eager_prompts(file.eager_prompts, device),
        tuned_tiles=tuned_tiles(file, None if device is None else device.name),
    )


def tuned_tiles(file: FrameworkFile, device: str | None) -> TunedTiles:
    """Return the layers of experts whose tiles were tuned on a device."""
    layers = file.tuned_tiles.get(device or "", {})
    return TunedTiles(
        {name: {int(count): tuple(each) for count, each in widths.items()} for name, widths in layers.items()}
    )  # fmt: skip


def _eager_prompts(file: EagerPromptsFile | None, device: DeviceFile | None) -> EagerPrompts:
    """Return the host times of prompts on a device, and of which models, where no CUDA graph holds them."""
    if file is None:
        return EagerPrompts()
    of_all = file.architectures is None or (device is not None and device.architecture in file.architectures)
    of_experts = device is not None and device.die in file.expert_dies
    only = (*file.features, *(("experts",) if of_experts else ()))
    return record(EagerPrompts, file, only=None if of_all else only)
