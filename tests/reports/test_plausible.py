"""The bands of plausible values are those that the shipped files teach."""

from __future__ import annotations

import json

from costmodel.schema.plausible import BANDS
from costmodel.schema.references import package_root
from reports.fits.plausible import learn


def test_the_bands_are_those_of_the_shipped_files() -> None:
    assert json.loads((package_root() / "hardware" / BANDS).read_text()) == learn()
