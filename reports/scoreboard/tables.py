"""Rows of public tables that no case file of the catalogue holds, as cases and as measured kernels."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from costmodel.calibration.fit_files import CALIBRATIONS, read
from costmodel.calibration.row_prediction import predict
from costmodel.measurements.tables import read_tables
from costmodel.records import Record, replace
from costmodel.schema.calibration import FitsFile
from costmodel.schema.references import Library
from costmodel.study.published.provenance import IN_SAMPLE, UNSEEN
from costmodel.study.published.reproduce import Comparison, load_cases, reproduce

Row = Mapping[str, str]
KERNELS = (
    "row_id", "device", "op", "dtype_in", "dtype_out", "m", "n", "k", "bytes", "world_size", "gpus_per_node", "time_us",
    "framework", "kernel", "timing",
)  # fmt: skip
"""Columns of a table of kernels that tables of other shapes are written as."""
MODELS = {
    "meta-llama/Llama-2-7b-hf": "llama-2-7b", "meta-llama/Llama-2-70b-hf": "llama-2-70b",
    "meta-llama/Meta-Llama-3-8B": "llama-3-8b", "meta-llama/Meta-Llama-3-70B": "llama-3-70b",
    "mistralai/Mistral-7B-v0.1": "mistral-7b", "mistralai/Mixtral-8x7B-v0.1": "mixtral-8x7b",
    "Qwen/Qwen2-7B": "qwen2.5-7b", "Qwen/Qwen2-72B": "qwen2.5-72b",
}  # fmt: skip
"""Names in tables -> models of the catalogue with the same architecture."""
ENGINES = {("a100", "vLLM"): ("dgx-a100-40gb", "vllm-2024"), ("h100", "TensorRT-LLM"): ("dgx-h100", "trt-llm-2024")}
DEVICES = {
    "NVIDIA A100-SXM4-80GB": "A100_SXM4_80GB", "NVIDIA H100 80GB HBM3": "H100_SXM", "NVIDIA L40S": "L40S",
    "L40S": "L40S", "a100": "A100_SXM4_80GB", "h100": "H100_SXM",
}  # fmt: skip
LARGEST = 8  # ranks of one node


class PublicTable(Record):
    """A table of other people's figures. key: by which its rows go; repository: of its source.

    cases: id of a row, row -> scenario and expected values, as a case file has them; kernels: row -> cells of a table
    of kernels. Nothing for a row that cannot be expressed.
    """

    key: str
    path: str
    repository: str
    cases: Callable[[Row], tuple[dict[str, object], list[dict[str, object]]] | None] | None = None
    kernels: Callable[[Row], dict[str, str] | None] | None = None


def rows_of(table: PublicTable, folder: Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a table with their ids: its key, the line, and a digest of the row's text."""
    lines = (folder / table.path).read_text(encoding="utf-8").splitlines()
    names = next(csv.reader([lines[0]]))
    for number, line in enumerate(lines[1:], start=2):
        digest = hashlib.sha256(line.encode()).hexdigest()[:8]
        yield f"{table.key}:{number}:{digest}", dict(zip(names, next(csv.reader([line])), strict=False))


def case_file(table: PublicTable, folder: Path) -> str:
    """Return the case file of the rows that scenarios express; empty where there is none."""
    assert table.cases is not None
    found = []
    for name, row in rows_of(table, folder):
        known = table.cases(row)
        if known is not None:
            scenario, expect = known
            found.append({"id": name, "class": "inference", "scenario": scenario, "expect": expect})
    source = {"cite": f"{table.repository}, {table.path}", "repository": table.repository, "verified": True}
    return yaml.safe_dump({"schema": "costmodel/case@1", "source": source, "cases": found}) if found else ""


def kernel_table(table: PublicTable, folder: Path) -> str:
    """Return the rows that measure a kernel or a message, as a table of kernels."""
    assert table.kernels is not None
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, KERNELS, lineterminator="\n", restval="")
    writer.writeheader()
    for name, row in rows_of(table, folder):
        cells = table.kernels(row)
        if cells is not None:
            writer.writerow({"row_id": name} | cells)
    return text.getvalue()


def predicted(folder: Path, tables: Sequence[PublicTable] | None = None) -> list[Comparison]:
    """Return every row of the tables in a folder that can be expressed, beside its prediction as shipped.

    tables: default, all of `TABLES` that the folder has.
    """
    found: list[Comparison] = []
    for table in TABLES if tables is None else tables:
        if not (folder / table.path).is_file():
            continue
        with TemporaryDirectory() as scratch:
            found += (
                _of_cases(table, folder, Path(scratch)) if table.cases else _of_kernels(table, folder, Path(scratch))
            )
    return found


def _of_cases(table: PublicTable, folder: Path, scratch: Path) -> Iterator[Comparison]:
    path = scratch / f"{table.key}.yaml"
    path.write_text(case_file(table, folder), encoding="utf-8")
    comparisons, _ = reproduce(load_cases([str(path)])[0])
    for one in comparisons:
        if one.error is not None:
            yield replace(one, case_class=f"table {table.key}", source="", group=one.id)


def _of_kernels(table: PublicTable, folder: Path, scratch: Path) -> Iterator[Comparison]:
    path = scratch / f"{table.key}.csv"
    path.write_text(kernel_table(table, folder), encoding="utf-8")
    rows = read_tables(path)
    found = predict(rows)
    own = {name: _rests_on(name, table.repository) for name in set(found.fits.tolist()) if name}
    columns = rows.text("row_id"), rows.seconds, found.seconds, found.low, found.high, found.fits
    for name, measured, seconds, low, high, fit in zip(*columns, strict=True):
        if math.isfinite(seconds) and measured > 0.0:
            yield Comparison(
                id=str(name), publication=table.repository, case_class=f"table {table.key}", metric="time", unit="s",
                published=float(measured), predicted=float(seconds), low=float(low), high=float(high),
                error=float(seconds / measured - 1.0), verdict="", source="", group=str(name),
                state=IN_SAMPLE if own.get(fit) else UNSEEN,
            )  # fmt: skip


def _rests_on(fits: str, repository: str) -> bool:
    """Tell whether one of the calibration files that answer for a row, by comma, rests on rows of a repository."""
    library = Library(())
    files = (read(library, CALIBRATIONS, each.removeprefix(f"{CALIBRATIONS}/"), FitsFile) for each in fits.split(", "))
    return any(repository in one.rests_on for file in files for one in file.sources)


def _offline_batch(row: Row) -> tuple[dict[str, object], list[dict[str, object]]] | None:
    """Return a batch of equal prompts and as many output tokens, on the engines that the catalogue knows."""
    engine, model = ENGINES.get((row["gpu"], row["framework"])), MODELS.get(row["model"])
    if engine is None or model is None or row["precision"] != "fp16" or row["flag"] or not row["latency_s"]:
        return None
    scenario = {
        "model": f"models/{model}", "phase": "generate", "cluster": f"nodes/{engine[0]}", "framework": engine[1],
        "parallel": {"tp": int(row["n_gpus"])}, "batch": int(row["batch"]), "input_tokens": int(row["isl"]),
        "output_tokens": int(row["osl"]), "precision": {"compute": "fp16"},
    }  # fmt: skip
    return scenario, [{"metric": "latency", "value": f"{row['latency_s']} s", "tolerance": "20 %"}]


def _message(row: Row) -> dict[str, str] | None:
    """Return a collective that states its size in elements."""
    device = DEVICES.get(row["device"] or ("L40S" if row["system"].startswith("l40s") else ""))
    if device is None or int(row["num_gpus"]) > LARGEST:
        return None
    size = int(row["message_size"]) * (2 if row["nccl_dtype"] == "half" else 1)
    return _collective(
        device, {"alltoall": "all_to_all"}.get(row["op_name"], row["op_name"]), size, int(row["num_gpus"]),
        1000.0 * float(row["latency"]),
    ) | {"dtype_in": "fp16" if row["nccl_dtype"] == "half" else "int8"}  # fmt: skip


def _nccl_test(row: Row) -> dict[str, str] | None:
    """Return a message of NCCL's own tests inside one node, by the algorithm that NCCL takes on NVSwitch."""
    device = DEVICES.get(row["gpu"])
    if device is None or row["nodes"] != "1" or row["algorithm"] not in ("nvls", "default"):
        return None
    return _collective(device, row["op"], int(row["bytes"]), int(row["world_size"]), float(row["time_us"]))


def _bus_bandwidth(row: Row) -> dict[str, str] | None:
    """Return a sum over eight ranks by its bus bandwidth: t = 2 (n - 1)/n * bytes / busbw; or a product by its rate."""
    device = DEVICES.get(row["gpu"])
    if device is None:
        return None
    if row["kind"] == "nccl" and "8 GPUs" in row["metric"]:
        micros = 2.0 * (LARGEST - 1) / LARGEST * float(row["bytes"]) / float(row["value"]) / 1e3
        return _collective(device, "all_reduce", int(row["bytes"]), LARGEST, micros)
    sizes = [row[name] for name in ("m", "n", "k")]
    formats = {"bf16": "bf16", "fp16": "fp16", "fp8": "fp8_e4m3", "fp8_e4m3": "fp8_e4m3"}
    if row["kind"] != "gemm" or not all(sizes) or row["precision"] not in formats or row["unit"] != "TFLOP/s":
        return None
    m, n, k = (int(float(size)) for size in sizes)
    return {
        "device": device, "op": "gemm", "dtype_in": formats[row["precision"]], "dtype_out": "bf16", "m": str(m),
        "n": str(n), "k": str(k),
        "time_us": repr(2.0 * m * n * k / float(row["value"]) / 1e6),
    }  # fmt: skip


def _measured(row: Row) -> dict[str, str] | None:
    """Return a row that is one of a table of kernels already; products of FP8 come in BF16 unless it says otherwise."""
    cells = {name: row[name] for name in KERNELS if name != "row_id" and row.get(name)}
    return cells | ({"dtype_out": "bf16"} if row["dtype_in"] == "fp8_e4m3" else {})


def _collective(device: str, kind: str, size: int, ranks: int, micros: float) -> dict[str, str]:
    return {
        "device": device, "op": {"sendrecv": "send_recv"}.get(kind, kind), "dtype_in": "fp16", "bytes": str(size),
        "world_size": str(ranks), "gpus_per_node": str(LARGEST), "time_us": repr(micros), "kernel": "nccl",
    }  # fmt: skip


TABLES: Sequence[PublicTable] = (
    PublicTable("argonne", "truth3/argonne.csv", "argonne-lcf/LLM-Inference-Bench", cases=_offline_batch),
    PublicTable("aic", "published/aic_nccl_a100_h100_l40s_dev.csv", "ai-dynamo/aiconfigurator", kernels=_message),
    PublicTable("together", "truth3/together_nccl.csv", "togethercomputer/together-nccl-tests", kernels=_nccl_test),
    PublicTable("azure", "truth3/azure_sustained.csv", "Azure/AI-benchmarking-guide", kernels=_bus_bandwidth),
    *(
        PublicTable(key, f"truth3/measurements/{name}.csv", "zksainx/pipeweave", kernels=_measured)
        for key, name in (
            ("pw-h100", "H100_SXM__pipeweave_gemm_fp8"), ("pw-h200", "H200_SXM__pipeweave_gemm_fp8"),
            ("pw-h20", "H20__pipeweave_gemm_fp8"), ("pw-h800", "H800_SXM__pipeweave_gemm_fp8"),
            ("pw-nccl", "pipeweave_collective"),
        )
    ),
)  # fmt: skip
