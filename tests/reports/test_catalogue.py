"""The program that writes models of the catalogue: what it writes, what it holds back, and what it reads as stated."""

from __future__ import annotations

from pathlib import Path

import pytest

from costmodel.errors import InputError
from costmodel.schema.files import load_model, read_model
from costmodel.schema.references import package_root
from costmodel.workload.counting import parameter_count
from reports.catalogue import Stated, main, stated_of

FAMILIES = package_root() / "tests/data/families"


@pytest.mark.parametrize(
    ("config", "name", "repository", "counts"),
    [
        ("kimi-k3", "kimi-k3", "moonshotai/Kimi-K3", ("2.78e12", "104e9")),
        ("deepseek-v4-pro", "deepseek-v4-pro", "deepseek-ai/DeepSeek-V4-Pro", ("1.6e12", "49e9")),
        ("mistral-large-3", "mistral-large-3", "mistralai/Mistral-Large-3-675B-Instruct-2512", ("673e9", "39e9")),
    ],
)
def test_shipped_models_are_what_the_program_writes(
    tmp_path: Path, config: str, name: str, repository: str, counts: tuple[str, str]
) -> None:
    options = ["--repository", repository, "--name", name, "--parameters", counts[0], "--active", counts[1]]
    assert main([str(FAMILIES / f"{config}.json"), *options, "--output", str(tmp_path)]) == 0
    written, shipped = read_model(str(tmp_path / f"{name}.yaml")), read_model(name)
    assert written.document | {"sources": []} == shipped.document | {"sources": []}
    assert shipped.document["aliases"] == [repository]


def test_a_model_whose_counts_are_off_is_not_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = str(FAMILIES / "qwen3-next-80b.json")
    options = ["--repository", "Qwen/Qwen3-Next-80B-A3B-Instruct", "--output", str(tmp_path)]
    assert main([config, *options]) == 0
    assert (tmp_path / "qwen3-next-80b-a3b.yaml").is_file()
    for wrong in (["--parameters", "90e9"], ["--active", "9e9"]):
        assert main([config, *options, "--name", "other", *wrong]) == 1
        assert "off, not written" in capsys.readouterr().out
    assert not (tmp_path / "other.yaml").exists()


@pytest.mark.parametrize(
    ("path", "repository", "name", "parameters", "active"),
    [
        ("Qwen--Qwen3.5-397B-A17B", "Qwen/Qwen3.5-397B-A17B", "qwen3.5-397b-a17b", 397e9, 17e9),
        ("Qwen--Qwen3-0.6B/config.json", "Qwen/Qwen3-0.6B", "qwen3-0.6b", 0.6e9, None),
        ("moonshotai--Kimi-K2-Instruct-0905.json", "moonshotai/Kimi-K2-Instruct-0905", "kimi-k2", None, None),
        ("nvidia--Nemo-1T-BF16", "nvidia/Nemo-1T-BF16", "nemo-1t", 1e12, None),
        ("meta-llama--Llama-4-Scout-17B-16E", "meta-llama/Llama-4-Scout-17B-16E", "llama-4-scout-17b-16e", None, 17e9),
    ],
)
def test_what_a_repository_s_name_states(
    path: str, repository: str, name: str, parameters: float | None, active: float | None
) -> None:
    stated = stated_of(Path(path), Stated())
    assert (stated.repository, stated.name, stated.parameters, stated.active) == (repository, name, parameters, active)


@pytest.mark.parametrize(("name", "is_off"), [("Q-80B", 0), ("Q-70B", 0), ("Q-78B", 1), ("Q-79B", 0), ("Q-60B", 1)])
def test_a_name_rounds_a_count_to_its_last_digit(tmp_path: Path, name: str, is_off: int) -> None:
    """79.7 billion parameters are 80B, 79B or 70B, not 78B."""
    config = str(FAMILIES / "qwen3-next-80b.json")
    assert main([config, "--repository", f"Qwen/{name}", "--output", str(tmp_path)]) == is_off


def test_several_models_are_written_by_the_names_of_their_folders(tmp_path: Path) -> None:
    content = (FAMILIES / "qwen3-next-80b.json").read_text()
    for folder in (folders := [tmp_path / name for name in ("Qwen--Q-80B-A3B", "Qwen--P-80B-A3B")]):
        folder.mkdir()
        (folder / "config.json").write_text(content)
    assert main([*map(str, folders), "--output", str(tmp_path)]) == 0
    assert {path.stem for path in tmp_path.glob("*.yaml")} == {"q-80b-a3b", "p-80b-a3b"}


def test_wrong_use_says_what_to_write() -> None:
    with pytest.raises(InputError, match="--repository OWNER/NAME"):
        stated_of(Path("config.json"), Stated())
    with pytest.raises(SystemExit):
        main(["one.json", "two.json", "--parameters", "1e9"])


def test_a_latent_mixture_counts_its_experts_at_the_latent_width() -> None:
    """Kimi K3: 92 layers of 896 experts of 3 x 3,584 x 3,072 are 2.72 of its 2.78 trillion parameters."""
    routed = 92 * 896 * 3 * 3584 * 3072
    total = float(parameter_count(load_model("kimi-k3")).total)
    assert routed / total == pytest.approx(0.98, abs=0.005)
