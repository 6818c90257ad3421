"""Fits from the compiled catalogue: those of the files, until one of these changes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import pytest

import costmodel
from costmodel.calibration import compiled_fits
from costmodel.calibration.compiled_fits import CompiledFits, keep_all
from costmodel.schema import catalogue
from costmodel.schema.references import package_root

pytestmark = pytest.mark.usefixtures("kept")

SHIPPED = ("deepseek_v3", "deepseek_v3_serving", "mixtral_8x7b_h100", "llama3_8b_rtx4090", "gpt3_175b_a100")
LOADED_LATE = ("yaml", "pydantic", "pydantic_core", "scipy")  # modules that only files need
PROGRAM = f"""
import sys
sys.argv[1:] = sys.argv[1:]
from costmodel.cli.main import main
try: main()
except SystemExit: pass
print([name for name in {LOADED_LATE} if name in sys.modules], file=sys.stderr)
"""


def forget() -> None:
    """Take what this process knows for unknown."""
    compiled_fits._loaded.cache_clear()
    compiled_fits._store.cache_clear()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the folder of the catalogue."""
    monkeypatch.setenv(catalogue.VARIABLE, str(tmp_path / "catalogue"))
    forget()
    yield tmp_path / "catalogue"
    forget()


def simulated(name: str, *search_path: Path) -> str:
    workload = costmodel.load(name, search_path=search_path)
    return json.dumps(workload.simulate(engine="analytic"))


@pytest.mark.parametrize("name", SHIPPED)
def test_results_are_those_of_the_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = simulated(name)
    keep_all()
    forget()
    second = simulated(name)
    for calibration in costmodel.load(name)._calibrations.values():
        assert isinstance(calibration.families, CompiledFits)
    keep_all()
    monkeypatch.setenv(catalogue.VARIABLE, "")
    assert first == second == simulated(name)


def test_a_second_run_reads_no_file() -> None:
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM, "simulate", "deepseek_v3", "--scenario", "decode"],
            check=True, capture_output=True, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert runs[0].stdout == runs[1].stdout
    assert "yaml" in runs[0].stderr.splitlines()[-1]
    assert runs[1].stderr.splitlines()[-1] == "[]"


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a search root with the calibrations of a device."""
    folder = Path("hardware/calibrations/a100-sxm-80gb")
    copytree(package_root() / folder, tmp_path / "own" / folder)
    return tmp_path / "own"


def fits_of(own: Path) -> CompiledFits:
    workload = costmodel.load("gpt3_175b_a100", search_path=[own])
    families = workload.calibration(workload.scenario(workload.scenarios[0])).families
    assert isinstance(families, CompiledFits)
    return families


@pytest.mark.parametrize("changed", ["*.yaml", "*.json"])
def test_a_changed_file_of_fits_is_read_again(own: Path, changed: str) -> None:
    """The calibration itself, or the residuals beside it."""
    before = simulated("gpt3_175b_a100", own)
    keep_all()
    forget()
    assert fits_of(own)._kept.fits
    for path in own.rglob(changed):
        path.write_text(path.read_text().replace("\n", "\n\n", 1))
    forget()
    assert not fits_of(own)._kept.fits
    assert simulated("gpt3_175b_a100", own) == before


def test_a_calibration_that_comes_first_is_read(own: Path) -> None:
    folder = own / "hardware/calibrations"
    aside = folder.rename(own / "aside")
    simulated("gpt3_175b_a100", own)
    keep_all()
    forget()
    assert fits_of(own)._kept.fits
    aside.rename(folder)
    forget()
    assert not fits_of(own)._kept.fits


def test_fits_go_to_other_processes_once() -> None:
    """What is known comes along, whether the catalogue is there or not; chunks of one sweep share it."""
    workload = costmodel.load("deepseek_v3", scenarios=["decode"])
    before = json.dumps(workload.simulate(engine="analytic"))
    sent = pickle.dumps(workload)
    forget()
    first, second = pickle.loads(sent), pickle.loads(sent)
    fits = [each.calibration(each.scenario("decode")).families for each in (first, second)]
    assert fits[0] is fits[1]
    assert fits[0]._kept.fits
    assert json.dumps(first.simulate(engine="analytic")) == before
    assert "files" not in vars(fits[0])
