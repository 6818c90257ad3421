"""Settings that an engine's documentation recommends for a model on a device, where a table of runs states none.

Sources, each the engine's own: SGLang: sgl-project/sgl-cookbook, data/optimal-configs/src/v0.5.6/deepseek-r1.yaml
(eight H200 and B200 in FP8, four and eight B200 in FP4; few users: 4 to 8, many: 16 to 128); TensorRT-LLM:
NVIDIA/TensorRT-LLM, examples/configs/database (DeepSeek-R1-0528 and gpt-oss-120b on B200); vLLM: vllm-project/recipes,
OpenAI/GPT-OSS.md (Blackwell), GPT-OSS_Hopper.yaml and GPT-OSS_Blackwell.yaml as of vLLM 0.13 (`async-scheduling`).
No measured time is read (docs/decisions/0256-settings-of-benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BLACKWELL, GRACE = ("b200", "b300"), ("gb200", "gb300")
EXPERTS = {"dsr1": 8, "gptoss": 4}  # of a token
MANY_USERS, LOOKS = 16, (10, 30)  # `scheduler_recv_interval` of few users, and of that many
CHUNK, CHUNK_FP4 = 32768, 16384  # tokens
GPTOSS_TOKENS = 20000  # `max_num_tokens`
FEW, SEVERAL, FEW_BESIDE, MANY_BESIDE = 16, 64, 128, 1152
"""Of TensorRT-LLM with DeepSeek-R1: up to so many users short prompts have its default budget; up to so many a step
holds so many tokens beside the longest prompt, else so many (1k1k_tp8_conc64, 8k1k_tp4_conc32, 8k1k_tp8_conc512)."""
LONG, SEATS = 8192, 512  # of a prompt; `max_batch_size`
ALIGNED = 60  # `attention_dp_config.timeout_iters`, beside `batching_wait_iters: 0`
BLOCKS_AND_CACHE = {"compute": "fp8-inference", "fallback": "bf16", "kv_cache": "fp8"}
MXFP8_EXPERTS = {
    "compute": "bf16", "weights": "mxfp4", "kv_cache": "fp8",
    "parts": {
        **{part: {"linear": "bf16", "weights": "bf16"} for part in ("attention", "ffn", "shared_experts")},
        "experts": {"linear": "fp8", "weights": "mxfp4", "scale_block": 128},
    },
}  # fmt: skip
"""gpt-oss as it is published, but with activations of experts in MXFP8 and an FP8 cache."""


def deployment(row: Mapping[str, str], engine: str) -> dict[str, Any]:
    """Return keys of the scenario of a row on one engine: memory, precision and scheduler. engine: its framework."""
    device, model, form = row["gpu"], row["model"], row["precision"]
    if engine.startswith("sglang") and (model, device) == ("dsr1", "h200"):
        return {"scheduler": {"token_budget": CHUNK}, "memory": {"utilization": 0.82}}
    early = {"scheduler": {"async": True}} if (engine, model) == ("vllm-0.11", "gptoss") else {}
    if device not in BLACKWELL:
        return early
    if engine.startswith("sglang") and model == "dsr1":
        looks = LOOKS[float(row["concurrency"]) >= MANY_USERS]
        return _on_blackwell(form, looks, is_whole=float(row["n_gpus"]) >= 8)
    of_engine = _of_tensorrt_llm(row) if engine.startswith("trt-llm") and device == "b200" else {}
    if model == "gptoss":
        return {"precision": MXFP8_EXPERTS, **early, **of_engine}
    return {**({"precision": BLOCKS_AND_CACHE} if form == "fp8" else {}), **of_engine}


def _of_tensorrt_llm(row: Mapping[str, str]) -> dict[str, Any]:
    """Return the scheduler and the share of memory in NVIDIA's configurations for B200."""
    prompt, gptoss = float(row["isl"]), row["model"] == "gptoss"
    aligned = {"align_steps": ALIGNED} if row["decode_dpa"] == "1" else {}
    if gptoss:
        return {"scheduler": {"token_budget": GPTOSS_TOKENS, **aligned}, "memory": {"utilization": 0.85}}
    share = 0.75 if float(row["n_gpus"]) < 8 and prompt >= LONG else 0.8
    users, beside = float(row["concurrency"]), FEW_BESIDE if float(row["concurrency"]) <= SEVERAL else MANY_BESIDE
    is_stated = prompt >= LONG or (float(row["osl"]) < LONG and users > FEW)
    budget = {"token_budget": round(prompt) + beside} if is_stated else {}
    return {"scheduler": {"max_num_seqs": SEATS, **budget, **aligned}, "memory": {"utilization": share}}


def draft_depth(row: Mapping[str, str], engine: str) -> int | None:
    """Return the tokens that an engine drafts where its documentation says how many; null: it does not.

    NVIDIA's configurations of DeepSeek-R1 on B200: `num_nextn_predict_layers` or `max_draft_len` 3 for 1 to 64 users, 1
    with attention data parallelism.
    """
    if not engine.startswith("trt-llm") or row["gpu"] != "b200":
        return None
    return 1 if row["decode_dpa"] == "1" else 3


def exchange(row: Mapping[str, str], engine: str, degrees: Mapping[str, int]) -> dict[str, Any]:
    """Return how ranks of these degrees exchange tokens, where it is not as the framework's default.

    TensorRT-LLM takes to an all-to-all over NVLink for data-parallel attention on more ranks than a token has experts
    [tensorrt_llm/_torch/modules/fused_moe/fused_moe_wide_ep.py, select_alltoall_method_type]; on Arm hosts in all
    versions, so on racks of GB200 and GB300, which are one domain.
    """
    by_all = engine.startswith("trt-llm") and row["gpu"] in GRACE and degrees.get("dp", 1) > EXPERTS[row["model"]]
    return {"communication": {"exchange": "all_to_all"}} if by_all else {}


def _on_blackwell(form: str, looks: int, *, is_whole: bool) -> dict[str, Any]:
    """Return what SGLang recommends for DeepSeek-R1. is_whole: on a whole node; half of one cannot hold 82 % in FP8."""
    if form == "fp4":
        whole = {"precision": {"compute": "nvfp4", "kv_cache": "fp8"}} if is_whole else {}
        chunk = {"token_budget": CHUNK_FP4} if is_whole else {}
        return {"scheduler": {"look_steps": looks, **chunk}, "memory": {"utilization": 0.85}, **whole}
    share = {"memory": {"utilization": 0.82}} if is_whole else {}
    return {"scheduler": {"look_steps": looks, "token_budget": CHUNK}, "precision": BLOCKS_AND_CACHE, **share}
