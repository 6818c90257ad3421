"""Configs of the Hugging Face cache on this machine: `ORGANISATION/NAME` without a download."""

from __future__ import annotations

import os
import re
from pathlib import Path

_ID = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")


def cached_config(model: str) -> Path | None:
    """Return the folder of a model's newest snapshot in the cache, null where the cache has none.

    The cache is `$HF_HUB_CACHE`, else `$HF_HOME/hub`, else `~/.cache/huggingface/hub` [huggingface_hub, constants.py].
    """
    if _ID.fullmatch(model) is None:
        return None
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    hub = Path(os.environ.get("HF_HUB_CACHE") or os.path.join(home, "hub")).expanduser()
    found = list((hub / f"models--{model.replace('/', '--')}" / "snapshots").glob("*/config.json"))
    return max(found, key=lambda file: file.stat().st_mtime).parent if found else None
