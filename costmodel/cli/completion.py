"""What a shell offers when TAB is pressed: names on the search path, imported only then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
from click.shell_completion import CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def names(*kinds: str, files: bool = False, qualified: bool = False) -> Completer:
    """Return a completer of the names of some kinds of files, `models` … or `workloads`.

    files: paths fit, too, where no name does; qualified: write `kind/name`.
    """

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
        from costmodel.schema.files import list_names

        search_path = ctx.params.get("search_path") or ()
        found = [
            f"{kind}/{name}" if qualified else name for kind in kinds for name in list_names(kind, search_path)
        ]  # fmt: skip
        paths = [CompletionItem(incomplete, type="file")] if files else []
        return paths + _starting(found, incomplete)

    return complete


def words(known: Sequence[str]) -> Completer:
    """Return a completer of some words."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
        return _starting(known, incomplete)

    return complete


def _starting(known: Sequence[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in known if name.startswith(incomplete)]
