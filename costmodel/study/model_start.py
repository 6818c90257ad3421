"""The smallest workload of a model on a cluster: a layout that fits, and round lengths, said in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from costmodel.api import load
from costmodel.errors import InputError, LayoutError
from costmodel.quantities import is_single
from costmodel.result import Point
from costmodel.schema.files import load_cluster, read_model
from costmodel.schema.loader import parse_tree
from costmodel.schema.model_names import model_reference
from costmodel.schema.tree import Tree
from costmodel.workload.counting import parameter_count

PHASES = ("prefill", "decode", "generate", "serving", "training")
DEFAULT_PHASES = ("prefill", "decode")
_REQUESTS, _INPUT, _OUTPUT = 32, 1024, 1024
_SEQUENCE, _BATCHES = 4096, 8  # of training: tokens of a sequence, and sequences of a step on each replica
_MOST_NODES = 8
_LEAST_BYTES = 0.5  # of a stored weight: layouts that cannot hold even these are not tried


@dataclass(frozen=True, slots=True, eq=False)
class ModelStart:
    """A workload as text, and what was assumed for it in one line."""

    text: str
    line: str
    name: str

    @property
    def file(self) -> str:
        """Return the file that a user may write it to."""
        return f"{Path(self.name).stem if Path(self.name).is_file() else Path(self.name).name}.yaml"

    @property
    def tree(self) -> Tree:
        """Return the workload as a document."""
        return parse_tree(self.text, f"workload of {self.name.replace('/', '--')}")  # no folder: paths start here


def start_workload(
    model: str, cluster: str, phases: Sequence[str] = (), search_path: Sequence[str | Path] = ()
) -> ModelStart:
    """Return the smallest workload of a model on a cluster; raise InputError where one of them is unknown.

    The layout has the fewest devices whose memory holds the model and the requests of the first phase: tensor parallel
    in a node, then pipeline stages over nodes; if none does, the largest.
    """
    chosen = tuple(phases) or DEFAULT_PHASES
    unknown = next((phase for phase in chosen if phase not in PHASES), None)
    if unknown is not None:
        raise InputError.single(f"unknown phase {unknown!r}", hint=f"write one of {', '.join(PHASES)}", field="--phase")
    reference = model_reference(model)
    named = f"{{hf: {reference}}}" if reference != model else f"models/{model.removeprefix('models/')}"
    best: ModelStart | None = None
    for tp, pp in _layouts(model, cluster, search_path):
        best = _workload((named, cluster, model), chosen, tp, pp)
        try:
            loaded = load(best.tree, search_path=search_path, scenarios=chosen[:1])
        except LayoutError:
            continue  # heads or experts do not divide
        if all(_holds(point) for point in loaded.points().values()):
            return best
    if best is None:
        raise InputError.single(f"{cluster} has no device for {model}", hint="name another cluster", field="--cluster")
    return best


def _holds(point: Point) -> bool:
    """Tell whether the model and all its requests fit at once: an engine that serves lets others wait."""
    at_once = point.metrics.get("max_concurrency")
    return point.fits and (at_once is None or at_once >= _REQUESTS)


def _layouts(model: str, cluster: str, search_path: Sequence[str | Path]) -> Iterator[tuple[int, int]]:
    """Yield (tp, pp), the fewest devices first: powers of two within a node, then whole nodes."""
    of = load_cluster(cluster, search_path)
    node, device = of.node, of.node.device
    count = int(node.count) if is_single(node.count) else 1
    nodes = _MOST_NODES if of.network is None else max(int(of.devices) // count, 1)
    weights = float(parameter_count(read_model(model, search_path).architecture).total) * _LEAST_BYTES
    capacity = float(device.device_memory.capacity)
    sizes = [(tp, 1) for tp in (1, 2, 4, 8, 16, 32, 64) if tp <= count]
    sizes += [(sizes[-1][0], pp) for pp in (2, 4, 8) if pp <= nodes]
    for at, (tp, pp) in enumerate(sizes):
        if weights / (tp * pp) <= capacity or at == len(sizes) - 1:
            yield tp, pp


def _workload(of: tuple[str, str, str], phases: Sequence[str], tp: int, pp: int) -> ModelStart:
    """Return the text of a workload. of: the model's reference, the cluster, and the model as it was asked for."""
    named, cluster, model = of
    layout = f"{{tp: {tp}}}" if pp == 1 else f"{{tp: {tp}, pp: {pp}}}"
    lines = [
        "# The smallest workload of this model: every other key has its default (docs/formats.md).",
        "schema: costmodel/workload@1",
        f"model: {named}",
        "scenarios:",
    ]
    for phase in phases:
        lines += [f"  {phase}:", f"    phase: {phase}", f"    cluster: {cluster}"]
        lines += [f"    parallel: {layout:<30} # the fewest devices that hold it, or all"]
        lines += [f"    framework: {_framework(phase)}"]
        lines += [f"    {line}" for line in _work(phase, tp)]
    told = "; ".join(_told(phase) for phase in phases)
    devices = f"{tp * pp} device{'' if tp * pp == 1 else 's'}"
    return ModelStart("\n".join(lines) + "\n", f"{model} on {devices} of {cluster} (tp {tp}, pp {pp}): {told}", model)


def _framework(phase: str) -> str:
    """Return the program that a phase is taken to run under."""
    return "megatron" if phase == "training" else "vllm"


def _work(phase: str, tp: int) -> list[str]:
    """Return the keys of a phase. tp: devices that share each request; stages of a pipeline pass requests on."""
    lengths = [f"input_tokens: {_INPUT}", f"output_tokens: {_OUTPUT}"]
    if phase == "prefill":
        prompt = [f"input_tokens: {_INPUT}"]
        return [*prompt, f"tokens_per_device: {_INPUT / tp:g}                  # one prompt at a time"]
    if phase == "decode":
        batch = f"batch_per_device: {_REQUESTS / tp:g}"
        return [f"{batch:<40} # {_REQUESTS} requests in flight", *lengths]
    if phase == "generate":
        return [f"batch: {_REQUESTS}", *lengths]
    if phase == "serving":
        return [f"concurrency: {_REQUESTS}", *lengths]
    return [f"global_batch: {_BATCHES}", f"sequence: {_SEQUENCE}", "optimizer: {zero: 1}"]


def _told(phase: str) -> str:
    """Return what is assumed of a phase, for people."""
    if phase == "prefill":
        return f"prefill of one prompt of {_INPUT:,} tokens"
    if phase == "training":
        return f"training on {_BATCHES} sequences of {_SEQUENCE:,} tokens a step under {_framework(phase)}"
    return f"{phase} of {_REQUESTS} requests, {_INPUT:,} tokens in and {_OUTPUT:,} out, under {_framework(phase)}"
