"""The terminal view of what runs on a machine."""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.planning.machine import FORMATS, Machine, Row
from costmodel.report.page import Table, is_verbose, show, show_hint, table
from costmodel.report.text import count, gib, whole

FEW = 10  # models that are listed


def show_machine(machine: Machine) -> None:
    """Print which models run on a machine: the largest ones, each in its widest format."""
    fitting, every = [row for row in machine.rows if row.fits], is_verbose()
    show(answer(machine, fitting), "bold")
    if not fitting:
        return
    isl, osl = machine.context
    widest = list({row.model: row for row in reversed(fitting)}.values())[::-1]
    listed = fitting if every else widest[:FEW]
    show(rows_table(listed))
    show("tok/s: of one user, with its 80 % interval")
    show(f"users, in all: the most at once, and their tok/s, with {isl:,} tokens in and {osl:,} out each")
    show("context: the longest of one user that memory holds, whatever the model was trained on")
    for line in too_large(machine, fitting, FEW // 2 if not every else None):
        show(line)
    if every:
        for name, reason in machine.left_out:
            show(f"left out: {name}: {reason}")
    elif machine.left_out:
        show(f"left out: {', '.join(name for name, _ in machine.left_out)}")
    show(f"next: {listed[0].command}", "dim")
    show(f"      formats and frameworks: workloads/{FORMATS}.yaml", "dim")
    show_hint(
        f"the largest models, each in the widest format that fits, of {len(widest)} ({len(fitting)} with formats)"
    )


def answer(machine: Machine, fitting: list[Row]) -> str:
    """Return how many models run, and the largest of them."""
    models = len({row.model for row in machine.rows})
    devices = f"{machine.devices} devices of {gib(machine.capacity, 0)} GiB" if machine.devices > 1 else ""
    here = f"{machine.cluster} ({devices or f'{gib(machine.capacity, 0)} GiB'})"
    if not machine.rows:
        return f"{here} runs none of the models: {machine.left_out[0][0]} {machine.left_out[0][1]}"
    if not fitting:
        least = min(machine.rows, key=lambda row: row.memory)
        return f"{here} runs none of {models} models: {least.model} in {least.format} needs {gib(least.memory)} GiB"
    first = fitting[0]
    rate = count(first.tokens_per_second_per_user or 0.0, 3)
    return (
        f"{here} runs {len({row.model for row in fitting})} of {models} models, up to {first.model} in {first.format}: "
        f"{rate} tokens/s, {first.longest_context:,} tokens of context"
    )


def too_large(machine: Machine, fitting: list[Row], most: int | None) -> Iterator[str]:
    """Yield what models that do not fit need in their narrowest format, the smallest first. most: of them."""
    runs = {row.model for row in fitting}
    least: dict[str, Row] = {}
    for row in sorted(machine.rows, key=lambda row: row.memory * row.devices):
        if row.model not in runs:
            least.setdefault(row.model, row)
    for row in list(least.values())[:most]:
        on = f" on each of {row.devices} devices" if row.devices > 1 else ""
        yield (
            f"too large: {row.model} in {row.format}, its narrowest format here, needs {gib(row.memory)} GiB{on} "
            "besides what the engine reserves"
        )
    if most is not None and len(least) > most:
        yield f"too large: {len(least) - most} more models, listed by --verbose"


def rows_table(rows: list[Row]) -> Table:
    """Return models as a table."""
    several = any(row.devices > 1 for row in rows)
    gpus = (">GPUs",) if several else ()
    content = table("model", "format", *gpus, ">GiB", ">context", ">tok/s", ">80 %", ">users", ">in all")
    for row in rows:
        low, high = row.interval or (0.0, 0.0)
        content.add(
            row.model, row.format, *((whole(row.devices),) if several else ()), gib(row.memory),
            whole(row.longest_context or 0), count(row.tokens_per_second_per_user or 0.0, 3),
            f"{low:.0f}-{high:.0f}", whole(row.most_users or 0), whole(row.tokens_per_second or 0.0),
        )  # fmt: skip
    return content
