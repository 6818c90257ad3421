"""Where files are found: `kind/name` references, the search path, and `extends`."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from costmodel.errors import InputError, Location, Problem
from costmodel.schema.loader import kind_of, read_tree
from costmodel.schema.tree import Tree, merge

FOLDERS: dict[str, str] = {
    **dict.fromkeys(
        ("devices", "nodes", "clusters", "topologies", "frameworks", "calibrations", "fit_plans"), "hardware"
    ),
    **dict.fromkeys(
        ("models", "precisions", "systems", "published", "what_ifs", "studies", "validations"), "workloads"
    ),
}
"""The folder of a search root under which the files of a kind stand."""
ALIASED = ("models",)  # kinds whose aliases are names to refer to; those of devices are what measurement tables write

_KINDS = (
    "device", "node", "cluster", "framework", "precision", "calibration", "model", "workload", "case", "what_if",
    "fit_plan", "topology", "validation", "study",
)  # fmt: skip
_VERSIONS = {kind: f"costmodel/{kind}@1" for kind in _KINDS}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_WORKLOADS = "workloads"


def package_root() -> Path:
    """Return the folder that holds the shipped `hardware/` and `workloads/`: the wheel's data, else the checkout."""
    package = Path(__file__).resolve().parents[1]
    shipped = package / "data"
    return shipped if shipped.is_dir() else package.parent


def folder_of(schema: str) -> str:
    """Return the kind of folder that files of a schema stand in: `devices` for `device`."""
    return f"{schema[:-1]}ies" if schema.endswith("y") else f"{schema}s"


def is_name(text: str) -> bool:
    """Tell whether files can refer to a file of this name, without extension."""
    return "/" not in text and _NAME.fullmatch(text) is not None


def suggest(word: str, known: Sequence[str]) -> str:
    """Return a hint that names what `word` may have been meant to be, and otherwise all that is known."""
    close = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(f"`{name}`" for name in close) + "?"
    return f"known: {', '.join(sorted(known))}" if known else "none is known"


class Library:
    """Finds files on the search path and reads each one once."""

    def __init__(self, search_path: Sequence[str | Path] = ()) -> None:
        from_environment = [part for part in os.environ.get("COSTMODEL_PATH", "").split(os.pathsep) if part]
        self.roots = (*map(Path, (*search_path, *from_environment)), package_root())
        self._read: dict[Path, Tree] = {}
        self._extended: dict[Path, Tree] = {}

    def names(self, kind: str) -> list[str]:
        """Return the names of all files of a kind (a key of FOLDERS, or `workloads`), sorted."""
        found: set[str] = set()
        for root in self.roots:
            folder = self._folder(root, kind)
            pattern = "*.yaml" if kind == _WORKLOADS else "**/*.yaml"
            found.update(path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob(pattern))
        return sorted(found)

    def find(self, reference: str, kind: str, *, origin: Location | None = None, field: str = "") -> Path:
        """Return the file that `reference` means: `./path` beside the file that says it, `kind/name` or `name`."""
        if reference.startswith("./"):
            return relative_path(reference, origin)
        name = reference.removeprefix(f"{kind}/")
        for root in self.roots if _NAME.fullmatch(name) else ():
            path = self._folder(root, kind) / f"{name}.yaml"
            if path.is_file():
                return path
        alias = self._aliased(name, kind, origin, field)
        if alias is not None:
            return alias
        known = self.names(kind)
        hint = suggest(name, [*known, *self.aliases(kind)])
        if not hint.startswith("known") and len(known) < 30:
            hint += f" available: {', '.join(known)}"
        folder = f"{FOLDERS.get(kind, '')}/{kind}".lstrip("/")
        hint += (
            f" (looked for {folder}/{name}.yaml in each folder of --path, of $COSTMODEL_PATH, and in the shipped data)"
        )
        raise InputError.single(f"no file {kind}/{name} is on the search path", hint=hint, field=field, location=origin)

    def aliases(self, kind: str) -> dict[str, list[Path]]:
        """Return other names of the files of a kind -> the files that claim them, those of the first root only."""
        found: dict[str, list[Path]] = {}
        for root in self.roots if kind in ALIASED else ():
            own: dict[str, list[Path]] = {}
            for path in sorted(self._folder(root, kind).glob("**/*.yaml")):
                for alias in self._aliases_of(path):
                    own.setdefault(alias, []).append(path)
            found = own | found
        return found

    def clashes(self, path: Path, kind: str) -> Iterator[Problem]:
        """Yield the aliases of a file that another file of its folder has, too, as its name or alias."""
        folder = path.parent
        others = [other for other in sorted(folder.glob("*.yaml")) if other.resolve() != path.resolve()]
        taken = {other.stem: other for other in others}
        for other in others if kind in ALIASED else ():
            taken.update(dict.fromkeys(self._aliases_of(other), other))
        stated = self._tree(path).child("aliases")
        for item in stated.value if stated is not None and isinstance(stated.value, list) else ():
            if item.value in taken:
                yield Problem(
                    item.location, "aliases", f"{item.value!r} is a name of {display_path(taken[item.value])}, too",
                    "remove it from one of them",
                )  # fmt: skip

    def _aliased(self, name: str, kind: str, origin: Location | None, field: str) -> Path | None:
        """Return the file that has `name` as an alias; raise InputError where two files of a root do."""
        claims = self.aliases(kind).get(name, [])
        if len(claims) > 1:
            raise InputError.single(
                f"{name!r} is an alias of {' and of '.join(display_path(path) for path in claims)}",
                hint="remove it from one of them, or use another name", field=field, location=origin,
            )  # fmt: skip
        return claims[0] if claims else None

    def _aliases_of(self, path: Path) -> list[str]:
        """Return the aliases that a file states; none of a file that cannot be read, which is told where it is used."""
        try:
            stated = self._tree(path).child("aliases")
        except InputError:
            return []
        listed = stated.value if stated is not None and isinstance(stated.value, list) else []
        return [item.value for item in listed if isinstance(item.value, str)]

    def find_workload(self, argument: str | Path) -> Path:
        """Return the file of a WORKLOAD argument: an existing path, else a name under `workloads/`."""
        text = os.fspath(argument)
        if Path(text).exists():
            return Path(text)
        name = text.removeprefix("./").removeprefix(f"{_WORKLOADS}/").removesuffix(".yaml")
        for root in self.roots:
            path = root / _WORKLOADS / f"{name}.yaml"
            if path.is_file():
                return path
        raise InputError.single(
            f"{text!r} is neither a file nor a workload on the search path", hint=suggest(name, self.names(_WORKLOADS))
        )

    def document(self, reference: Tree, kind: str, schema: str, field: str) -> Tree:
        """Return the whole document that a reference names, `extends` applied."""
        if not isinstance(reference.value, str):
            raise InputError.single(
                f"must name a file of {kind}/, not {kind_of(reference.value)}",
                hint=suggest("", self.names(kind)), field=field, location=reference.location,
            )  # fmt: skip
        path = self.find(reference.value, kind, origin=reference.location, field=field)
        return self.read(path, schema)

    def read(self, path: Path, schema: str) -> Tree:
        """Return the document of a file of that schema (`device`, `node` …), `extends` applied."""
        key = path.resolve()
        if key not in self._extended:
            self._extended[key] = self.extend(self._checked(path, schema), schema, (path,))
        return self._extended[key]

    def extend(self, tree: Tree, schema: str, chain: tuple[Path, ...] = ()) -> Tree:
        """Return `tree` merged over the document that its `extends` names, and that one's in turn."""
        base = tree.child("extends") if tree.is_mapping else None
        if base is None:
            return tree
        kind = folder_of(schema)
        if not isinstance(base.value, str):
            raise InputError.single(
                f"must name one file, not {kind_of(base.value)}", field="extends", location=base.location
            )
        is_named_workload = schema == "workload" and not base.value.startswith("./")
        path = (
            self.find_workload(base.value)
            if is_named_workload
            else self.find(base.value, kind, origin=base.location, field="extends")
        )
        if path.resolve() in [link.resolve() for link in chain]:
            cycle = " -> ".join(link.stem for link in (*chain, path))
            raise InputError.single(
                f"the files extend each other in a cycle: {cycle}", hint="remove one of these `extends`",
                field="extends", location=base.location,
            )  # fmt: skip
        below = self.extend(self._checked(path, schema), schema, (*chain, path))
        return merge(below, tree.without("extends"))

    def read_unextended(self, path: Path, schema: str) -> Tree:
        """Return what a file of that schema says itself, without what its `extends` brings."""
        return self._checked(path, schema)

    def schema_of(self, path: Path) -> str:
        """Return the kind that a file's `schema:` line states; raise InputError where it is missing or unknown."""
        tree = self._tree(path)
        stated = tree.child("schema")
        if stated is None:
            misspelt = difflib.get_close_matches("schema", list(tree.value), n=1)
            hint = f"rename `{misspelt[0]}`" if misspelt else "begin the file with its kind"
            raise InputError.single(
                "the file does not say what it is", hint=f"{hint}, as in `schema: {_VERSIONS['workload']}`",
                field="schema", location=tree.location,
            )  # fmt: skip
        for kind, version in _VERSIONS.items():
            if stated.value == version:
                return kind
        raise InputError.single(
            f"{stated.value!r} is no known schema", hint=suggest(str(stated.value), list(_VERSIONS.values())),
            field="schema", location=stated.location,
        )  # fmt: skip

    def _checked(self, path: Path, schema: str) -> Tree:
        found = self.schema_of(path)
        if found != schema:
            raise InputError.single(
                f"is a {found} file where a {schema} is expected", field="schema",
                hint=f"name a file whose schema is {_VERSIONS[schema]}", location=Location(display_path(path)),
            )  # fmt: skip
        return self._tree(path)

    def _tree(self, path: Path) -> Tree:
        key = path.resolve()
        if key not in self._read:
            self._read[key] = read_tree(path, display_path(path))
        return self._read[key]

    @staticmethod
    def _folder(root: Path, kind: str) -> Path:
        return root / _WORKLOADS if kind == _WORKLOADS else root / FOLDERS[kind] / kind


def relative_path(reference: str, origin: Location | None) -> Path:
    """Return the path that a file says, relative to that file; what stands in no file is relative to where one is."""
    return (Path(origin.source).parent if origin and origin.line else Path()) / reference


def display_path(path: Path) -> str:
    """Return how messages name a file: relative to the working folder where it lies inside it."""
    try:
        return path.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(path)


def as_reference(argument: str) -> str:
    """Return the reference that a command-line argument means: an existing file, else a name."""
    return f"./{os.path.relpath(argument)}" if os.path.isfile(argument) else argument
