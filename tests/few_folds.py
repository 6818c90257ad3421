"""Fits of tests are held out in three parts, not in five: each takes another fit."""

from collections.abc import Iterator

import pytest

from costmodel.fitting import family_fit

__all__ = ["few_folds"]


@pytest.fixture(scope="module", autouse=True)
def few_folds() -> Iterator[None]:
    """What is held out has no part in a fit, however many parts there are."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(family_fit, "FOLDS", 3)
        yield
