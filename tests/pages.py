"""The code that README and docs show, and a reader of it: every block runs in this process, in one working folder."""

from __future__ import annotations

import contextlib
import io
import os
import re
import runpy
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from command_line import Ran, run_here

ROOT = Path(__file__).resolve().parents[1]
SHELL, PYTHON = ("bash", "sh"), "python"
BLOCK = re.compile(
    r"(?:^<!-- not run: ([^\n]*) -->\n)?(?:^<!-- \w+ -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
NAMED = re.compile(r"# (\S+\.(?:yaml|csv|json))\n")
EXITS = re.compile(r"\s# exits with (\d+)\b")
OPERATORS, PUNCTUATION = ("&&", ">", ">>"), "&|;<>()"
ANSWERS = ("simulate", "search", "explain", "sensitivity", "collective", "plan", "what-if")
FILES = ("--path", "--trace", "--output")
NOT_READ = re.compile(r"[$`*]|<<")  # what a shell would replace, and documents inside a script


@dataclass(frozen=True)
class Block:
    """A block of code. name: of the file that it shows, null for none; reason: why it is not run, null where it is."""

    language: str
    text: str
    name: str | None
    reason: str | None

    @property
    def runs(self) -> bool:
        """Return whether a reader runs it."""
        return self.language in (*SHELL, PYTHON) and not self.reason


def blocks(page: Path) -> list[Block]:
    """Return the blocks of code of a page, in order."""
    found = []
    for reason, language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        name = NAMED.match(text)
        found.append(Block(language, text, name[1] if name else None, reason or None))
    return found


class Reader:
    """Does what a page says in a folder of its own: writes the files that it shows, runs its commands and Python."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.monkeypatch = monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COSTMODEL_DEBUG", "1")  # an error of ours shows where it comes from

    def follow(self, block: Block) -> None:
        """Write the file of a block, or run it."""
        if block.name:
            self.write(block.name, block.text)
        elif block.runs and block.language == PYTHON:
            self.execute(block.text)
        elif block.runs:
            self.shell(block.text)

    def write(self, name: str, text: str) -> None:
        """Write a file that a page shows; JSON has no comments, so the line that names the file is no part of it."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text.partition("\n")[2] if name.endswith(".json") else text, encoding="utf-8")

    def execute(self, text: str) -> str:
        """Run Python; return what it prints."""
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            exec(compile(text, "<page>", "exec"), {"__name__": "__main__"})
        return shown.getvalue()

    def shell(self, text: str) -> None:
        """Run the lines of a shell block.

        A line is one command or several with `&&` between, each with `> FILE` or `>> FILE` behind it or not:
        `costmodel`, `python -m MODULE`, `echo`, `export NAME=VALUE`. A comment `# exits with N` states the exit code
        of the last one, else it is 0.
        """
        for line in re.sub(r"\\\n\s*", "", text).splitlines():
            stated = EXITS.search(line)
            command: list[str] = []
            words = split(line)
            for at, word in enumerate(words):
                if word != "&&":
                    command.append(word)
                if word == "&&" or at == len(words) - 1:
                    self.command(command, line, int(stated[1]) if stated and at == len(words) - 1 else 0)
                    command = []

    def command(self, words: list[str], line: str, expected: int) -> None:
        """Run one command with its redirection."""
        redirected = len(words) > 2 and words[-2] in (">", ">>")
        rest = words[:-2] if redirected else words
        if not rest or any(word in OPERATORS for word in rest):
            pytest.fail(f"a page holds a line that no reader of it can follow: {line!r}")
        done = self.run(rest, line)
        assert done.code == expected, f"{line}\nexits with {done.code}:\n{done.err or done.out}"
        if redirected:
            with (self.folder / words[-1]).open("a" if words[-2] == ">>" else "w", encoding="utf-8") as file:
                file.write(done.out)

    def _is_alone(self, arguments: list[str]) -> bool:
        """Tell whether a command reads and writes no file of this folder."""
        files = any(word in FILES or (self.folder / word).exists() for word in arguments)
        return arguments[0] in ANSWERS and not files and not any(self.folder.glob("*.yaml"))

    def run(self, words: list[str], line: str) -> Ran:
        """Run one command without a redirection."""
        match words:
            case ["costmodel", *arguments] if self._is_alone(arguments):
                return _run_once(tuple(arguments), os.environ.get("COSTMODEL_TABLE"))
            case ["costmodel", *arguments]:
                return run_here(*arguments)
            case ["python", "-m", module, *arguments]:
                return run_here(*arguments, program=lambda: runpy.run_module(module, run_name="__main__"), name=module)
            case ["echo", *parts]:
                return Ran(0, " ".join(parts) + "\n", "")
            case ["export", setting] if "=" in setting:
                name, _, value = setting.partition("=")
                self.monkeypatch.setenv(name, value)
                return Ran(0, "", "")
        pytest.fail(f"a page starts a program that its test does not know: {line!r}")


@cache
def _run_once(arguments: tuple[str, ...], table: str | None) -> Ran:  # noqa: ARG001  the form of tables
    """Return what a command does that reads and writes no file of its reader: pages show some more than once."""
    return run_here(*arguments)


def split(line: str) -> list[str]:
    """Return the words and operators of a line without its comment."""
    reader = shlex.shlex(line, posix=True, punctuation_chars=PUNCTUATION)
    reader.whitespace_split = True
    words = list(reader)
    if any(NOT_READ.search(word) or (set(word) <= set(PUNCTUATION) and word not in OPERATORS) for word in words):
        pytest.fail(f"a page holds a line that needs a whole shell: {line!r}")
    return words
