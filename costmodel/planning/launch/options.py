"""How engines state settings on their command lines: one table, written and read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from costmodel.errors import InputError
from costmodel.records import ValueRecord

Settings: TypeAlias = dict[str, Any]  # path in a scenario -> value
Word: TypeAlias = tuple[str, int]  # a word of a script, and its line

MTP = "mtp"
_MOST = 1e15  # of numbers


class Option(ValueRecord):
    """How one setting is stated.

    flags: spellings, of which the first is written; takes: whether a value follows, without one it says `stated`.
    negated: the option that says false; key: in the engine's YAML file; member: of a value in JSON.
    values: ours -> theirs; reads: theirs -> ours; along: what is written after it; drafts: of which kind.
    """

    path: str
    flags: tuple[str, ...] = ()
    takes: bool = True
    stated: Any = None
    negated: str | None = None
    key: str | None = None
    member: str | None = None
    values: Mapping[Any, Any] | None = None
    reads: Mapping[Any, Any] | None = None
    along: str = ""
    drafts: str | None = None

    def theirs(self, value: Any) -> Any:
        """Return a setting as the engine states it, null where it cannot."""
        if not self.takes or (self.key is not None and self.stated is not None):
            return value if value == self.stated or (value is False and self.negated is not None) else None
        return value if self.values is None else self.values.get(value)

    def ours(self, value: Any) -> Any:
        """Return what the engine states as a setting, null where it is none that a scenario knows."""
        if self.values is not None:
            return self._reads().get(value) if isinstance(value, Hashable) else None
        is_degree = self.path.startswith(("layout.", "parallel."))
        return value if not is_degree or (isinstance(value, int) and value >= 1) else None

    def _reads(self) -> dict[Any, Any]:
        """Return theirs -> ours. Of several with one spelling the first is read."""
        back: dict[Any, Any] = dict(self.reads or {})
        for ours, theirs in reversed(list((self.values or {}).items())):
            back[theirs] = ours
        return back

    def following(self, value: Any) -> str:
        """Return what is written along with a value."""
        more = str(value + 1) if isinstance(value, int) else ""
        return self.along.replace("{}", str(value)).replace("{+1}", more)


class Engine(ValueRecord):
    """An engine's or trainer's command line.

    release, source: that its options are of.
    settles: options that change no predicted time.
    configs: model -> module and configuration, where a trainer names its models; image: of a container.
    """

    key: str
    name: str
    release: str
    source: str
    program: tuple[str, ...]
    programs: tuple[tuple[str, ...], ...]
    model: tuple[str, ...]
    options: tuple[Option, ...]
    settles: frozenset[str]
    configs: Mapping[str, tuple[str, str]]
    image: str | None = None

    def written(self, settings: Settings, drafts: str | None = None) -> tuple[list[str], dict[str, Any]]:
        """Return the words that state settings, and what stands in the engine's YAML file.

        drafts: kind of drafts that the model has.
        """
        words: list[str] = []
        document: dict[str, Any] = {}
        for option in self.options:
            value = option.theirs(settings[option.path]) if settings.get(option.path) is not None else None
            if value is None or (option.drafts is not None and option.drafts != drafts):
                continue
            if option.key is not None:
                _put(document, option.key, value)
                if option.along:
                    _put(document, *option.along.split())
            else:
                words += _words(option, value)
        return words, document

    def stated(self, words: Sequence[Word], document: Mapping[str, Any]) -> tuple[Settings, list[Word]]:
        """Return the settings of a command's options and its YAML file, and the options that nothing is known of."""
        by_flag = {flag: option for option in self.options for flag in option.flags}
        negated = {option.negated: option for option in self.options if option.negated is not None}
        settings: Settings = {}
        unknown: list[Word] = []
        for (flag, line), value in _pairs(words):
            known = by_flag.get(flag)
            read = False if flag in negated else None if known is None else _read(known, value)
            if flag in negated:
                settings[negated[flag].path] = False
            elif known is not None and read is not None:
                settings[known.path] = read
            elif flag not in self.settles and flag not in self.model:
                unknown.append((flag if value is None else f"{flag} {value}", line))
        for option in self.options:
            value = None if option.key is None else _at(document, option.key)
            if value is not None and option.ours(value) is not None:
                settings[option.path] = option.ours(value)
        return settings, unknown


def engines() -> Mapping[str, Engine]:
    """Return the engines by name."""
    return _parsed(Path(__file__).with_name("engines.yaml").read_text("utf-8"))


def engine(name: str) -> Engine:
    """Return an engine. Raises InputError on an unknown one."""
    value = engines().get(name)
    if value is None:
        raise InputError.single(
            f"no launch commands of {name!r} are known", hint=f"choose one of {', '.join(engines())}", field="--emit"
        )
    return value


@cache
def _parsed(text: str) -> dict[str, Engine]:
    return {key: _engine(key, row) for key, row in yaml.load(text, Loader=yaml.CSafeLoader).items()}


def _engine(key: str, row: Mapping[str, Any]) -> Engine:
    program = tuple(row["program"])
    return Engine(
        key=key, name=row["name"], release=str(row["release"]), source=row["source"], program=program,
        programs=(program, *map(tuple, row["also"])), model=tuple(row["model"]),
        options=tuple(_option(path, each) for path, each in row["options"].items()), settles=frozenset(row["settles"]),
        configs={model: tuple(names) for model, names in row.get("configs", {}).items()},
        image=row.get("image"),
    )  # fmt: skip


def _option(path: str, row: Mapping[str, Any]) -> Option:
    on, negated = row.get("on"), row.get("negated")
    first = row.get("flag", on)
    return Option(
        path=path, flags=() if first is None else (first, *row.get("also", ())), takes=on is None, negated=negated,
        stated=row.get("is", None if on is None else True), key=row.get("file"), member=row.get("json"),
        values=row.get("values"), reads=row.get("reads"), along=str(row.get("with", "")),
        drafts=row.get("drafts"),
    )  # fmt: skip


def _words(option: Option, value: Any) -> list[str]:
    after = option.following(value)
    if option.member is not None:
        return [option.flags[0], after]
    if option.takes:
        return [option.flags[0], _plain(value), *shlex.split(after)]
    return (
        [option.negated]
        if value is False and option.stated is True and option.negated
        else [option.flags[0], *after.split()]
    )


def _plain(value: Any) -> str:
    """Return a value as a word: whole numbers without a point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _read(option: Option, value: str | None) -> Any:
    """Return the setting that an option states, null where it is none that a scenario knows."""
    if not option.takes:
        return option.stated
    if value is None:
        return None
    if option.member is not None:
        try:
            return option.ours(json.loads(value).get(option.member))
        except (ValueError, AttributeError, RecursionError):
            return None
    return option.ours(value if option.values is not None else number(value))


def number(text: str) -> Any:
    """Return a word as a number where it is one that a setting can be."""
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if abs(value) < _MOST else text
    return text


def _pairs(words: Sequence[Word]) -> Iterator[tuple[Word, str | None]]:
    """Yield the options of a command, each with its line and its value, null where none follows."""
    i = 0
    while i < len(words):
        (word, line), following = words[i], words[i + 1][0] if i + 1 < len(words) else None
        i += 1
        if not word.startswith("-") or _is_number(word):
            continue
        if "=" in word:
            flag, _, value = word.partition("=")
            yield (flag, line), value
        elif following is None or (following.startswith("-") and not _is_number(following)):
            yield (word, line), None
        else:
            yield (word, line), following
            i += 1


def _is_number(word: str) -> bool:
    return not isinstance(number(word), str)


def _put(document: dict[str, Any], key: str, value: Any) -> None:
    *above, last = key.split(".")
    for name in above:
        document = document.setdefault(name, {})
    document[last] = value


def _at(document: Mapping[str, Any], key: str) -> Any:
    value: Any = document
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
