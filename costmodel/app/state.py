"""What a page asks: up to three scenarios, each as fields of a form and as keys of an address that can be shared."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from urllib.parse import urlencode

from costmodel.api import load
from costmodel.errors import InputError, Location
from costmodel.records import ValueRecord
from costmodel.schema.loader import parse_tree
from costmodel.schema.references import Library
from costmodel.schema.strict import file_models
from costmodel.schema.tree import Tree
from costmodel.schema.workload import PHASES
from costmodel.workload.plans import SETS
from costmodel.workload.schedules.catalogue import SCHEDULES

INFERENCE = ("decode", "generate", "serving")
PRECISIONS, FRAMEWORKS = "precisions", "frameworks"  # kinds of files whose names are the choices
ZERO_STAGES = ("0", "1", "2", "3")


class Control(ValueRecord):
    """One key of a scenario.

    path: as `--set` takes it behind `scenarios.NAME.`.
    unit: what a plain number counts, blank of names.
    phases: that have it, blank for all.
    choices: its values, or the kind of files whose names these are, blank where it is a number.
    """

    path: str
    label: str
    unit: str = ""
    phases: tuple[str, ...] = ()
    choices: tuple[str, ...] | str = ()

    def is_of(self, phase: str) -> bool:
        """Tell whether a phase has it."""
        return not self.phases or phase in self.phases

    @property
    def meaning(self) -> str:
        """Return what the file's key means, as docs/formats.md says it."""
        return _meaning((self.phases or tuple(PHASES))[0], self.path)


@cache
def _meaning(phase: str, path: str) -> str:
    models, meaning = [PHASES[phase]], ""
    for part in path.split("."):
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        meaning = next((field.description or "" for field in fields), "")
        models = [model for field in fields for model in file_models(field.annotation)]  # type: ignore[misc]
    return meaning


GROUPS: dict[str, tuple[Control, ...]] = {
    "Load": (
        Control("rate", "arrivals", "requests/s, as 8 /s", ("serving",)),
        Control("concurrency", "in flight", "requests", ("serving",)),
        Control("batch_per_device", "batch", "requests per device", ("decode",)),
        Control("batch", "batch", "requests", ("generate",)),
        Control("tokens_per_device", "prompts in flight", "tokens per device", ("prefill",)),
        Control("input_tokens", "prompt", "tokens", ("prefill", *INFERENCE)),
        Control("output_tokens", "answer", "tokens", INFERENCE),
        Control("global_batch", "batch", "sequences per step", ("training",)),
        Control("sequence", "sequence", "tokens", ("training",)),
        Control("micro_batch", "micro-batch", "sequences", ("training",)),
        Control("batch", "batch", "images or videos", ("diffusion",)),
        Control("height", "height", "pixels", ("diffusion",)),
        Control("width", "width", "pixels", ("diffusion",)),
        Control("frames", "frames", "per video", ("diffusion",)),
        Control("steps", "steps", "of denoising", ("diffusion",)),
    ),
    "Layout": (
        Control("parallel.tp", "tensor", "devices"),
        Control("parallel.pp", "pipeline", "stages"),
        Control("parallel.dp", "data", "copies"),
        Control("parallel.ep", "experts", "devices"),
        Control("parallel.cp", "context", "devices"),
        Control("micro_batches", "overlapped", "micro-batches", ("prefill", *INFERENCE)),
        Control("schedule", "schedule", "", ("training",), tuple(SCHEDULES)),
        Control("recompute", "recomputed", "", ("training",), tuple(SETS)),
        Control("optimizer.zero", "ZeRO", "stage", ("training",), ZERO_STAGES),
    ),
    "Program": (
        Control("precision", "formats", "", (), PRECISIONS),
        Control("framework", "framework", "", (), FRAMEWORKS),
    ),
}
CONTROLS = tuple(control for group in GROUPS.values() for control in group)
PATHS = tuple(dict.fromkeys(control.path for control in CONTROLS))


PREFIXES = ("", "b.", "c.")  # of the keys of each scenario
LONGEST, LONGEST_TEXT = 200, 4000  # characters of a field, and of one of several lines
MOST_LINES = 40  # of further settings
_TEXTS = ("set", "anchor.at")
_KEYS = ("of", "on", "run", "anchor.metric", "anchor.value", *_TEXTS, *PATHS)
_FILE = re.compile(
    r"^(\.{1,2}/|/|~)|\.\.|\\|\.(ya?ml|json|jsonl|csv|txt|gz|parquet)$", re.IGNORECASE
)  # what leads to a file


class State(ValueRecord):
    """One scenario of a page.

    of: model or workload, on: cluster, blank for the workload's own, run: phase of a model or scenario of a workload.
    values: path of a control -> text.
    levers: names of switches of the paper's levers that are on.
    anchor: metric, value and settings of a measured run, blank without one.
    more: further settings, `PATH=VALUE` on each line.
    """

    of: str = "llama-3-70b"
    on: str = "nodes/dgx-h100"
    run: str = "decode"
    values: tuple[tuple[str, str], ...] = ()
    levers: tuple[str, ...] = ()
    anchor: tuple[str, str, str] = ("", "", "")
    more: str = ""

    def pairs(self, prefix: str = "") -> list[tuple[str, str]]:
        """Return keys and values of an address that asks for it."""
        metric, value, at = self.anchor
        own = [("of", self.of), ("on", self.on), ("run", self.run), *self.values, *(("lever", n) for n in self.levers)]
        anchor = [("anchor.metric", metric), ("anchor.value", value), ("anchor.at", at)] if value else []
        named = {"of", "on", "run"}
        return [(prefix + key, text) for key, text in [*own, *anchor, ("set", self.more)] if text or key in named]

    def changes(self) -> dict[str, object]:
        """Return the settings as `--set` takes them, path -> text. Raises InputError on one that names a file."""
        changes: dict[str, object] = {f"scenarios.{self.run}.{path}": text for path, text in self.values}
        changes |= dict(_lines(self.more, "set"))
        metric, value, at = self.anchor
        if value:
            settings = ", ".join(f"{path}: {text}" for path, text in _lines(at, "anchor.at"))
            changes[f"scenarios.{self.run}.anchor"] = f"{{metric: {metric}, value: {value}, set: {{{settings}}}}}"
        for path, text in changes.items():
            _check(str(text), path)
        return changes

    def command(self, changes: Mapping[str, object], *, is_model: bool) -> str:
        """Return the command that gives the same answer."""
        words = [self.of, *(["--cluster", self.on] if self.on else [])]
        words += ["--phase" if is_model else "--scenario", self.run]
        for path, value in changes.items():
            words += ["--set", f"{path}={value}"]
        return f"costmodel simulate {shlex.join(words)}"


def _lines(text: str, key: str) -> Iterator[tuple[str, str]]:
    """Yield path and value of each line of further settings."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > MOST_LINES:
        raise InputError.single(f"has {len(lines)} lines", hint=f"write at most {MOST_LINES}", field=key)
    for line in lines:
        path, separator, value = (part.strip() for part in line.partition("="))
        if not path or not separator:
            raise InputError.single(f"{line!r} is no setting", hint="write PATH=VALUE on each line", field=key)
        yield path, value


def _check(text: str, path: str) -> None:
    """Raise InputError where a setting names a file: pages read none but the catalogue's."""
    tree = parse_tree(text, path, label=Location(f"--set {path}={text}"))
    if any(_FILE.search(word) for word in _words(tree)):
        message, hint = "names a file, which a page does not read", "choose from the catalogue"
        raise InputError.single(message, hint=hint, field=path, location=tree.location)


def _words(tree: Tree) -> Iterator[str]:
    """Yield all text of a document. The key of a file of Hugging Face counts as one."""
    if isinstance(tree.value, dict):
        for key, item in tree.value.items():
            yield "./" if key == "hf" else str(key)
            yield from _words(item)
    elif isinstance(tree.value, list):
        for item in tree.value:
            yield from _words(item)
    elif isinstance(tree.value, str):
        yield tree.value.strip()


def read_states(pairs: Iterable[tuple[str, str]]) -> list[State]:
    """Return the scenarios that an address asks for, at least one. Raises InputError on an unknown key."""
    fields: dict[str, dict[str, list[str]]] = {}
    for key, text in pairs:
        prefix = next((each for each in PREFIXES[1:] if key.startswith(each)), "")
        name = key.removeprefix(prefix)
        if name not in _KEYS and name != "lever":
            raise InputError.single(f"no field is named {key!r}", hint="open the page anew", field=key)
        if len(text) > (LONGEST_TEXT if name in _TEXTS else LONGEST):
            raise InputError.single(f"has {len(text)} characters", hint="write fewer", field=key)
        fields.setdefault(prefix, {}).setdefault(name, []).append(text.strip())
    return [_state(fields[prefix]) for prefix in PREFIXES if prefix in fields] or [State()]


def _state(fields: Mapping[str, Sequence[str]]) -> State:
    first = {key: texts[0] for key, texts in fields.items()}
    usual = State()
    return State(
        of=first.get("of", usual.of), on=first.get("on", "" if "of" in first else usual.on),
        run=first.get("run", usual.run), values=tuple((path, first[path]) for path in PATHS if first.get(path)),
        levers=tuple(dict.fromkeys(fields.get("lever", ()))),
        anchor=(first.get("anchor.metric", ""), first.get("anchor.value", ""), first.get("anchor.at", "")),
        more=first.get("set", ""),
    )  # fmt: skip


def address(states: Sequence[State]) -> str:
    """Return the query of an address that asks for the same scenarios."""
    return urlencode([pair for prefix, one in zip(PREFIXES, states, strict=False) for pair in one.pairs(prefix)])


def of_names(names: Sequence[str], library: Library) -> list[State]:
    """Return the scenarios to begin with: models as usual, the first scenario of workloads. Raises InputError."""
    if len(names) > len(PREFIXES):
        raise InputError.single(f"shows {len(PREFIXES)} scenarios at most", hint="name fewer", field=names[-1])
    states = []
    for name in names:
        if name in library.names("workloads"):
            states.append(State(of=name, on="", run=load(name, search_path=library.search_path).scenarios[0]))
        else:
            states.append(State(of=name))
        check_names(states[-1], library)
    return states


def check_names(state: State, library: Library) -> bool:
    """Tell whether a scenario is of a model, not a workload. Raises InputError on a name that the catalogue lacks."""
    is_model = state.of in library.names("models")
    if not is_model and state.of not in library.names("workloads"):
        raise InputError.single(f"no model or workload is named {state.of!r}", hint="choose one", field="of")
    kind, _, name = state.on.partition("/")
    if state.on and (kind not in ("nodes", "clusters") or name not in library.names(kind)):
        raise InputError.single(f"no cluster is named {state.on!r}", hint="choose one", field="on")
    if is_model and not state.on:
        raise InputError.single("a model runs on a cluster", hint="choose one", field="on")
    return is_model
