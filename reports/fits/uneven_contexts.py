"""How much longer decoding attention takes over contexts of unequal length: `uneven_contexts` of frameworks/vllm.yaml.

python -m reports.fits.uneven_contexts MEASUREMENTS

Rows of two populations that decode in one call, over the fit of the same kernel with equal contexts on the same device:
    measured = scale * decode(sequences, mean context) * uneven_factor(longest / mean)        where no keys are split
Prints scale, load_rate and overlap_p, and the error by number of sequences, each number left out of the fit in turn.
`scale` belongs to the table, whose rows are of several calls, and is used nowhere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from costmodel.calibration.fit_files import FitStore, default_framework
from costmodel.calibration.fit_lookup import FitLookup
from costmodel.cost.machine import Machine
from costmodel.cost.uneven_contexts import filling_sequences, reads_whole_contexts, uneven_factor
from costmodel.measurements.row_group import Catalogue
from costmodel.measurements.row_mapping import map_rows
from costmodel.measurements.tables import join, read_tables
from costmodel.quantities import Array
from costmodel.records import Record, replace
from costmodel.schema.references import Library
from costmodel.workload.framework_parts import UnevenContexts
from costmodel.workload.operators import AttentionKernel, MixedAttention

FAMILY = "attention_decode_skewed"
IMPLEMENTATION = "fa2-vllm"  # of the same kernel with equal contexts
START = (1.0, 10.0, 2.0)  # scale, load_rate, overlap_p
SOFT = 0.05  # of a logarithm, from which on an error counts less than its square


class UnevenRows(Record):
    """Rows of two populations. seconds: measured; equal: of the fit with equal contexts [s]; sequences: of both; ratio:
    longest context over the mean; filling: sequences at a load rate of 1 B/cycle; whole: no keys are split.
    """

    seconds: Array
    equal: Array
    sequences: Array
    ratio: Array
    filling: Array
    whole: Array

    def predicted(self, parameters: Array) -> Array:
        """Return the times of the model. parameters: logarithms of scale, load_rate and overlap_p."""
        scale, load_rate, p = np.exp(parameters)
        factor = uneven_factor(self.filling / load_rate, self.sequences, self.ratio, p)
        return np.asarray(scale * self.equal * np.where(self.whole, factor, 1.0))

    def errors(self, parameters: Array) -> Array:
        """Return logarithms of predicted over measured times."""
        return np.log(self.predicted(parameters) / self.seconds)

    def fit(self, used: Array) -> Array:
        """Return the parameters that fit the used rows best."""
        found = least_squares(lambda x: self.errors(x)[used], np.log(START), loss="soft_l1", f_scale=SOFT)
        return np.asarray(found.x)


def uneven_rows(paths: Sequence[Path]) -> UnevenRows:
    """Return the rows of all tables."""
    catalogue, table = Catalogue(), join([read_tables(path) for path in paths])
    mapped, _ = map_rows(table.take(table.text("op") == FAMILY), catalogue)
    store = FitStore(Library(()))
    parts = []
    for one in mapped:
        operator = one.operators[0]
        assert isinstance(operator, MixedAttention)
        fit = FitLookup(store, one.device.name, {"attention_decode": (IMPLEMENTATION,)})[
            f"attention_decode/{operator.dtype}"
        ]
        assert fit.form is not None
        machine = Machine(one.device, default_framework(), one.device.processors)
        equal, longest = equal_contexts(operator)
        seconds = fit.fitted_time(fit.form, equal, machine).seconds
        filling = filling_sequences(equal, machine, UnevenContexts(1.0, 1.0))
        whole = reads_whole_contexts(equal, fit.form, machine)
        rows = (table.take(table.text("op") == FAMILY).seconds[one.rows], seconds, equal.sequences,
                longest / equal.kv_len, filling, whole)  # fmt: skip
        parts.append([np.broadcast_to(np.asarray(each), one.rows.shape) for each in rows])
    return UnevenRows(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def equal_contexts(operator: MixedAttention) -> tuple[AttentionKernel, Array]:
    """Return a kernel with as many sequences and keys, equally long, and the longest context."""
    first, second = operator.parts
    sequences = first.sequences + second.sequences
    keys = (first.sequences * first.kv_len + second.sequences * second.kv_len) / sequences
    equal = replace(first, sequences=sequences, kv_len=keys, qk_pairs=keys * first.q_len, traffic=operator.traffic)
    return equal, np.maximum(first.kv_len, second.kv_len)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the parameters, and the errors of rows that the fit did not see."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.uneven_contexts", description=main.__doc__)
    parser.add_argument("measurements", type=Path, nargs="+", help="measurement tables, or folders of them")
    rows = uneven_rows(parser.parse_args(arguments).measurements)
    found = rows.fit(np.full(len(rows.seconds), fill_value=True))
    scale, load_rate, p = np.exp(found)
    sys.stdout.write(f"scale {scale:.4g}, load_rate {load_rate:.4g} B/cycle, overlap_p {p:.4g}\n")
    for number in np.unique(rows.sequences):
        own = rows.sequences == number
        left_out, error = rows.errors(rows.fit(~own))[own], rows.errors(found)[own]
        without = np.log(scale * rows.equal / rows.seconds)[own]
        sys.stdout.write(
            f"{number:4.0f} sequences, {own.sum():3d} rows: {np.abs(error).mean():.1%}, left out "
            f"{np.abs(left_out).mean():.1%}, with equal contexts {np.abs(without).mean():.1%}\n"
        )


if __name__ == "__main__":
    main()
