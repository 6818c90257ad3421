"""The settings that a launch script states: commands of engines and trainers, and comments of what has no option."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from costmodel.errors import InputError, Location
from costmodel.planning.launch.deployment import BOTH, POOLS
from costmodel.planning.launch.layouts import SERVERS, degrees, ours
from costmodel.planning.launch.options import Engine, Settings, Word, engines, number
from costmodel.planning.launch.scripts import HEADLINE
from costmodel.records import MutableRecord, Record, field
from costmodel.schema.loader import MAX_BYTES, parse_tree, read_text
from costmodel.schema.tree import to_python

_STATED = re.compile(r"#\s{2,}([\w.]+) = (.+)")
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::-([^}]*))?\}|(\w+))")
_DOCUMENT = re.compile(r"cat\s*>\s*([^\s<>]+)\s*<<-?\s*['\"]?(\w+)['\"]?")
_FILES = ("--extra_llm_api_options", "--extra-engine-args", "--config")  # options that name an engine's YAML file
_SWITCHES = {"True": True, "False": False}
_MAX_SCRIPT = 2**20  # bytes
_LONGEST = 2**16  # characters of a word
_ENDS = ("&", "&&", "||", ";", ";;", "|", ")", "(", "\n")
_RANKS = re.compile(r"--?(nnodes|nproc[-_]per[-_]node)(?:=(.*))?")
_ROLES = {"prefill": "prefill", "decode": "decode", "CONTEXT": "prefill", "GENERATION": "decode"} | {
    "kv_producer": "prefill", "kv_consumer": "decode",
}  # fmt: skip
_ROLE = ("--disaggregation-mode", "--server_role", "--kv-transfer-config")


class Launched(MutableRecord):
    """What a script starts. settings: by role; count: engines of a role; notes: what was not understood, with lines.

    engine: whose commands; model: what they load; stated: comments of what has no option, by path.
    """

    path: str
    engine: Engine | None = None
    model: str | None = None
    settings: dict[str, Settings] = field(default_factory=dict)
    count: dict[str, int] = field(default_factory=dict)
    stated: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def of(self, role: str) -> Settings:
        """Return all settings of a role: options, and what comments state in addition."""
        shared = {path: value for path, value in self.stated.items() if path.partition(".")[0] not in POOLS}
        own = {
            path.removeprefix(f"{role}."): value for path, value in self.stated.items() if path.startswith(f"{role}.")
        }
        return self.settings[role] | shared | own


class _Command(Record):
    words: tuple[Word, ...]


def read_launch(path: str) -> Launched:
    """Return what a launch script starts. Raises InputError where it starts no engine that is known."""
    text = read_text(Path(path), path, _MAX_SCRIPT)
    launched = Launched(path)
    documents = _documents(text)
    for match in map(_STATED.fullmatch, text.splitlines() if HEADLINE in text else ()):
        if match is not None:
            launched.stated[match[1]] = _SWITCHES.get(match[2], number(match[2]))
    for command in _commands(text):
        _read(launched, command, documents)
    if launched.engine is None:
        programs = {" ".join(word for word in made.program if word != "MODEL") for made in engines().values()}
        raise InputError.single(
            "starts no engine that is known", hint=f"it has to hold one of: {', '.join(sorted(programs))}",
            location=Location(path),
        )  # fmt: skip
    return launched


def _read(launched: Launched, command: _Command, documents: Mapping[str, str]) -> None:
    match = next(_matches(command.words), None)
    if match is None:
        return
    made, model, rest = match
    if launched.engine is not None and launched.engine.key != made.key:
        launched.notes.append(f"line {command.words[0][1]}: {made.name} after {launched.engine.name} is not read")
        return
    launched.engine = made
    values = dict(_texts(rest))
    launched.model = launched.model or model or next((values[flag] for flag in made.model if flag in values), None)
    role = _role(made, values)
    counted, unknown = made.stated(rest, _file(launched.path, values, documents))
    settings = ours(made.key, counted) | _ranks(made, command.words, counted)
    if role in launched.settings and launched.settings[role] != settings:
        launched.notes.append(
            f"line {command.words[0][1]}: another {role} engine has other settings, which are not read"
        )
        return
    first = role not in launched.settings
    launched.settings[role] = settings
    launched.count[role] = launched.count.get(role, 0) + 1
    if first:
        launched.notes += [f"line {line}: {word} is not understood" for word, line in unknown]


def _matches(words: Sequence[Word]) -> Iterator[tuple[Engine, str | None, Sequence[Word]]]:
    """Yield the engine that a command starts, its positional argument (the model), and the words of its options."""
    texts = [word for word, _ in words]
    for made in engines().values():
        for program in made.programs:
            fixed = [word for word in program if word != "MODEL"]
            for i in range(len(texts) - len(fixed) + 1):
                inner = fixed == ["trtllm-serve"] and texts[i + 1 : i + 2] == ["serve"]  # the longer is read
                if _same(texts[i : i + len(fixed)], fixed) and not inner:
                    rest = words[i + len(fixed) :]
                    placed = "MODEL" in program and bool(rest) and not rest[0][0].startswith("-")
                    yield made, rest[0][0] if placed else None, rest[1:] if placed else rest


def _same(texts: Sequence[str], program: Sequence[str]) -> bool:
    """Tell whether words are a program's, which may stand in a folder."""
    pairs = zip(texts, program, strict=True)
    return all(
        text == word or (i == 0 and text.endswith(f"/{word}")) or _pythons(text, word)
        for i, (text, word) in enumerate(pairs)
    )


def _pythons(text: str, word: str) -> bool:
    return word == "python3" and text.rpartition("/")[2] in ("python", "python3")


def _texts(words: Sequence[Word]) -> Iterator[tuple[str, str]]:
    for (word, _), (following, _) in pairwise([*words, ("", 0)]):
        flag, equals, value = word.partition("=")
        yield (flag, value) if equals else (word, following)


def _role(made: Engine, values: Mapping[str, str]) -> str:
    if made.key not in SERVERS:
        return "train"
    stated = [values[flag] for flag in _ROLE if flag in values]
    words = [word for value in stated for word in re.findall(r"\w+", value)]
    return next((_ROLES[word] for word in words if word in _ROLES), BOTH)


def _ranks(made: Engine, words: Sequence[Word], counted: Settings) -> Settings:
    """Return the data-parallel degree of a training run: processes / (tp * pp * cp)."""
    if made.key in SERVERS:
        return {}
    ranks: dict[str, int] = {}
    for (word, _), (following, _) in pairwise([*words, ("", 0)]):
        match = _RANKS.fullmatch(word)
        value = None if match is None else number(match[2] or following)
        if match is not None and isinstance(value, int):
            ranks[match[1].replace("_", "-")] = value
    of = degrees(counted)
    return {"parallel.dp": max(math.prod(ranks.values()) // (of["tp"] * of["pp"] * of["cp"]), 1)}


def _file(path: str, values: Mapping[str, str], documents: Mapping[str, str]) -> Mapping[str, Any]:
    """Return the engine's YAML file: written by the script, or in its folder; empty where there is none."""
    name = next((values[flag] for flag in _FILES if flag in values), None)
    if name is None:
        return {}
    in_folder = Path(path).parent / name
    text = documents.get(name) or (read_text(in_folder, str(in_folder), MAX_BYTES) if in_folder.is_file() else "")
    document = parse_tree(text, f"{path}: {name}")
    return to_python(document) if document.is_mapping else {}


def _documents(text: str) -> dict[str, str]:
    lines, documents, i = text.splitlines(), {}, 0
    while i < len(lines):
        match = _DOCUMENT.search(lines[i])
        i += 1
        if match is not None:
            end = _end(lines, i, match[2])
            documents[match[1]] = "\n".join(lines[i:end])
            i = end
    return documents


def _end(lines: Sequence[str], first: int, word: str) -> int:
    """Return the number of the line that ends a document, of the last one where none does."""
    return next((k for k in range(first, len(lines)) if lines[k] == word), len(lines))


def _commands(text: str) -> Iterator[_Command]:
    """Yield the commands of a script with the line of each word. Variables that it sets are replaced."""
    variables: dict[str, str] = {}
    for joined, line in _lines(text):
        words: list[Word] = []
        for word, offset in _split(joined):
            assigned = _ASSIGNED.fullmatch(word) if not words else None
            if word in _ENDS:
                yield from _whole(words)
                words = []
            elif word == "export" and not words:
                continue
            elif assigned is not None:
                variables[assigned[1]] = _expanded(assigned[2], variables)
            else:
                words.append((_expanded(word, variables), line + offset))
        yield from _whole(words)


def _whole(words: list[Word]) -> Iterator[_Command]:
    if words:
        yield _Command(tuple(words))


def _lines(text: str) -> Iterator[tuple[str, int]]:
    """Yield lines without comments and documents, those that a backslash continues together, and their numbers."""
    lines, i = text.splitlines(), 0
    while i < len(lines):
        first, joined = i, lines[i]
        document = _DOCUMENT.search(joined)
        if document is not None:
            i = _end(lines, i + 1, document[2]) + 1
            continue
        while joined.endswith("\\") and i + 1 < len(lines):
            i += 1
            joined = f"{joined[:-1]}\n{lines[i]}"
        i += 1
        if not joined.lstrip().startswith("#"):
            yield joined, first + 1


def _split(joined: str) -> Iterator[tuple[str, int]]:
    """Yield the words of joined lines, and how many lines each is after the first."""
    for after, line in enumerate(joined.split("\n")):
        reader = shlex.shlex(line, posix=True, punctuation_chars="&;|()")
        reader.whitespace_split, reader.commenters = True, "#"
        try:
            yield from ((word, after) for word in reader)
        except ValueError:  # a quote that is open: no command of ours
            return


def _expanded(word: str, variables: Mapping[str, str]) -> str:
    """Return a word with the variables of the script in their places; others stay.

    Raises InputError where it gets too long: each of some variables may repeat the last one.
    """
    length = 0

    def value(match: re.Match[str]) -> str:
        nonlocal length
        text = variables.get(match[1] or match[3], match[2] if match[2] is not None else match[0])
        length += len(text)
        if length > _LONGEST:
            message = f"variables of the script grow beyond {_LONGEST:,} characters"
            raise InputError.single(message, hint="write the value out", field=match[0])
        return text

    return _VARIABLE.sub(value, word)
