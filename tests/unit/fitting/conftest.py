"""A chip, its sibling and a framework, and tables written as text; fits are held out in three parts, not in five."""

from collections.abc import Iterator

import pytest
from small_tables import catalogue, table, world

from costmodel.fitting import family_fit

__all__ = ["catalogue", "table", "world"]


@pytest.fixture(scope="module", autouse=True)
def _few_folds() -> Iterator[None]:
    """What is held out has no part in a fit, however many parts there are; each takes another fit."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(family_fit, "FOLDS", 3)
        yield


@pytest.fixture
def five_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the package has them: each fit sees four fifths of the rows."""
    monkeypatch.setattr(family_fit, "FOLDS", 5)
