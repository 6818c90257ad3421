"""Every error that a user can cause or meet, each with its location and its fix."""

from __future__ import annotations

import re
from collections.abc import Sequence

from costmodel.records import ValueRecord

_LONGEST = 2000  # characters of a problem: more is a value that it quotes
_MAX_LISTED = 10  # names that a hint lists
_MAX_LETTERS, _MAX_COMPARED = 80, 2000  # of a word that is compared with names, and of these: longer ones are no slips
_HIDDEN = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"} | {
    code: f"\\u{code:04x}"
    for code in (0x061C, *range(0x200B, 0x2010), *range(0x2028, 0x202F), *range(0x2060, 0x2070), 0xFEFF)
}  # fmt: skip
"""Characters that move the cursor, colour, hide or turn around text on a terminal -> how they are shown."""
_ESCAPED = {code: f"\\u{code:04x}" for code in _HIDDEN if code >= 0x7F}


def visible(text: str) -> str:
    """Return a text with every control character written out: what a file says must not steer a terminal."""
    return text if text.isascii() and text.isprintable() else text.translate(_HIDDEN)


def brief(text: str) -> str:
    """Return a message without the middle of a long value that it quotes."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} … {text[-_LONGEST // 2 :]}"


def visible_json(text: str) -> str:
    """Return a JSON document in which such characters are escaped, as those below a space are already."""
    return text if text.isascii() else text.translate(_ESCAPED)


class CostModelError(Exception):
    """Base of all errors that `costmodel` raises on purpose. `exit_code` is what the command line returns."""

    exit_code = 2


class Location(ValueRecord):
    """Where a value was written: a file position, or a label such as `--set path=value`."""

    source: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        parts = [self.source, self.line, self.column]
        return ":".join(str(part) for part in parts if part is not None)


class Problem(ValueRecord):
    """One thing that is wrong with the input: `location: field: message; hint`.

    of_layout: every value is one that its field may have, but together they make no layout.
    """

    location: Location | None
    field: str
    message: str
    hint: str = ""
    of_layout: bool = False

    def __str__(self) -> str:
        head = [str(self.location)] if self.location else []
        if self.field:
            head.append(self.field)
        text = ": ".join([*head, self.message])
        whole = f"{text}; {self.hint}" if self.hint else text
        return visible(brief(whole))


class InputError(CostModelError):
    """The input is wrong: carries every problem that was determined, not only the first."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[InputError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)  # as a process tells another one

    @classmethod
    def single(cls, message: str, *, field: str = "", hint: str = "", location: Location | None = None) -> InputError:
        """Return an error with one problem."""
        return cls([Problem(location, field, message, hint)])


class LayoutError(InputError):
    """Every value is one that its field may have, but together they make no layout: a degree does not divide."""


class ImplausibleInput(UserWarning):
    """A value that no known hardware has: probably a wrong unit. `validate` calls it a problem."""


class Notice(UserWarning):
    """What a person who waits should know of a run. It changes no result."""


class InfeasibleError(CostModelError):
    """The scenario is well formed but cannot run: it does not fit or no plan exists."""

    exit_code = 3


class UncalibratedError(CostModelError):
    """A prediction outside the calibrated domain was asked for under `--strict`."""

    exit_code = 4


class MeasurementError(InputError):
    """A measurement table cannot be read or holds impossible rows."""


def kind_of(value: object) -> str:
    """Return the YAML word for a value's type."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def did_you_mean(word: str, known: Sequence[str]) -> str:
    """Return a hint with the names nearest to `word`, empty if none is near."""
    import difflib  # few words are wrong

    if len(word) > _MAX_LETTERS:
        return ""
    lower = {name.lower(): name for name in known[:_MAX_COMPARED]}
    word = word.lower()
    bare = re.sub("[-_. ]", "", word)  # gpt-3 for gpt3-175b
    starts = [name for each, name in lower.items() if len(bare) > 3 and re.sub("[-_. ]", "", each).startswith(bare)]
    close = [lower[word]] if word in lower else starts[:3]
    close = close or [lower[each] for each in difflib.get_close_matches(word, lower, 3, 0.6)]
    close = close or [name for each, name in lower.items() if word in re.split("[/_.-]", each)][:3]
    if not close and len(bare) > 3:  # RTX 4090 for nodes/rtx-4090-x1
        close = [name for each, name in lower.items() if bare in re.sub("[-_. ]", "", each)][:3]
    return "did you mean " + " or ".join(f"`{name}`" for name in close) + "?" if close else ""


def suggest(word: str, known: Sequence[str]) -> str:
    """Return a hint with the names nearest to `word`, or else with those that are available."""
    return did_you_mean(word, known) or available(known)


def available(known: Sequence[str]) -> str:
    """Return a hint that lists names, the first ones of many."""
    listed = ", ".join(sorted(known)[:_MAX_LISTED])
    more = f", … ({len(known)} in all)" if len(known) > _MAX_LISTED else ""
    return f"available: {listed}{more}" if known else "none available"
