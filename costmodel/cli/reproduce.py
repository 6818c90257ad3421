"""`costmodel reproduce`: published results and their predictions."""

from __future__ import annotations

import click

from costmodel.cli.options import json_option, path_option, print_json
from costmodel.errors import InputError


@click.command("reproduce")
@click.argument("cases", nargs=-1, metavar="[FILE|ID]...")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Only this class of cases. Repeatable.")
@click.option(
    "--leave-out", "--cross-validate", "leave_out", is_flag=True,
    help="Before each comparison, refit framework parameters without that publication.",
)  # fmt: skip
@click.option(
    "--summary", is_flag=True,
    help="Only how accurate each class is, refitted as by --leave-out, on figures that nothing on their path rests on.",
)  # fmt: skip
@json_option
@path_option
def command(
    *, cases: tuple[str, ...], classes: tuple[str, ...], leave_out: bool, summary: bool, as_json: bool,
    search_path: tuple[str, ...],
) -> int:  # fmt: skip
    """Compare predictions with published results: all shipped cases, or those in FILE or with ID."""
    from costmodel.cli.progress import progress
    from costmodel.study.published.reproduce import load_cases, reproduce, summarise, summarise_publications

    chosen, unread = load_cases(cases, search_path, classes)
    unseen = None
    if leave_out or summary:
        from costmodel.study.published.refits import left_out

        unseen = left_out(chosen, search_path)
    again = () if unseen is None else (unseen.changes, unseen.refitted)
    with progress("comparing", len(chosen)) as on_progress:
        comparisons, problems = reproduce(chosen, search_path, *again, on_progress=on_progress)
    if summary:
        from costmodel.study.published.accuracy import by_class

        accuracy = list(by_class(comparisons))
        if as_json:
            print_json([one.document() for one in accuracy])
        else:
            from costmodel.report.reproduce import show_accuracy

            show_accuracy(accuracy)
    elif as_json:
        print_json([comparison.document() for comparison in comparisons])
    else:
        from costmodel.report.reproduce import show_comparisons

        show_comparisons(comparisons, summarise(comparisons), summarise_publications(comparisons))
    for problem in (*unread, *problems):
        click.echo(problem, err=True)
    return InputError.exit_code if unread or problems else 0
