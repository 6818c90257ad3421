"""A chip, its sibling and a framework, and tables written as text; fits are held out in three parts, not in five."""

import pytest
from few_folds import few_folds
from small_tables import catalogue, table, world

from costmodel.fitting import family_fit

__all__ = ["catalogue", "few_folds", "table", "world"]


@pytest.fixture
def five_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the package has them: each fit sees four fifths of the rows."""
    monkeypatch.setattr(family_fit, "FOLDS", 5)
