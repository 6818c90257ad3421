"""Commands that evaluate a plan again, as short as they may be."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping

_HEAD = "scenarios."
_SEVERAL = 3  # changes of a scenario, from which on one mapping is shorter
_SPECIAL = set(",{}[]#\"'")  # characters of a text that a mapping in one line would read as its own


def simulate(
    model: str, cluster: str, scenario: str, changes: Mapping[str, object], options: Iterable[str] = (), *,
    whole: bool = True,
) -> str:  # fmt: skip
    """Return the command that simulates a scenario with some changes, path -> value.

    Those of the scenario are one `--set scenarios.NAME={…}`. whole: they state its whole layout, so that `parallel` is
    a mapping of the degrees above one; else a file has further keys of it.
    """
    own, parallel, words = {}, {}, ["costmodel", "simulate", model, "--cluster", cluster, *options]
    head = f"{_HEAD}{scenario}."
    for path, value in changes.items():
        name = path.removeprefix(head)
        if name == path:
            words += ["--set", f"{path}={value}"]
        elif whole and name.startswith("parallel."):
            own["parallel"] = ""  # its place
            parallel[name.removeprefix("parallel.")] = str(value)
        else:
            own[name] = _quoted(str(value))
    kept = {name: value for name, value in parallel.items() if value not in ("1", "false")} or {"tp": "1"}
    own |= {"parallel": _mapping(kept)} if parallel else {}
    return shlex.join([*words, *(["--set", f"{_HEAD}{scenario}={_mapping(own)}"] if own else [])])


def changed(changes: Mapping[str, object]) -> list[str]:
    """Return `--set` words of changes, path -> value: those of a scenario in one, where it has several."""
    own: dict[str, dict[str, str]] = {}
    words = []
    for path, value in changes.items():
        scenario, _, name = path.removeprefix(_HEAD).partition(".")
        if path.startswith(_HEAD) and name:
            own.setdefault(scenario, {})[name] = str(value)
        else:
            words += ["--set", f"{path}={value}"]
    for scenario, values in own.items():
        if len(values) < _SEVERAL:
            words += [word for name, value in values.items() for word in ("--set", f"{_HEAD}{scenario}.{name}={value}")]
        else:
            texts = {name: _quoted(value) for name, value in values.items()}
            words += ["--set", f"{_HEAD}{scenario}={_mapping(texts)}"]
    return words


def _mapping(values: Mapping[str, str]) -> str:
    return f"{{{', '.join(f'{name}: {value}' for name, value in values.items())}}}"


def _quoted(text: str) -> str:
    """Return a value as YAML takes it inside a mapping."""
    is_nested = text[:1] + text[-1:] in ("{}", "[]", '""')
    return json.dumps(text) if _SPECIAL & set(text) and not is_nested else text
