"""How files are looked up: `kind/name` references, the search path, and `extends`."""

from __future__ import annotations

import difflib
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path

from costmodel.errors import InputError, Location, Problem, available, did_you_mean, kind_of, suggest
from costmodel.records import ValueRecord
from costmodel.schema.inputs import exists, is_file, yaml_names
from costmodel.schema.tree import KEPT, Tree, merge, without_aliases

FOLDERS: dict[str, str] = {
    **dict.fromkeys(
        ("devices", "nodes", "clusters", "topologies", "frameworks", "calibrations", "fit_plans", "anchors"), "hardware"
    ),
    **dict.fromkeys(
        ("models", "precisions", "systems", "published", "what_ifs", "levers", "studies", "validations"),
        "workloads",
    ),
}
"""Kind of file -> the folder of a search root that holds the folder of that kind."""
ALIASED = ("models",)  # kinds whose `aliases` can be referred to; those of devices are names in measurement tables

_KINDS = (
    "device", "node", "cluster", "framework", "precision", "calibration", "model", "workload", "case", "what_if",
    "fit_plan", "topology", "validation", "study", "anchor", "site_scatter",
    "kernel_anchors", "effects", "relatives", "lever",
)  # fmt: skip
_VERSIONS = {kind: f"costmodel/{kind}@1" for kind in _KINDS}
_LONGEST = 200  # characters of a part of a name: file systems take 255 with what follows it
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
WORKLOADS = "workloads"


@cache
def package_root() -> Path:
    """Return the folder that holds the shipped `hardware/` and `workloads/`: the wheel's data, else the checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "data"
    return shipped if shipped.is_dir() else package.parent


def folder_of(schema: str) -> str:
    """Return the folder of the files of a schema: `devices` for `device`."""
    return f"{schema[:-1]}ies" if schema.endswith("y") else f"{schema}s"


def is_name(text: str) -> bool:
    """Tell whether files can refer to a file of this name, without extension."""
    return "/" not in text and _NAME.fullmatch(text) is not None


class Library:
    """Finds files on the search path and reads each one once.

    search_path: folders that are searched before $COSTMODEL_PATH and the package's data.
    """

    def __init__(self, search_path: Sequence[str | Path] = ()) -> None:
        self.search_path = tuple(search_path)
        from_environment = [part for part in os.environ.get("COSTMODEL_PATH", "").split(os.pathsep) if part]
        self.roots = (*map(Path, (*search_path, *from_environment)), package_root())
        self._known: dict[tuple[str, str], Path] = {}
        self._implementations: frozenset[str] | None = None
        self._names: dict[str, list[str]] = {}
        self._real: dict[Path, Path] = {}
        self._trees: dict[Path, Tree] = {}
        self._extended: dict[Path, Tree] = {}

    def know(self, kind: str, name: str, path: Path) -> None:
        """Let a name mean a file that is not on the search path."""
        self._known[kind, name] = path

    def has(self, kind: str, name: str) -> bool:
        """Tell whether a file is there, without the search for similar names that an error message would make."""
        return self._path(kind, name) is not None

    def _path(self, kind: str, name: str) -> Path | None:
        if not _NAME.fullmatch(name) or max(map(len, name.split("/"))) > _LONGEST:
            return None
        paths = (self._folder(root, kind) / f"{name}.yaml" for root in self.roots)
        return next((path for path in paths if is_file(path)), self._known.get((kind, name)))

    def names(self, kind: str) -> list[str]:
        """Return the names of all files of a kind (a key of FOLDERS, or `workloads`), sorted."""
        if kind not in self._names:
            names = (self.names_in(root, kind) for root in self.roots)
            self._names[kind] = sorted(set(itertools.chain.from_iterable(names)))
        return list(self._names[kind])

    def names_in(self, root: Path, kind: str) -> set[str]:
        """Return the names of the files of a kind that one root of the search path holds."""
        return yaml_names(self._folder(root, kind), deep=kind != WORKLOADS)

    def find(self, reference: str, kind: str, *, origin: Location | None = None, field: str = "") -> Path:
        """Return the file of a reference: `./path` relative to the referring file, `kind/name` or `name`."""
        if reference.startswith("./"):
            return relative_path(reference, origin)
        name = reference.removeprefix(f"{kind}/")
        path = self._path(kind, name)
        if path is not None:
            return path
        path_of_alias = self._find_alias(name, kind, origin, field)
        if path_of_alias is not None:
            return path_of_alias
        folder = f"{FOLDERS.get(kind, '')}/{kind}".lstrip("/")
        searched = f"(searched --path, $COSTMODEL_PATH and the shipped data for {folder}/{name}.yaml)"
        hint = f"{_awaited(name, kind) or suggest(name, [*self.names(kind), *self.aliases(kind)])} {searched}"
        raise InputError.single(f"{kind}/{name} not found", hint=hint, field=field, location=origin)

    def aliases(self, kind: str) -> dict[str, list[Path]]:
        """Return alias of a file of a kind -> the files of the first root that claims it."""
        aliases: dict[str, list[Path]] = {}
        for root in self.roots if kind in ALIASED else ():
            of_root: dict[str, list[Path]] = {}
            for path in sorted(self._folder(root, kind) / f"{name}.yaml" for name in self.names_in(root, kind)):
                for alias in self._aliases_in(path):
                    of_root.setdefault(alias, []).append(path)
            aliases = of_root | aliases
        return aliases

    def implementations(self) -> frozenset[str]:
        """Return the names of all implementations that have a calibration of some device."""
        if self._implementations is None:
            names = (name.split("/") for name in self.names("calibrations"))
            self._implementations = frozenset(parts[1] for parts in names if len(parts) == 2)
        return self._implementations

    def clashes(self, path: Path, kind: str) -> Iterator[Problem]:
        """Yield the aliases of a file that are also the name or an alias of another file of its folder."""
        own = self._resolved(path)
        others = [other for other in sorted(path.parent.glob("*.yaml")) if self._resolved(other) != own]
        taken = {other.stem: other for other in others}
        for other in others if kind in ALIASED else ():
            taken.update(dict.fromkeys(self._aliases_in(other), other))
        for item in self._alias_items(path):
            if isinstance(item.value, str) and item.value in taken:
                yield Problem(
                    item.location, "aliases", f"{item.value!r} is also a name of {display_path(taken[item.value])}",
                    "remove it from one of them",
                )  # fmt: skip

    def _find_alias(self, name: str, kind: str, origin: Location | None, field: str) -> Path | None:
        """Return the file that has `name` as an alias. Raises InputError if two files of a root have it."""
        claims = self.aliases(kind).get(name, [])
        if len(claims) > 1:
            raise InputError.single(
                f"{name!r} is an alias of {' and of '.join(display_path(path) for path in claims)}",
                hint="remove it from one of them, or use another name", field=field, location=origin,
            )  # fmt: skip
        return claims[0] if claims else None

    def _aliases_in(self, path: Path) -> list[str]:
        """Return the aliases in a file. None of an unreadable file, whose error is reported where it is used."""
        try:
            return [item.value for item in self._alias_items(path) if isinstance(item.value, str)]
        except InputError:
            return []

    def _alias_items(self, path: Path) -> list[Tree]:
        aliases = self._tree(path).child("aliases")
        return aliases.value if aliases is not None and isinstance(aliases.value, list) else []

    def has_workload(self, argument: str | Path) -> bool:
        """Tell whether a name is that of a file under `workloads/`."""
        name = _workload_name(argument)
        return any(is_file(root / WORKLOADS / f"{name}.yaml") for root in self.roots)

    def find_workload(self, argument: str | Path) -> Path:
        """Return the file of a WORKLOAD argument: an existing path, else a name under `workloads/`."""
        text = os.fspath(argument)
        if exists(Path(text)):
            return Path(text)
        name = _workload_name(argument)
        for root in self.roots:
            path = root / WORKLOADS / f"{name}.yaml"
            if is_file(path):
                return path
        near = _awaited(name) or did_you_mean(name, (*self.names(WORKLOADS), *self.names("models")))
        hint = near or f"{available(self.names(WORKLOADS))}; models: `costmodel model list`"
        raise InputError.single(f"{text!r} is neither a file nor a known workload or model", hint=hint)

    def document(self, reference: Tree, kind: str, schema: str, field: str) -> Tree:
        """Return the document that a reference names, `extends` applied."""
        if not isinstance(reference.value, str):
            raise reference.error(
                f"must be the name of a file in {kind}/, not {kind_of(reference.value)}", available(self.names(kind)),
                field,
            )  # fmt: skip
        path = self.find(reference.value, kind, origin=reference.location, field=field)
        return self.read(path, schema)

    def named(self, name: str, kind: str, schema: str) -> Tree:
        """Return the document of a file, or of a name in the folder of its kind, `extends` applied."""
        path = Path(name)
        is_path = path.suffix in (".yaml", ".yml") and exists(path)
        return self.read(path, schema) if is_path else self.document(Tree(name), kind, schema, "")

    def read(self, path: Path, schema: str) -> Tree:
        """Return the document of a file of that schema (`device`, `node` …), `extends` applied."""
        key = self._resolved(path)
        if key not in self._extended:
            self._extended[key] = self.extend(self.read_unextended(path, schema), schema, (path,))
        return self._extended[key]

    def extend(self, tree: Tree, schema: str, chain: tuple[Path, ...] = ()) -> Tree:
        """Return `tree` merged over the document that its `extends` names, itself extended.

        chain: the files that extend each other down to `tree`.
        """
        base = tree.child("extends") if tree.is_mapping else None
        if base is None:
            return tree
        if not isinstance(base.value, str):
            raise base.error(f"must name one file, not {kind_of(base.value)}", field="extends")
        is_named_workload = schema == "workload" and not base.value.startswith("./")
        path = (
            self.find_workload(base.value)
            if is_named_workload
            else self.find(base.value, folder_of(schema), origin=base.location, field="extends")
        )
        if self._resolved(path) in map(self._resolved, chain):
            raise base.error(
                f"circular `extends`: {' -> '.join(link.stem for link in (*chain, path))}",
                "remove one of these `extends`", "extends",
            )  # fmt: skip
        extended_base = self.extend(self.read_unextended(path, schema), schema, (*chain, path))
        return _extended(extended_base, tree) if chain else merge(extended_base, tree.without("extends"))

    def read_unextended(self, path: Path, schema: str) -> Tree:
        """Return the document of a file of that schema as written, without what its `extends` adds."""
        actual = self.schema_of(path)
        if actual != schema:
            raise InputError.single(
                f"this is a {actual} file; a {schema} file is expected here", field="schema",
                hint=f"name a file with `schema: {_VERSIONS[schema]}`", location=Location(display_path(path)),
            )  # fmt: skip
        return self._tree(path)

    def schema_of(self, path: Path) -> str:
        """Return the kind that a file's `schema:` line states. Raises InputError if it is missing or unknown."""
        tree = self._tree(path)
        schema = tree.child("schema")
        if schema is None:
            misspelt = difflib.get_close_matches("schema", list(tree.value), n=1)
            hint = f"rename `{misspelt[0]}`" if misspelt else "add a `schema:` line at the top"
            raise tree.error(
                "the file has no `schema:` line", f"{hint}, as in `schema: {_VERSIONS['workload']}`", "schema"
            )
        kind = _kind_of_version(schema.value)
        if kind is None:
            raise schema.error(
                f"unknown schema {schema.value!r}", suggest(str(schema.value), list(_VERSIONS.values())), "schema"
            )
        return kind

    def _tree(self, path: Path) -> Tree:
        key = self._resolved(path)
        if key not in self._trees:
            from costmodel.schema.loader import read_tree  # YAML loads where a file is read

            self._trees[key] = _with_our_keys(read_tree(path, display_path(path)))
        return self._trees[key]

    def _resolved(self, path: Path) -> Path:
        if path not in self._real:
            self._real[path] = Path(os.path.realpath(path))  # itself where links go in a circle: reading says so
        return self._real[path]

    @staticmethod
    def _folder(root: Path, kind: str) -> Path:
        return root / WORKLOADS if kind == WORKLOADS else root / FOLDERS[kind] / kind


@lru_cache(maxsize=KEPT)
def _with_our_keys(tree: Tree) -> Tree:
    """Return the document of a file with our keys for aliases, one object for the same one."""
    return without_aliases(tree, _kind_of_version(tree.text("schema")) or "")


@lru_cache(maxsize=KEPT)
def _extended(base: Tree, tree: Tree) -> Tree:
    """Return a document merged over the one that it extends, one object for the same ones."""
    return merge(base, tree.without("extends"))


def _kind_of_version(version: object) -> str | None:
    """Return the kind of a `schema:` line's value, null for an unknown one."""
    return next((kind for kind, known in _VERSIONS.items() if known == version), None)


def _awaited(name: str, kind: str = "models") -> str:
    """Return what is known of a model that was not read, or of a format's other name, empty where nothing is."""
    from costmodel.schema.loader import read_tree  # few names are unknown

    path = Path(__file__).with_name("hugging_face") / "names.yaml"
    section = "formats" if kind == "precisions" else "awaited"
    known = (read_tree(path, path.name).child(section) or Tree({})).text(name.rpartition("/")[2].lower())
    if kind == "precisions":
        return f"did you mean {known}?" if known else ""
    return f"known by name alone ({known}): write the path of its config.json, or of its folder" if known else ""


def relative_path(reference: str, origin: Location | None) -> Path:
    """Return the path of a reference: relative to the file that it is in, else to the working folder."""
    return (Path(origin.source).parent if origin and origin.line else Path()) / reference


def display_path(path: Path) -> str:
    """Return a path for messages: relative to the working folder if it is inside."""
    try:
        return Path(os.path.realpath(path)).relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)


def as_reference(argument: str) -> str:
    """Return the reference that a command-line argument means: an existing file, else a name."""
    return f"./{os.path.relpath(argument)}" if os.path.isfile(argument) else argument


def kind_of_file(argument: str) -> str | None:
    """Return the folder of the kind of an existing file, such as `devices`. None where there is no file."""
    return folder_of(Library().schema_of(Path(argument))) if os.path.isfile(argument) else None


def _workload_name(argument: str | Path) -> str:
    """Return the name of a WORKLOAD argument, with or without folder and ending."""
    return os.fspath(argument).removeprefix("./").removeprefix(f"{WORKLOADS}/").removesuffix(".yaml")


# ---- The folders that the search path names: what each holds, and which of its files hide others ---------------------

KINDS = (*FOLDERS, WORKLOADS)
PARTS = tuple(dict.fromkeys([*FOLDERS.values(), WORKLOADS]))  # folders of a root
OPTION, VARIABLE, SHIPPED = "--path", "COSTMODEL_PATH", "shipped"


class Root(ValueRecord):
    """A folder of the search path.

    named_by: what names it.
    parts: those of `hardware` and `workloads` that it has.
    counts: files by kind.
    shadows: `kind/name` of its files that later roots have, too, and that are read from here.
    """

    path: Path
    named_by: str
    is_there: bool
    parts: tuple[str, ...]
    counts: Mapping[str, int]
    shadows: tuple[str, ...]

    @property
    def problem(self) -> Problem | None:
        """Return why nothing is in it, null where something is."""
        if self.parts:
            return None
        if self.named_by == SHIPPED:
            message = f"{self.path} holds no data: the installation is broken"
            return Problem(None, SHIPPED, message, "pip install --force-reinstall costmodel")
        if not self.is_there:
            message = "is no folder" if os.path.lexists(self.path) else "does not exist"
            hint = "create it, or name another one"
            return Problem(None, self.named_by, f"{self.path} {message}", hint)
        real = Path(os.path.realpath(self.path))
        hint = f"name {real.parent}" if real.name in PARTS else "name the folder that holds them"
        return Problem(None, self.named_by, f"{self.path} has neither hardware/ nor workloads/", hint)


def roots(search_path: Sequence[str | Path] = ()) -> tuple[Root, ...]:
    """Return the roots of the search path in the order in which files are looked for: the first one that has a file."""
    library = Library(search_path)
    names = [{kind: library.names_in(root, kind) for kind in KINDS} for root in library.roots]
    real = [os.path.realpath(root) for root in library.roots]
    listed = []
    for i, path in enumerate(library.roots):
        named_by = OPTION if i < len(search_path) else VARIABLE if i < len(library.roots) - 1 else SHIPPED
        later = [names[j] for j in range(i + 1, len(names)) if real[j] != real[i]]
        shadows = (
            f"{kind}/{name}"
            for kind in KINDS
            for name in sorted(names[i][kind])
            if any(name in other[kind] for other in later)
        )
        parts = tuple(part for part in PARTS if os.path.isdir(path / part))  # Path's raises where it may not look
        counts = {kind: len(names[i][kind]) for kind in KINDS}
        listed.append(Root(path, named_by, os.path.isdir(path), parts, counts, tuple(shadows)))
    return tuple(listed)
