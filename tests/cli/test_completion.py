"""What the shell is offered: commands, options, and names on the search path."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from click.shell_completion import BashComplete

from costmodel.cli.main import root


def asked(*words: str) -> dict[str, str]:
    """Return what bash puts into the environment to complete the last of `words`."""
    return {"COMP_WORDS": " ".join(("costmodel", *words)), "COMP_CWORD": str(len(words))}


def offered(shown: str) -> list[str]:
    """Return the words in what bash is answered."""
    return [entry.partition(",")[2] for entry in shown.splitlines() if entry.startswith("plain")]


@pytest.fixture
def complete(monkeypatch):
    """Return a function that completes the last of some words; keywords change the environment."""

    def completed(*words: str, **environment: str) -> list[str]:
        with monkeypatch.context() as changed:
            for name, value in {**asked(*words), **environment}.items():
                changed.setenv(name, value)
            return offered(BashComplete(root, {}, "costmodel", "_COSTMODEL_COMPLETE").complete())

    return completed


def test_a_shell_that_starts_the_command_is_offered_the_same(process, complete):
    words = ("simulate", "deeps")
    done = process(**asked(*words), _COSTMODEL_COMPLETE="bash_complete")
    assert done.err == ""
    assert offered(done.out) == complete(*words) != []


@pytest.mark.parametrize(
    ("words", "among"),
    [
        (("sim",), "simulate"),
        (("simulate", "deepseek_v3", "--sc"), "--scenario"),
        (("simulate", "deeps"), "deepseek_v3"),
        (("simulate", "deepseek_v3", "--cluster", "nodes/hgx"), "nodes/hgx-h800"),
        (("explain", "deeps"), "deepseek_v3"),
        (("hardware", "sh"), "show"),
        (("hardware", "show", "rtx"), "rtx-4090"),
        (("model", "show", "llama"), "llama-3-8b"),
        (("init", "dev"), "device"),
        (("schema", "wor"), "workload"),
        (("simulate", "llama-3-8"), "llama-3-8b"),
        (("simulate", "deepseek_v3", "--scenario", "pre"), "prefill"),
        (("explain", "deepseek_v3", "--op", "expert"), "expert up"),
        (("sensitivity", "deepseek_v3", "--metric", "step"), "step_time"),
        (("simulate", "deepseek_v3", "--set", "hardware.memory.h"), "hardware.memory.hbm"),
        (("simulate", "deepseek_v3", "--set", "scenarios.decode.parallel.e"), "scenarios.decode.parallel.ep"),
        (("precision", "show", "w4"), "w4a16"),
    ],
)
def test_commands_options_and_names_are_completed(complete, words, among) -> None:
    found = complete(*words)
    assert among in found
    assert all(name.startswith(words[-1]) for name in found)


def test_names_on_the_user_s_search_path_are_offered_too(complete, tmp_path) -> None:
    folder = tmp_path / "hardware/devices"
    folder.mkdir(parents=True)
    (folder / "own-chip.yaml").write_text("schema: costmodel/device@1\n", encoding="utf-8")
    assert complete("hardware", "show", "own") == []
    assert complete("hardware", "show", "own", COSTMODEL_PATH=str(tmp_path)) == ["own-chip"]
    assert complete("hardware", "show", "--path", str(tmp_path), "own") == ["own-chip"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_a_script_of_its_own(process, shell) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("click asks bash for its version, and there is none")
    script = process(_COSTMODEL_COMPLETE=f"{shell}_source").out
    assert "_COSTMODEL_COMPLETE" in script
    if shutil.which(shell):
        assert subprocess.run([shell, "-n"], input=script, encoding="utf-8", check=False).returncode == 0


def test_help_imports_nothing_that_completion_needs() -> None:
    code = (
        "import sys; sys.argv = ['costmodel', '--help']\n"
        "from costmodel.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "assert not {'yaml', 'pydantic', 'numpy'} & set(sys.modules), 'heavy'\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
