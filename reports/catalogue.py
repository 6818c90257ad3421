"""Writes models of the catalogue from their config.json, and holds their counts against those that are stated.

python -m reports.catalogue CONFIG... [--output workloads/models]

CONFIG is a config.json or its folder. Its repository on the hub is `--repository OWNER/NAME`, or the folder's or file's
own name with `--` for `/`. Stated counts are `--parameters` and `--active`, or those in the repository's name
(`Qwen3.5-397B-A17B`); a model without any is written and said to be unchecked. One whose counts are off is not written.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from costmodel.errors import InputError
from costmodel.records import Record, fields
from costmodel.schema.files import imported_yaml, read_model
from costmodel.schema.whole_files import write_whole
from costmodel.workload.counting import parameter_count
from reports.page import percent

TRILLION, BILLION = 1e12, 1e9
_SIZES = {"B": BILLION, "T": TRILLION}
_TOTAL = re.compile(r"(?<![A-Za-z\d.])(\d+(?:\.\d+)?)([BT])(?![a-z])")
_ACTIVE = re.compile(r"-A(\d+(?:\.\d+)?)B|-(\d+(?:\.\d+)?)B-\d+E")  # -A3B, or -17B-16E of Llama 4
_ENDINGS = re.compile(r"(-(bf16|fp8|nvfp4|base|instruct|\d{4}))+$")
TOLERANCE, WITH_TOWER = 0.01, 0.03  # of a total; cards count a tower for images or leave it out


class Stated(Record):
    """What is stated of a model: repository, name, parameters, active ones and source, null where nothing is.

    by_name: the parameters are those of the repository's name, which rounds them or cuts them off.
    """

    repository: str | None = None
    name: str | None = None
    parameters: float | None = None
    active: float | None = None
    cite: str | None = None
    by_name: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the models and return how many are off."""
    parser = argparse.ArgumentParser(prog="python -m reports.catalogue", description=main.__doc__)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config.json, or its folder")
    parser.add_argument("--output", type=Path, default=Path("workloads/models"), help="folder of the models")
    parser.add_argument("--repository", metavar="OWNER/NAME", help="on the hub; of one CONFIG")
    parser.add_argument("--name", help="in the catalogue; of one CONFIG")
    parser.add_argument("--parameters", type=float, help="stated parameters; of one CONFIG")
    parser.add_argument("--active", type=float, help="stated active parameters; of one CONFIG")
    parser.add_argument("--cite", help="the source, where that is not the repository's file; of one CONFIG")
    chosen = parser.parse_args(arguments)
    given = Stated(chosen.repository, chosen.name, chosen.parameters, chosen.active, chosen.cite)
    if len(chosen.configs) > 1 and any(getattr(given, key) for key in fields(given)):
        parser.error("all options but --output are of one CONFIG: write one")
    return sum(_written(Path(config), chosen.output, given) for config in chosen.configs)


def _written(config: Path, folder: Path, given: Stated) -> bool:
    """Write a model unless its counts are off, print what was compared, and tell whether they are."""
    stated = stated_of(config, given)
    source = {"fields": ["hidden", "vocabulary", "layers"], "cite": stated.cite, "kind": "vendor-page"}
    said: dict[str, Any] = {"name": stated.name, "aliases": [stated.repository], "sources": [source]}
    text, notes = imported_yaml(config, stated=said)
    lines, is_off = compared(config, stated)
    sys.stdout.writelines(f"{line}\n" for line in (stated.name, *lines, *(f"  note: {note}" for note in notes)))
    if not is_off:
        path = folder / f"{stated.name}.yaml"
        write_whole(path, [text.encode()])
        sys.stdout.write(f"  written: {path}\n")
    return is_off


def stated_of(config: Path, given: Stated) -> Stated:
    """Return what is stated of a model, by options or by its repository's name. Raises InputError without one."""
    is_file = config.suffix == ".json"
    named = config.stem if is_file and config.stem != "config" else (config.parent if is_file else config).name
    repository = given.repository or named.replace("--", "/", 1)
    if repository.count("/") != 1:
        raise InputError.single(f"{config} does not name its repository", hint="write --repository OWNER/NAME")
    few = _ACTIVE.search(repository)
    total = _TOTAL.search(repository) if few is None or few[1] else None
    return Stated(
        repository,
        given.name or _ENDINGS.sub("", repository.rpartition("/")[2].lower()),
        given.parameters or (None if total is None else float(total[1]) * _SIZES[total[2]]),
        given.active or (None if few is None else float(few[1] or few[2]) * BILLION),
        given.cite or f"{repository}, config.json",
        given.parameters is None,
    )


def compared(config: Path, stated: Stated) -> tuple[list[str], bool]:
    """Return a line for each count, and whether any is off.

    A total is right within a per cent, with a tower for images three, with the module that drafts or without; that of a
    name within one of its last digit that is not zero, as 31.6 billion are called 30B. Active parameters are between
    those without embedding and head and those with both, to half of the last stated digit.
    """
    architecture = read_model(str(config)).architecture
    count, tower = parameter_count(architecture), architecture.encoder is not None
    totals = [float(count.total), float(count.total + count.mtp)]
    head = float(architecture.vocabulary * architecture.hidden)
    few, many = float(count.active) - head, float(count.active_with_embedding)
    lines, is_off = [], False
    if stated.parameters is None:
        lines.append(f"  parameters {totals[0] / BILLION:,.2f} B: none are stated, unchecked")
    else:
        error = min((each / stated.parameters - 1 for each in totals), key=abs)
        rounding = _last_digit(stated.parameters) if stated.by_name else _rounding(stated.parameters)
        is_off = abs(error) > max(WITH_TOWER if tower else TOLERANCE, rounding)
        lines.append(_line("parameters", totals[0], stated.parameters, error, is_off=is_off))
    if stated.active is not None:
        slack = _rounding(stated.active) * stated.active * 2
        outside = not few - slack <= stated.active <= many + slack
        error = float(count.active) / stated.active - 1
        lines.append(_line("active parameters", float(count.active), stated.active, error, is_off=outside))
        is_off = is_off or outside
    return lines, is_off


def _line(what: str, counted: float, stated: float, error: float, *, is_off: bool) -> str:
    verdict = "off, not written" if is_off else "as stated"
    counts = f"{counted / BILLION:,.2f} B, {stated / BILLION:,g} B stated"
    return f"  {what} {counts}: {percent(error, sign=True)}, {verdict}"


def _rounding(value: float) -> float:
    """Return half of the last digit of a count in billions, relative to it."""
    text = f"{value / BILLION:g}"
    return 0.5 * 10.0 ** -len(text.partition(".")[2]) * BILLION / value


def _last_digit(value: float) -> float:
    """Return one of the last digit of a count in billions that is not zero, relative to it: a third for 30."""
    digits = f"{value / BILLION:g}".replace(".", "").strip("0")
    return 1 / int(digits)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
