"""Frameworks of a stated release: the file that describes it, and what is wrong with one that is none."""

from __future__ import annotations

from pathlib import Path

import pytest

import costmodel
from costmodel.errors import InputError

CASE = """
schema: costmodel/workload@1
model: models/qwen3-8b
scenarios:
  run: {{phase: training, cluster: nodes/dgx-h100, parallel: {{dp: 8}}, global_batch: 8, sequence: 128, framework: {0}}}
"""
FRAMEWORK = "schema: costmodel/framework@1\nextends: frameworks/nemo\nname: {0}\n{1}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a framework of three files, and one that only looks like one of them."""
    root = tmp_path_factory.mktemp("releases")
    frameworks = root / "hardware" / "frameworks"
    frameworks.mkdir(parents=True)
    for name, keys in {
        "own": "",
        "own-1": "release: '1.4'",
        "own-2": "release: '2.10'",
        "own-3": "",
        "own-rocm-1": "release: '1'",
    }.items():
        (frameworks / f"{name}.yaml").write_text(FRAMEWORK.format(name, keys), encoding="utf-8")
    return root


def taken(folder: Path, framework: str, **changes: str) -> str:
    """Return the name of the framework that a scenario gets."""
    file = folder / "case.yaml"
    file.write_text(CASE.format(framework), encoding="utf-8")
    loaded = costmodel.load(file, changes, search_path=[folder])
    return str(loaded.resolved.scenarios["run"].framework.name)


@pytest.mark.parametrize(
    ("release", "file"),
    [
        ("0.9", "own-1"),
        ("1.4", "own-1"),
        ("1.4.7", "own-1"),
        ("1.5", "own-2"),
        ("2.9", "own-2"),
        ("2.11", "own"),
        ("7", "own"),
    ],
)
def test_a_release_is_described_by_the_first_file_that_ends_with_it_or_later(
    folder: Path, release: str, file: str
) -> None:
    assert taken(folder, f'{{name: own, release: "{release}"}}') == file
    assert taken(folder, "own", **{"scenarios.run.framework.release": f'"{release}"'}) == file


def test_without_a_release_a_framework_is_the_newest(folder: Path) -> None:
    assert taken(folder, "own") == taken(folder, "frameworks/own") == "own"


def test_other_keys_change_the_file_of_the_release(folder: Path) -> None:
    framework = '{name: own, release: "1.1", host: {operator: 3 us}}'
    (folder / "case.yaml").write_text(CASE.format(framework), encoding="utf-8")
    loaded = costmodel.load(folder / "case.yaml", search_path=[folder]).resolved.scenarios["run"].framework
    assert (loaded.name, loaded.host.operator) == ("own-1", pytest.approx(3e-6))


@pytest.mark.parametrize("release", ["26.1", "26", "newest", "[1]"])
def test_what_is_no_version_is_refused(folder: Path, release: str) -> None:
    with pytest.raises(InputError, match=r"framework\.release: must be a version in quotes"):
        taken(folder, f"{{name: own, release: {release}}}")


def test_a_number_with_all_its_digits_is_a_version(folder: Path) -> None:
    assert taken(folder, "{name: own, release: 1.04}") == "own-1"


def test_experts_of_gpt_oss_on_hopper_have_the_kernel_of_their_release() -> None:
    """vLLM took Marlin where `triton_kernels` was not installed, with which prompts take longer than with Triton."""

    def experts(framework: str, cluster: str) -> float:
        run = {"phase": "prefill", "cluster": cluster, "framework": framework, "input_tokens": 4096}
        scenarios = {"run": {**run, "tokens_per_device": 4096}}
        content = {"schema": "costmodel/workload@1", "model": "models/gpt-oss-20b", "scenarios": scenarios}
        lines = costmodel.load(content).simulate()["scenarios"]["run"]["breakdown"]
        return sum(line["time"] for line in lines if line["name"] == "expert up")

    assert experts("vllm-0.11", "nodes/hgx-h200") > 1.2 * experts("vllm", "nodes/hgx-h200") > 0.0
    assert experts("vllm-0.11", "nodes/hgx-b200") == experts("vllm", "nodes/hgx-b200") > 0.0
