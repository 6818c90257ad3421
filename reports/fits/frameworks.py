"""Fits the frameworks' terms to whole published runs, all together and without each publication.

python -m reports.fits.frameworks --output hardware

Prints the fits, writes them beside the plan, and into the framework files which publications their values rest on. The
values themselves are a person's to take over.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from costmodel.schema.fit_plan import FRAMEWORK
from costmodel.schema.references import Library
from costmodel.schema.whole_files import write_whole
from costmodel.study.published.refits import PLAN, FittedTerms, Terms, read_terms
from costmodel.study.published.reproduce import load_cases
from reports.fits.provenance import sourced_fields, stated
from reports.fits.term_fits import refit, write_refits


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit all terms, and again without each publication; print the fits and write them."""
    parser = argparse.ArgumentParser(prog="python -m reports.fits.frameworks", description=main.__doc__)
    parser.add_argument("--output", type=Path, help="folder `hardware` to write into; none: only print")
    chosen = parser.parse_args(arguments)
    library = Library()
    terms = read_terms(library)
    refits = refit(load_cases([])[0], terms, library)
    _show("all", refits.everything, terms)
    for name, fitted in refits.without.items():
        _show(f"without {name}", fitted, terms)
    if chosen.output is not None:
        write_refits(chosen.output / "fit_plans" / f"{PLAN}.json", terms, refits)
        write_provenance(chosen.output / "frameworks", terms)


def write_provenance(folder: Path, terms: Terms) -> None:
    """Write into each framework file that states a term the publications which the term is fitted to."""
    for name in sorted({name for term in terms for name in term.frameworks}):
        path = folder / f"{name}.yaml"
        text = path.read_text(encoding="utf-8")
        for entry in sourced_fields(text):
            of = [term for term in terms if name in term.frameworks and _covers(entry, term.path)]
            if of:
                text = stated(text, entry[0], sorted({each for term in of for each in term.publications}))
        write_whole(path, [text.encode()])


def _covers(fields: Sequence[str], path: str) -> bool:
    wanted = path.removeprefix(FRAMEWORK)
    return any(wanted == field or wanted.startswith(f"{field}.") for field in fields)


def _show(title: str, fitted: FittedTerms, terms: Terms) -> None:
    lines = [f"{title}: {fitted.figures} figures, mean |log error| {fitted.before:.3f}, fitted {fitted.after:.3f}"]
    for term, value in zip(terms, fitted.values, strict=True):
        shown = "as stated" if value is None else f"{value:.6g}"
        lines.append(f"  {term.path:40} {', '.join(term.frameworks):30} {shown}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
