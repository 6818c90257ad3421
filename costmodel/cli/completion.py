"""What a shell offers when TAB is pressed: names on the search path, which is read only then."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
from click.shell_completion import CompletionItem

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def names(*kinds: str, files: bool = False, qualified: bool = False) -> Completer:
    """Return a completer for the names of some kinds of files, such as `models` or `workloads`.

    files: offer paths as well.
    qualified: write `kind/name`.
    """

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
        from costmodel.schema.files import list_names

        search_path = ctx.params.get("search_path") or ()
        listed = [(kind, name) for kind in kinds for name in list_names(kind, search_path)]
        paths = [CompletionItem(incomplete, type="file")] if files else []
        return paths + _starting([f"{kind}/{name}" if qualified else name for kind, name in listed], incomplete)

    return complete


def words(choices: Sequence[str]) -> Completer:
    """Return a completer for a fixed list of words."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG001
        return _starting(choices, incomplete)

    return complete


def _starting(choices: Sequence[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(choice) for choice in choices if choice.startswith(incomplete)]
