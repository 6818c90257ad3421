"""The device that a profile would time: as `profile --device auto` chooses it, with nothing run on it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from costmodel.profiling.device_file import file_of
from costmodel.profiling.found_device import cpu_facts, gpu_facts, kind_of
from costmodel.records import ValueRecord


class Accelerator(ValueRecord):
    """A device. kind: cuda or cpu; memory [B]; device_file: the file that describes it, or null.

    torch: its version.
    cuda: the version that torch is built for, null of a build without.
    driver: of a CPU the kernel of the system.
    """

    kind: str
    name: str
    memory: int
    driver: str
    device_file: str | None
    torch: str
    cuda: str | None


def accelerator(names: Callable[[], Callable[[str], str | None]]) -> Accelerator:
    """Return the device that torch finds, the CPU where there is no other.

    names: makes what gives the device file that a product's name or alias means. Called for a GPU alone.
    """
    kind = kind_of("auto")
    facts = gpu_facts() if kind == "cuda" else cpu_facts()
    return Accelerator(
        kind, facts.product, facts.memory, facts.driver, file_of(kind, facts, lambda product: names()(product)),
        str(torch.__version__), torch.version.cuda,
    )  # fmt: skip
