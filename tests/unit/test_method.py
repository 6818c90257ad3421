"""docs/method.md and the code name the same files and sections."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from costmodel.cost.form_registry import FORMS
from costmodel.workload.operators import KINDS

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "docs" / "method").glob("*.md"))
METHOD = "\n".join(path.read_text(encoding="utf-8") for path in CHAPTERS)
HEADING = re.compile(r"^#+ (\d+(?:\.\d+)?)\.? ", re.MULTILINE)
SECTIONS = dict(zip(HEADING.findall(METHOD), HEADING.split(METHOD)[2::2], strict=True))
TEXTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
CODE = [
    *(path for folder in ("costmodel", "reports", "benchmarks") for path in (ROOT / folder).rglob("*.py")),
    *(path for folder in ("hardware", "workloads") for path in (ROOT / folder).rglob("*.yaml")),
]
OTHERS = ("tests/test_internode.py", "benchmarks/llama3_h100_202412_torchtitan.md")  # DeepEP's and torchtitan's
HISTORY = ("CHANGELOG.md",)  # it names what was there then
FILE = re.compile(r"(?<![\w/.-])(?:costmodel|reports|benchmarks|tests)(?:/\w+)+\.(?:py|yaml|md)\b")
MODULE = re.compile(r"`((?:\w+/)*\w+\.py)`")
REFERENCE = re.compile(r"docs/method\.md, sections? (\d+(?:\.\d+)?)")
OWN_REFERENCE = re.compile(r"\((?:sections? )?([1-9]\d?\.\d+|1\d|2\d)\)")

SECTIONS_OF_FORMS = {
    **{name: form.SECTION for name, form in FORMS.items()},
    **{kind.__name__: known.time_section for kind, known in KINDS.items()},
}


@pytest.mark.parametrize("name", SECTIONS_OF_FORMS)
def test_the_section_that_explains_a_form_exists(name: str) -> None:
    assert SECTIONS_OF_FORMS[name] in SECTIONS


def test_the_contents_list_every_section_once() -> None:
    contents = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    assert re.findall(r"\[(\d+(?:\.\d+)?)[].]", contents) == list(SECTIONS)


def _current(path: Path) -> bool:
    return not any(part in HISTORY for part in path.relative_to(ROOT).parts)


def test_every_file_that_a_text_names_exists() -> None:
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in (*TEXTS, *CODE)
        if _current(path)
        for name in FILE.findall(path.read_text(encoding="utf-8"))
        if name not in OTHERS and not (ROOT / name).exists()
    ]
    assert not missing


def test_every_module_that_the_method_names_exists() -> None:
    ours = re.sub(r"\[[^][]*\]", "", METHOD)  # without citations of other repositories
    modules = {
        path.relative_to(ROOT).as_posix() for folder in ("costmodel", "reports", "tests") for path in _python(folder)
    }
    missing = {name for name in MODULE.findall(ours) if not any(f"/{one}".endswith(f"/{name}") for one in modules)}
    assert not missing


def _python(folder: str) -> Iterator[Path]:
    return (ROOT / folder).rglob("*.py")


def test_every_section_that_is_referred_to_exists() -> None:
    named = [
        (path, number) for path in (*TEXTS, *CODE) for number in REFERENCE.findall(path.read_text(encoding="utf-8"))
    ]
    missing = [f"{path.relative_to(ROOT)}: {number}" for path, number in named if number not in SECTIONS]
    missing += [f"docs/method.md: ({number})" for number in OWN_REFERENCE.findall(METHOD) if number not in SECTIONS]
    assert named
    assert not missing
    assert {kind.work_section for kind in KINDS.values()} <= {"", *SECTIONS}
