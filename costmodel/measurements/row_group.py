"""Rows that share everything but their sizes, and the hardware that they ran on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from costmodel.cost.time import Machine
from costmodel.errors import InputError, suggest
from costmodel.hardware import Cluster, Device, Node
from costmodel.measurements.tables import Table
from costmodel.quantities import Array, Bytes, Count, Indices, Mask
from costmodel.records import Record, field
from costmodel.schema.files import (
    list_names,
    load_device,
    load_document,
    load_framework,
    load_model,
    load_node,
    load_precision,
    load_tuned_tiles,
)
from costmodel.workload.architecture import Architecture
from costmodel.workload.dtypes import ELEMENT_BYTES, element_bytes
from costmodel.workload.framework_parts import NOTHING_TUNED, TunedTiles
from costmodel.workload.operators import AttentionKernel, Operator
from costmodel.workload.scenario import Framework, Precision


class Unmapped(Exception):
    """Says why some rows are left out of a comparison, not an error of the table."""


class Format(Record):
    """How a table's number format is computed with and stored.

    unit: the device's math unit.
    left, right: bytes of an element of activations and of weights, scales included.
    block_scaled: a scale for every block of elements.
    """

    unit: str
    left: Bytes
    right: Bytes
    block_scaled: bool = False


_BLOCK = 128  # the tables' schema: 1 x 128 activation tiles and 128 x 128 weight blocks carry one scale
_E8M0, _MX_BLOCK = 1.0, 32.0  # OCP Microscaling Formats specification v1.0, section 5.2: a scale for 32 elements
_INT4_GROUP = 128.0  # AutoGPTQ and compressed-tensors: weights of one group share a 16-bit scale
_FLASHMLA_TOKEN = 656  # the tables' schema: bytes of a token in FlashMLA's FP8 cache …
_FLASHMLA_WIDTH = 576  # … which holds this many elements
FORMATS = {
    **{name: Format(name, width, width) for name, width in ELEMENT_BYTES.items()},
    "fp8_e4m3": Format("fp8", 1.0, 1.0),
    "fp8_e4m3_blk128": Format(
        "fp8", element_bytes("fp8", _BLOCK), element_bytes("fp8", _BLOCK * _BLOCK), block_scaled=True
    ),
    "int8_smoothquant": Format("int8", 1.0, 1.0),
    "nvfp4": Format("fp4", ELEMENT_BYTES["nvfp4"], ELEMENT_BYTES["nvfp4"]),
    "w4a8_mxfp4_mxfp8": Format(
        "fp8", element_bytes("fp8") + _E8M0 / _MX_BLOCK, ELEMENT_BYTES["mxfp4"], block_scaled=True
    ),
    "w4a16_mxfp4": Format("bf16", ELEMENT_BYTES["bf16"], ELEMENT_BYTES["mxfp4"]),
    "w4a16": Format("bf16", ELEMENT_BYTES["bf16"], ELEMENT_BYTES["int4"] + ELEMENT_BYTES["bf16"] / _INT4_GROUP),
    "fp8_656B": Format("fp8", _FLASHMLA_TOKEN / _FLASHMLA_WIDTH, 1.0),
}
"""Number formats as tables spell them."""


class BlankCells(Exception):
    """Rows lack a value that their operation cannot do without. rows: mask of these, of a group."""

    def __init__(self, column: str, rows: Mask) -> None:
        super().__init__(f"`{column}` is empty, which the operation needs")
        self.column, self.rows = column, rows


class RowGroup(Record):
    """Rows of one device, operation, kernel and set of number formats. Their sizes are arrays.

    rows: at least one.
    """

    rows: Table
    device: Device
    catalogue: Catalogue

    def text(self, column: str) -> str:
        """Return the text that all rows share in a column."""
        return str(self.rows.text(column)[0])

    def number(self, column: str) -> Array:
        """Return a column that the operation cannot do without. Raise BlankCells where rows lack it."""
        values = self.rows.number(column)
        if np.isnan(values).any():
            raise BlankCells(column, np.isnan(values))
        return values

    def format(self, column: str, *, default: str = "bf16") -> Format:
        """Return a column's number format. Raise Unmapped where the package has none."""
        name = self.text(column) or default
        if name not in FORMATS:
            raise Unmapped(f"number format {name} is unknown; {suggest(name, tuple(FORMATS))}")
        return FORMATS[name]

    def compute_format(self) -> Format:
        """Return the format of the products. Raise Unmapped where the device has no unit for it."""
        format_in = self.format("dtype_in")
        if format_in.unit not in self.device.math:
            raise Unmapped(f"{self.device.name} has no {format_in.unit} unit")
        return format_in

    @property
    def program(self) -> Framework | None:
        """Return the framework that the rows are of, null where no file has it."""
        return self.catalogue.program(self.text("framework"))

    @property
    def expands_weights(self) -> bool:
        """Tell whether weights are narrower than what they are multiplied as."""
        formats = self.format("dtype_in")
        return bool(formats.right < ELEMENT_BYTES[formats.unit])

    @property
    def includes(self) -> frozenset[str]:
        """Return what the timed call holds, as the column `includes` lists it, nothing where it is blank."""
        return frozenset(filter(None, (each.strip() for each in self.text("includes").split(","))))

    @property
    def says(self) -> str:
        """Return what the tables say of the kernel next to its name."""
        return f"{self.text('kernel')}; {self.text('notes')}"


class OperatorRows(Record):
    """Rows of a table and what they ran, as the package's operators.

    rows: positions in the table.
    fused: operators that are launched together with another one, so that their launch does not count.
    cluster: where communication ran.
    warm: the timed call ran over and over on the same operands.
    held: processors that communication ran on.
    program: whose kernels a simulation has for them, null where the row names the one that it timed.
    """

    family: str
    rows: Indices
    device: Device
    operators: tuple[Operator, ...]
    fused: int = 0
    cluster: Cluster | None = None
    warm_l2: bool = False
    comm_processors: Count = 0.0
    program: Framework | None = None

    @property
    def named(self) -> Operator:
        """Return the operator that a row is named after, of a module its attention core."""
        own = (each for each in self.operators if each.family == self.family)
        cores = [] if self.program is None else [each for each in self.operators if isinstance(each, AttentionKernel)]
        return next(own, cores[-1] if cores else self.operators[0])

    def machine(self, framework: Framework) -> Machine:
        """Return what the kernels ran on: the whole device but what communication held."""
        return Machine(
            self.device, framework, self.device.processors - self.comm_processors, self.warm_l2, self.cluster
        )


class ExcludedRows(Record):
    """Rows that a comparison does not use, and why. repeats: the earlier row that a row repeats."""

    op: str
    reason: str
    rows: Indices
    repeats: Mapping[int, int] = field(default_factory=dict)


class Catalogue:
    """The device files by the names that measurement tables use, and the nodes of each device.

    only: devices, without their nodes. Null: all.
    """

    def __init__(self, search_path: Sequence[str | Path] = (), only: Sequence[str] | None = None) -> None:
        self._devices: dict[str, Device] = {}
        self._siblings: dict[str, str | None] = {}
        for name in list_names("devices", search_path) if only is None else only:
            device = load_device(name, search_path)
            document = load_document("devices", name, search_path)
            aliases: list[str] = document["aliases"]
            self._devices |= dict.fromkeys((name, *aliases), device)
            self._siblings[device.name] = (document.get("calibration") or {}).get("inherit")
        names = list_names("nodes", search_path) if only is None else ()
        nodes = [load_node(name, search_path) for name in names]
        self._search_path, self._frameworks = search_path, list_names("frameworks", search_path)
        self._programs: dict[str, Framework] = {}
        self._models: dict[str, Architecture] = {}
        self._tuned: dict[tuple[str, str], TunedTiles] = {}
        self._nodes: dict[str, list[Node]] = {}
        for node in sorted(nodes, key=lambda node: float(node.count)):
            self._nodes.setdefault(node.device.name, []).append(node)

    def device(self, alias: str) -> Device:
        """Return the device that a table calls `alias`. Raise Unmapped where no file has that name."""
        if alias not in self._devices:
            raise Unmapped(f"no device file is named or aliased {alias}")
        return self._devices[alias]

    def name(self, alias: str) -> str:
        """Return the name of the device file that a table calls `alias`. The alias itself where there is none."""
        return self._devices[alias].name if alias in self._devices else alias

    def known(self, alias: str) -> str | None:
        """Return the name of the device file that is named or aliased `alias`. None where there is none."""
        return self._devices[alias].name if alias in self._devices else None

    def inherits(self, device: str) -> str | None:
        """Return the device whose fits stand in where a device has none, none where its file names none."""
        return self._siblings.get(device)

    def nodes(self, device: Device) -> tuple[Node, ...]:
        """Return the nodes of a device, the smallest first."""
        return tuple(self._nodes.get(device.name, ()))

    def tuned_tiles(self, framework: str, device: Device) -> TunedTiles:
        """Return the layers of experts whose tiles a framework, as a table states it, ships tuned on a device."""
        engine = self._engine(framework)
        if not engine:
            return NOTHING_TUNED
        key = engine, device.name
        if key not in self._tuned:
            self._tuned[key] = load_tuned_tiles(*key, self._search_path)
        return self._tuned[key]

    def program(self, framework: str) -> Framework | None:
        """Return a framework as a table states it, null where no file has it."""
        engine = self._engine(framework)
        if engine and engine not in self._programs:
            self._programs[engine] = load_framework(engine, self._search_path)
        return self._programs.get(engine)

    def model(self, name: str) -> Architecture:
        """Return a model by its name here or on a hub. Raise Unmapped where the catalogue has none."""
        if name not in self._models:
            try:
                self._models[name] = load_model(name, self._search_path)
            except InputError as error:
                raise Unmapped(f"model {name or 'without a name'}: {error.problems[0].message}") from None
        return self._models[name]

    def precision(self, name: str) -> Precision:
        """Return the number formats of a precision file."""
        return load_precision(name, self._search_path)

    def _engine(self, framework: str) -> str:
        """Return the longest name of a framework file that stands in `vllm 0.24.0`, say, blank where none does."""
        said = framework.lower().replace("-", "")
        return max((name for name in self._frameworks if name.replace("-", "") in said), key=len, default="")
