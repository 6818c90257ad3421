"""What an argument of a command means: a model of the catalogue, a file, a config.json, or one in Hugging Face's cache.

It reads none of them: a command that is asked for a workload has nothing of models to load.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from costmodel.errors import InputError
from costmodel.schema.inputs import exists, is_file
from costmodel.schema.references import Library

CONFIG = "config.json"
_ID = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
_FORMATS = (
    r"bf16|fp8|nvfp4|fp4|mxfp4|awq|gptq-int4|gptq-int8|int4|int8|w4a16|w8a16|w8a8"  # `names` of quantization.yaml
)
_ENDINGS = re.compile(rf"[-.](?:({_FORMATS})|instruct|it|pt|chat|base|hf|preview|dynamic|quantized|v2|\d{{4}})$")


def is_model(argument: str, search_path: Sequence[str | Path] = ()) -> bool:
    """Tell whether an argument names a model, by a file, a folder, a name or an id in the cache, not a workload."""
    library = Library(search_path)
    path = Path(argument)
    if is_file(path) and path.suffix in (".yaml", ".yml"):
        return library.schema_of(path) == "model"
    if argument.removeprefix("workloads/").removesuffix(".yaml") in library.names("workloads"):
        return False
    name = argument.removeprefix("models/")
    known = name in library.names("models") or name in library.aliases("models") or network_of(name, library)
    reference = model_reference(argument)
    return bool(known) or reference != argument or (argument.startswith("./") and exists(path))


def model_reference(argument: str) -> str:
    """Return the reference that an argument means: a file, a folder with a config.json, an id in the cache, or a name.

    The catalogue comes before the cache of Hugging Face. Raises InputError for a folder without a config.json.
    """
    path = Path(argument)
    if is_file(path) or is_config(path):
        return f"./{os.path.relpath(path)}"
    library = Library()
    if argument in library.names("models") or argument in library.aliases("models"):
        return argument
    if argument.lower() in library.names("models"):  # as its publisher spells it
        return argument.lower()
    cached = _cached_config(argument)
    if cached is not None:
        return f"./{os.path.relpath(cached)}"
    if path.is_dir():
        raise InputError.single(
            f"the folder {argument} has no {CONFIG}", hint="name the folder of a model, or its file"
        )
    return argument


def network_of(name: str, library: Library) -> tuple[str, str | None] | None:
    """Return the catalogue's model that has the network of a hub's name, and the number format that the name ends in.

    `nvidia/GLM-5-NVFP4` is glm-5 in `nvfp4`: without owner, words of training, dates and formats it is the name of one
    model. Null where the catalogue has the name itself, or no model or several have what is left.
    """
    name = name.removeprefix("models/")
    if library.has("models", name) or name.lower() in library.names("models") or name in library.aliases("models"):
        return None
    bare, stored = _bare(name)
    known = [(each, each) for each in library.names("models")]
    known += [(alias, path.stem) for alias, paths in library.aliases("models").items() for path in paths]
    alike_named = {model for other, model in known if _bare(other)[0] == bare}
    return (alike_named.pop(), stored) if len(alike_named) == 1 else None


def _bare(name: str) -> tuple[str, str | None]:
    """Return a name without owner and endings, and the format among these."""
    bare, stored = name.rpartition("/")[2].lower().removeprefix("meta-"), None
    while (ending := _ENDINGS.search(bare)) is not None:
        bare, stored = bare[: ending.start()], stored or ending[1]
    return bare, stored


def is_config(path: Path) -> bool:
    """Tell whether a path means a config.json: a JSON file, or a folder that contains one."""
    return path.suffix == ".json" or is_file(path / CONFIG)


def _cached_config(model: str) -> Path | None:
    """Return the folder of a model's newest snapshot in Hugging Face's cache, null where the cache has none.

    The cache is `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub` [huggingface_hub, constants.py].
    """
    if _ID.fullmatch(model) is None:
        return None
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
    snapshots = list((hub / f"models--{model.replace('/', '--')}" / "snapshots").glob(f"*/{CONFIG}"))
    return max(snapshots, key=lambda file: file.stat().st_mtime).parent if snapshots else None
