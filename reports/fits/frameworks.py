"""Prints the fit of the frameworks' terms to whole published runs, and how it moves without each publication.

python -m reports.fits.frameworks
"""

from __future__ import annotations

import sys

from costmodel.schema.references import Library
from costmodel.study.end_to_end import FittedTerms, figures_of, fit_terms, read_terms
from costmodel.study.reproduce import load_cases
from costmodel.study.term_sensitivity import Terms


def main() -> None:
    """Print the fit of all terms, and how they move when one publication is left out."""
    library = Library()
    terms = read_terms(library)
    cases, _ = load_cases([])
    figures = figures_of(cases, terms, library)
    whole = fit_terms(figures, terms, library)
    _show("all", whole, terms)
    for name in sorted({one.case.publication for one in figures}):
        rest = [one for one in figures if one.case.publication != name]
        _show(f"without {name}", fit_terms(rest, terms, library, whole.values), terms)


def _show(title: str, fitted: FittedTerms, terms: Terms) -> None:
    lines = [f"{title}: {fitted.figures} figures, mean |log error| {fitted.before:.3f}, fitted {fitted.after:.3f}"]
    for term, value, ends in zip(terms, fitted.values, fitted.ends, strict=True):
        shown = "as stated" if ends is None else f"{value:.6g}  ({ends[0]:.3g} to {ends[1]:.3g})"
        lines.append(f"  {term.path:40} {', '.join(term.frameworks):30} {shown}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
