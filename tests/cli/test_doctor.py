"""`doctor`: what is installed and found, and what is told of an installation that is broken."""

from __future__ import annotations

import json
import os
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest
from command_line import run_here, run_on_a_terminal
from small_world import FILES, write

from costmodel.report.doctor import show_doctor

KEYS = ["versions", "extras", "data_roots", "accelerator", "numba", "catalogue", "problems"]
HIDE = """
import importlib.util as u, sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hidden())
f = u.find_spec
u.find_spec = lambda name, *rest: None if name in {names!r} else f(name, *rest)
"""
TORCH = """
from types import SimpleNamespace as S
__version__ = "2.9.1+cu130"
version = S(cuda="13.0", hip=None)
board = S(name={name!r}, major=9, minor=0, multi_processor_count=132, total_memory=80 * 2**30, L2_cache_size=50 * 2**20)
cuda = S(is_available=lambda: {there}, current_device=lambda: 0, get_device_properties=lambda index: board)
get_num_threads = lambda: 1
"""
SMI = "#!/bin/sh\necho '345, 70.5, 580.65.06, 1980, 700.00'\n"


@pytest.fixture(autouse=True)
def _no_roots(monkeypatch):
    for name in ("COSTMODEL_PATH", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


def before(folder: Path) -> dict[str, str]:
    """Return the environment of a process that imports from a folder first."""
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def quick(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a process whose torch, which sees no GPU, takes no seconds to import."""
    write(tmp_path, "packages/torch/__init__.py", TORCH.format(name="", there=False))
    return before(tmp_path / "packages")


def shown(document: dict[str, object]) -> str:
    """Return what people see of a document."""
    return run_here(program=lambda: show_doctor(document)).out


def stated(folder: Path, *lines: str, version: str | None = None) -> None:
    """Write metadata of the package with those lines."""
    from costmodel.version import __version__

    head = ("Metadata-Version: 2.4", "Name: costmodel", f"Version: {version or __version__}")
    write(folder, "costmodel-0.dist-info/METADATA", "\n".join([*head, *lines, ""]))


@pytest.mark.core
def test_an_installation_that_works_has_no_problem(run):
    done = run("doctor", "--json")
    document = json.loads(done.out)
    assert (done.code, document["problems"], list(document)) == (0, [], KEYS)
    versions = document["versions"]
    assert versions["costmodel"] == metadata.version("costmodel")
    assert versions["dependencies"]["numpy"] == {
        "version": metadata.version("numpy"), "requires": ">=1.26", "met": True,
    }  # fmt: skip
    assert set(document["extras"]) == set(metadata.metadata("costmodel").get_all("Provides-Extra"))
    for name, extra in document["extras"].items():
        assert extra["gives"], f"costmodel/packages.py does not say what [{name}] gives"
        assert extra["install"] == f"pip install 'costmodel[{name}]'"
        assert extra["installed"] == (not extra["missing"])
    assert document["extras"]["fast"]["installed"] == (find_spec("numba") is not None)
    assert (document["numba"] is None) == (find_spec("numba") is None)
    if document["numba"] is not None:
        assert document["numba"]["writable"]
        assert Path(document["numba"]["folder"]).is_relative_to(os.environ["NUMBA_CACHE_DIR"])


@pytest.mark.core
def test_the_shipped_folder_holds_what_is_listed(run):
    (root,) = json.loads(run("doctor", "--json").out)["data_roots"]
    listed = json.loads(run("hardware", "list", "--json").out)
    assert (root["named_by"], root["exists"], root["shadows"]) == ("shipped", True, [])
    assert {kind: root["counts"][kind] for kind in listed} == {kind: len(names) for kind, names in listed.items()}
    assert root["counts"]["workloads"] > 0


def test_folders_are_listed_in_the_order_of_the_search_with_what_they_hide(run, tmp_path, monkeypatch):
    for name in ("one", "two"):
        for file, text in FILES.items():
            write(tmp_path / name, file, text)
    write(tmp_path / "one", "hardware/devices/h800-sxm.yaml", "schema: costmodel/device@1\n")
    monkeypatch.setenv("COSTMODEL_PATH", str(tmp_path / "two"))
    first, second, shipped = json.loads(run("doctor", "--json", "--path", tmp_path / "one").out)["data_roots"]
    assert [root["named_by"] for root in (first, second, shipped)] == ["--path", "COSTMODEL_PATH", "shipped"]
    assert [root["path"] for root in (first, second)] == [str(tmp_path / "one"), str(tmp_path / "two")]
    assert "devices/h800-sxm" in first["shadows"]  # of the last one
    assert "devices/chip" in first["shadows"]  # of the second one
    assert "devices/chip" not in second["shadows"]
    assert first["counts"]["devices"] == second["counts"]["devices"] + 1
    told = run("doctor", "--path", tmp_path / "one").out
    assert f"{tmp_path / 'one'} hides files of the same name in later folders: devices/chip, devices/h800-sxm" in told


def test_the_same_folder_twice_hides_nothing(run, tmp_path, monkeypatch):
    write(tmp_path, "hardware/devices/chip.yaml", "schema: costmodel/device@1\n")
    monkeypatch.setenv("COSTMODEL_PATH", str(tmp_path / "hardware/.."))
    first, second, _ = json.loads(run("doctor", "--json", "--path", tmp_path).out)["data_roots"]
    assert first["counts"]["devices"] == second["counts"]["devices"] == 1
    assert first["shadows"] == second["shadows"] == []


@pytest.mark.core
def test_a_folder_that_gives_nothing_is_a_problem_with_its_fix(run, tmp_path, monkeypatch):
    write(tmp_path, "own/hardware/devices/chip.yaml", "schema: costmodel/device@1\n")
    write(tmp_path, "file", "")
    named = [tmp_path / name for name in ("absent", "own/hardware", "file")]
    monkeypatch.setenv("COSTMODEL_PATH", os.pathsep.join(map(str, named)))
    done = run("doctor", "--json", "--path", tmp_path)
    assert done.code == 2
    absent, inside, file = named
    expected = [
        f"--path: {tmp_path} has neither hardware/ nor workloads/; name the folder that holds them",
        f"COSTMODEL_PATH: {absent} does not exist; create it, or name another one",
        f"COSTMODEL_PATH: {inside} has neither hardware/ nor workloads/; name {tmp_path / 'own'}",
        f"COSTMODEL_PATH: {file} is no folder; create it, or name another one",
    ]
    assert done.err.splitlines() == json.loads(done.out)["problems"] == expected
    assert f"{absent} (absent)" in run("doctor").out


def test_extras_are_those_of_the_metadata_and_one_without_its_packages_has_its_command(run, tmp_path, monkeypatch):
    stated(
        tmp_path, "Provides-Extra: fast", "Provides-Extra: own", "Requires-Dist: click>=8.1",
        "Requires-Dist: numpy (>=1.26)",
        "Requires-Dist: click[more]>=1; extra == 'fast'", "Requires-Dist: no-such-package>=2.0; extra == 'own'",
        "Requires-Dist: click>=9999; python_version > '3' and extra == \"own\"",
    )  # fmt: skip
    monkeypatch.syspath_prepend(tmp_path)
    document = json.loads(run("doctor", "--json").out)
    assert list(document["versions"]["dependencies"]) == ["click", "numpy"]
    assert document["extras"]["fast"]["installed"]
    own = document["extras"]["own"]
    assert (own["installed"], own["missing"]) == (False, ["no-such-package>=2.0", "click>=9999"])
    told = run("doctor")
    assert told.code == 0  # an extra is a choice
    assert "to add it: pip install 'costmodel[own]'" in told.out
    assert "costmodel[fast]'" not in told.out.partition("extras")[2].partition("data folders")[0]


def test_what_an_extra_of_another_package_requires_is_required_too(run, tmp_path, monkeypatch):
    stated(tmp_path, "Provides-Extra: own", "Requires-Dist: other[more]>=1; extra == 'own'")
    other = "Metadata-Version: 2.4\nName: other\nVersion: 1.5\nProvides-Extra: more\n"
    inner = "Requires-Dist: not-asked; extra == 'less'\nRequires-Dist: no-such-package; extra == 'more'\n"
    write(tmp_path, "other-1.5.dist-info/METADATA", other + inner)
    monkeypatch.syspath_prepend(tmp_path)
    assert json.loads(run("doctor", "--json").out)["extras"]["own"]["missing"] == ["no-such-package"]
    write(tmp_path, "other-1.5.dist-info/METADATA", other.replace("1.5", "0.5") + inner)
    assert json.loads(run("doctor", "--json").out)["extras"]["own"]["missing"] == ["other[more]>=1", "no-such-package"]


@pytest.mark.core
def test_a_package_without_extras_says_so(run, tmp_path, monkeypatch):
    stated(tmp_path, "Requires-Dist: click>=8.1")
    monkeypatch.syspath_prepend(tmp_path)
    assert json.loads(run("doctor", "--json").out)["extras"] == {}
    assert "the package's metadata list no extras" in run("doctor").out


@pytest.mark.core
def test_a_requirement_that_is_absent_or_old_is_a_problem(run, tmp_path, monkeypatch):
    stated(tmp_path, "Requires-Dist: no-such-package>=2.0", "Requires-Dist: click>=9999.1")
    monkeypatch.syspath_prepend(tmp_path)
    done = run("doctor")
    assert done.code == 2
    assert "no-such-package: is not installed; pip install 'no-such-package>=2.0'\n" in done.err
    assert f"click: is {metadata.version('click')}, >=9999.1 is required; pip install 'click>=9999.1'\n" in done.err


def test_metadata_of_another_version_are_a_problem(run, tmp_path, monkeypatch):
    stated(tmp_path, version="0.0.1")
    monkeypatch.syspath_prepend(tmp_path)
    done = run("doctor")
    assert done.code == 2
    assert "its metadata say 0.0.1" in done.err
    assert "pip install it again" in done.err


@pytest.mark.core
def test_without_what_reads_files_all_else_is_still_told(process, tmp_path):
    write(tmp_path, "sitecustomize.py", HIDE.format(names=("yaml", "torch")))
    done = process("doctor", "--json", **before(tmp_path))
    assert done.code == 2
    assert "data_roots: files cannot be read: No module named 'yaml'" in done.err
    document = json.loads(done.out)
    assert document["data_roots"] == []
    assert document["versions"]["dependencies"]


@pytest.mark.core
def test_without_torch_and_numba_the_install_lines_are_told(process, tmp_path):
    write(tmp_path, "sitecustomize.py", HIDE.format(names=("torch", "numba")))
    done = process("doctor", **before(tmp_path))
    assert (done.code, done.err) == (0, "")
    assert "none: torch is needed to find one; pip install 'costmodel[profile]'" in done.out
    assert "many times slower; pip install 'costmodel[fast]'" in done.out


@pytest.mark.parametrize(
    ("product", "file", "said"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm", "described by devices/h100-sxm"),
        ("Chip of tomorrow", None, "no device file describes it: `costmodel profile` writes one"),
    ],
)
def test_a_gpu_is_the_device_whose_file_profile_would_take(process, tmp_path, product, file, said):
    write(tmp_path, "torch/__init__.py", TORCH.format(name=product, there=True))
    write(tmp_path, "bin/nvidia-smi", SMI)
    (tmp_path / "bin/nvidia-smi").chmod(0o755)
    environment = {**before(tmp_path), "PATH": os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])}
    document = json.loads(process("doctor", "--json", **environment).out)
    assert document["accelerator"] == {
        "kind": "cuda", "name": product, "memory": 80 * 2**30, "driver": "580.65.06", "device_file": file,
        "torch": "2.9.1+cu130", "cuda": "13.0",
    }  # fmt: skip
    assert said in shown(document)


def test_a_machine_without_gpu_is_its_cpu(process, tmp_path):
    write(tmp_path, "torch/__init__.py", TORCH.format(name="", there=False))
    document = json.loads(process("doctor", "--json", **before(tmp_path)).out)
    found = document["accelerator"]
    assert (found["kind"], found["device_file"]) == ("cpu", None)
    assert found["memory"] > 2**30
    assert "`costmodel profile` times this CPU" in shown(document)


def test_a_torch_that_cannot_be_imported_is_a_problem(process, tmp_path):
    write(tmp_path, "torch/__init__.py", "raise OSError('libcudart.so.13: cannot open shared object file')\n")
    done = process("doctor", "--json", **before(tmp_path))
    assert done.code == 2
    assert "accelerator: torch is installed but does not work: libcudart.so.13" in done.err
    assert json.loads(done.out)["accelerator"] is None


@pytest.mark.skipif(find_spec("numba") is None, reason="needs numba: pip install 'costmodel[fast]'")
def test_compiled_code_is_kept_where_numba_finds_room(process, quick, tmp_path):
    write(tmp_path, "file", "")
    done = process("doctor", "--json", NUMBA_CACHE_DIR=str(tmp_path / "file/kept"), **quick)
    assert done.code == 2
    elsewhere = json.loads(done.out)["numba"]["folder"]
    assert f"{tmp_path}/file/kept cannot be written; compiled code goes to {elsewhere}; name a folder" in done.err
    off = process("doctor", NUMBA_DISABLE_JIT="1", **quick)
    assert "keeps none" in off.out


def test_a_terminal_is_styled_and_a_pipe_and_no_color_are_plain(run, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" in run_on_a_terminal("doctor")
    assert "\x1b[" not in run_on_a_terminal("doctor", NO_COLOR="1")
    assert "\x1b[" not in run("doctor").out
    assert "| extra |" in run("doctor", "--format", "md").out


def test_where_the_compiled_catalogue_is_kept(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COSTMODEL_CACHE", str(tmp_path / "kept"))
    for scenario in ("prefill", "decode"):
        run("simulate", "deepseek_v3", "--scenario", scenario)
    document = json.loads(run("doctor", "--json").out)
    assert document["catalogue"] == {"folder": str(tmp_path / "kept"), "writable": True, "entries": 2}
    assert "2 entries" in shown(document)


def test_a_compiled_catalogue_that_cannot_be_written_is_a_problem(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COSTMODEL_CACHE", str(tmp_path / "file/kept"))
    done = run("doctor", "--json")
    assert (done.code, json.loads(done.out)["catalogue"]["writable"]) == (2, False)
    assert "COSTMODEL_CACHE" in done.err
    monkeypatch.setenv("COSTMODEL_CACHE", "")
    assert json.loads(run("doctor", "--json").out)["catalogue"]["folder"] is None
