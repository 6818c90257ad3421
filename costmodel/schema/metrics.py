"""The metrics of results and published cases, each with the dimension of its value."""

from __future__ import annotations

from costmodel.units import base_unit

_DIMENSIONS = {
    "duration": (
        "step_time", "bubble_time", "exposed_communication_time", "ttft", "tpot", "latency", "all_to_all_time",
        "layer_time", "kv_transfer_time", "time", "text_encoder_time", "encoder_time", "denoising_step_time",
        "denoiser_time", "decoder_time", "rollout_time", "reward_time", "log_probability_time", "train_time",
        "update_time", "offload_time",
    ),
    "ratio": ("mfu", "mfu_noncausal", "hfu", "kv_use", "prefix_hit_rate", "idle_share"),
    "size": ("kv_cache_bytes_per_token", "size"),
    "bandwidth": ("algbw", "busbw", "bandwidth"),
    "flop": ("flop_per_token", "training_flop_per_token", "flop"),
    "flop_rate": ("flop_rate", "flop_rate_per_device"),
    "energy": ("energy_per_token", "energy_per_trillion_tokens", "energy_per_image", "energy_per_sample"),
    "money_rate": ("cost_rate",),
    "money": (
        "cost_per_trillion_tokens", "cost_per_million_tokens", "cost_per_image", "cost", "capital_cost",
        "cost_per_step", "cost_per_sample",
    ),
    "count": (
        "tokens_per_second", "tokens_per_day", "tokens_per_second_per_device", "tokens_per_second_per_user",
        "requests_per_second", "samples_per_second", "input_tokens_per_second", "prefill_tokens_per_second_per_device",
        "decode_tokens_per_second_per_device", "prefill_nodes_per_decode_node", "concurrency", "max_concurrency",
        "kv_blocks", "highest_stable_rate", "device_hours_per_trillion_tokens", "max_batch_per_device", "max_batch",
        "parameters", "active_parameters", "active_parameters_with_embedding", "mtp_parameters", "devices", "endpoints",
        "switches", "links", "images_per_second", "images_per_second_per_device",
    ),
}  # fmt: skip
_TOKEN_RATES = (
    "tokens_per_second", "tokens_per_second_per_device", "tokens_per_second_per_user", "input_tokens_per_second",
    "prefill_tokens_per_second_per_device", "decode_tokens_per_second_per_device",
)  # fmt: skip
_RATES = {
    **dict.fromkeys(_TOKEN_RATES, "token/s"),
    "tokens_per_day": "token/day",
    "images_per_second": "image/s",
    "images_per_second_per_device": "image/s",
    "requests_per_second": "request/s",
    "samples_per_second": "answer/s",
    "highest_stable_rate": "request/s",
    "device_hours_per_trillion_tokens": "h",
}
_BY_METRIC = {metric: dimension for dimension, metrics in _DIMENSIONS.items() for metric in metrics}
_BY_SECTION = {
    "memory": "size", "host_memory": "size", "schedule": "duration", "breakdown": "duration", "share": "ratio",
    "routing": "count",
}  # fmt: skip
_OF_DEVICE = {
    "peak": "flop_rate", "bandwidth": "bandwidth", "capacity": "size", "processors": "count", "tdp": "power",
    "idle": "power", "max": "frequency", "tensor_reference": "frequency", "latency": "duration", "purchase": "money",
    "rental": "money_rate", "electricity": "energy_price",
}  # fmt: skip
"""Last part of a path in a device file -> dimension."""


def dimension_of(metric: str) -> str | None:
    """Return the dimension of a metric such as `step_time` or `memory.weights`, null for an unknown one."""
    section, _, rest = metric.partition(".")
    if section == "device":
        return _OF_DEVICE.get(rest.rpartition(".")[2])
    if section == "work":
        return {"flop": "flop", "traffic": "size", "pairs": "count"}.get(rest.rpartition(".")[2])
    if rest and section in _BY_SECTION:
        return _BY_SECTION[section]
    return _BY_METRIC.get(metric.removeprefix("model."))


def unit_of(metric: str) -> str:
    """Return the unit of a metric's value in a result. `1` for a ratio, a count or an unknown metric."""
    return _RATES.get(metric) or base_unit(dimension_of(metric) or "count")


def metric_names() -> list[str]:
    """Return the names of all metrics. Sections as `memory.NAME`."""
    sections, fields = (f"{section}.NAME" for section in _BY_SECTION), (f"device.….{name}" for name in _OF_DEVICE)
    return [*_BY_METRIC, *sections, "work.NAME.flop", *fields]
