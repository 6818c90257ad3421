"""What an engine's host takes to start a kernel where no CUDA graph holds it: `eager_prompts.operator` of frameworks.

python -m reports.fits.eager_host MEASUREMENTS

SGLang's attention modules of prompts, timed call by call (`eager_loop`), take as long for one token as for hundreds:
their time is the host's. The modules have the operators that the model counts for them (two norms, two products of
the latents and the one behind attention, rotation, cache, keys and values in one piece, the core; in FP8 a cast
before each product). Prints the median of rows of few tokens for an operator, by device and format, and the means
on x86 hosts and on Grace.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median

from reports.page import read_rows

MODULES = "sglang_dsa_dense_mha"  # kernels whose names begin so
OPERATORS = {"bf16": 9, "fp8_e4m3_blk128": 12}
GRACE = ("GB200", "GB300")  # whose hosts are Arm's
TOKENS = 128  # of a call at most, which a device computes in a tenth of the host's time


def floors(folder: Path) -> dict[tuple[str, str], float]:
    """Return the host's microseconds for an operator, by device and format of products."""
    modules = {row["meta_id"] for row in read_rows(folder / "meta.csv") if row["kernel"].startswith(MODULES)}
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for file in sorted((folder / "calibration").glob("*__aic2_dsa_module_prefill.csv")):
        for row in read_rows(file):
            if row["meta_id"] in modules and float(row["q_len"]) * float(row["batch"]) <= TOKENS:
                times[row["device"], row["gemm_type"]].append(float(row["time_us"]))
    return {key: median(each) / OPERATORS[key[1]] for key, each in times.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the times."""
    (folder,) = sys.argv[1:] if arguments is None else arguments
    found = floors(Path(folder))
    for (device, form), each in sorted(found.items()):
        sys.stdout.write(f"{device:<12}{form:<18}{each:6.1f} us\n")
    for name, chosen in (("x86", [key for key in found if key[0] not in GRACE]), ("Grace", GRACE)):
        keys = [key for key in found if key in chosen or key[0] in chosen]
        sys.stdout.write(f"mean {name} {fmean(found[key] for key in keys):.1f} us\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
