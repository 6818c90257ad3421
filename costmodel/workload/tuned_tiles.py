"""The layers of experts for which an engine ships tiles that were tuned on the device."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from costmodel.quantities import Count, Quantity, is_single
from costmodel.records import Record, field

_ALIKE = {"fp16": "bf16"}  # engines look up 16-bit formats under one name


class TunedTiles(Record):
    """Layers with tuned tiles on one device: number format of the products -> experts on a rank -> their widths."""

    layers: Mapping[str, Mapping[int, tuple[int, ...]]] = field(default_factory=dict)

    def of(self, experts: Count, width: Count, variant: str) -> Quantity:
        """Return one where tiles were tuned for a layer, else zero.

        experts: on a rank.
        width: of an expert's intermediate activations there.
        variant: of the products.
        """
        known = self.layers.get(_ALIKE.get(variant, variant), {})
        if is_single(experts) and is_single(width):
            return float(width in known.get(experts, ()))  # type: ignore[call-overload]
        tuned = np.zeros(np.broadcast_shapes(np.shape(experts), np.shape(width)))
        for count, widths in known.items():
            tuned[np.broadcast_to(np.equal(experts, count) & np.isin(width, widths), tuned.shape)] = 1.0
        return tuned


NOTHING_TUNED = TunedTiles()
