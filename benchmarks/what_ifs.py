"""Random workloads on random clusters: no change of the lever list saves more than its ceiling.

python -m benchmarks.what_ifs --pairs 1000 --seed 0
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from costmodel.api import load
from costmodel.errors import CostModelError
from costmodel.schema.what_if import AlternativeFile, load_what_if
from costmodel.study.what_if import LEVERS, Worth, worths

MODELS = ("llama-3-8b", "llama-2-7b", "mixtral-8x7b", "qwen3-30b-a3b", "deepseek-v2-lite", "gpt-oss-20b", "gemma-2-9b",
          "qwen3-235b-a22b", "deepseek-v3", "mistral-7b")  # fmt: skip
NODES = ("hgx-h800", "dgx-h100", "hgx-h200", "dgx-a100", "hgx-b200", "rtx-4090-x8", "l40s-x8", "hgx-h20", "mi300x-x8")
FRAMEWORKS = ("deepseek", "vllm", "sglang", "megatron", "default")


def pairs(count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield random workloads of one scenario each, some of which do not fit."""
    random_of = random.Random(seed)
    pick = random_of.choice
    for _ in range(count):
        phase = pick(("training", "prefill", "decode"))
        tp, ep = pick((1, 2, 4, 8)), pick((1, 8, 16, 32))
        scenario: dict[str, Any] = {
            "phase": phase, "cluster": f"nodes/{pick(NODES)}",
            "framework": f"frameworks/{pick(FRAMEWORKS)}",
            "communication": {"processors": pick((0, 8, 20)), "dispatch": pick(("bf16", "fp8")),
                              "mode": pick(("normal", "low_latency"))},
        }  # fmt: skip
        dp = max(ep // tp, 1) * pick((1, 2))
        scenario["parallel"] = {"tp": tp, "dp": dp, "ep": min(ep, tp * dp)}
        length = pick((512, 2048, 8192))
        if phase == "training":
            pp = pick((1, 2, 4))
            scenario["parallel"]["pp"] = pp
            scenario |= {"sequence": length, "global_batch": dp * pp * pick((2, 8)), "micro_batch": 1,
                         "optimizer": {"zero": pick((1, 3))}, "recompute": pick(("none", "full"))}  # fmt: skip
        elif phase == "prefill":
            scenario |= {"input_tokens": length, "tokens_per_device": length * pick((1, 4)) * 2,
                         "micro_batches": pick((1, 2))}  # fmt: skip
        else:
            scenario |= {"batch_per_device": pick((2, 16, 64)), "input_tokens": length, "micro_batches": pick((1, 2))}
        yield {"schema": "costmodel/workload@1", "model": f"models/{pick(MODELS)}", "scenarios": {"one": scenario}}


def beyond(document: dict[str, Any], lever: AlternativeFile, folder: Path) -> tuple[Worth | None, bool]:
    """Return what a lever is worth in a workload, null where it cannot be had, and whether it keeps to its ceiling."""
    path = folder / "workload.yaml"
    path.write_text(yaml.safe_dump(document))
    try:
        (found,) = worths(load(path), "one", [lever])
    except CostModelError:
        return None, True
    if found.saved is None or found.ceiling is None:
        return None, True
    return found, found.keeps_to_its_ceiling


def main(arguments: Sequence[str] | None = None) -> int:
    """Count the pairs in which a random lever saves more than its ceiling, and print these."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.what_ifs", description=main.__doc__)
    parser.add_argument("--pairs", type=int, default=1000, help="pairs in which the lever can be had")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    levers = [one for one in load_what_if(LEVERS).file.alternatives if one.set or one.scale]
    pick, wrong, had = random.Random(chosen.seed + 1), 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for document in pairs(100 * chosen.pairs, chosen.seed):
            found, keeps = beyond(document, pick.choice(levers), Path(folder))
            had += found is not None
            if found is not None and not keeps:
                wrong += 1
                print(f"{found.term}: saves {found.saved:.4f} of at most {found.ceiling:.4f}: {document}")
            if had == chosen.pairs:
                break
    print(f"{had} pairs, {wrong} beyond the ceiling")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
