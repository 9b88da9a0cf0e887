"""One report for all problems of an input."""

from __future__ import annotations

import pytest

from monai_ext.errors import InputError, Problems


def test_all_problems_are_listed_with_place_and_cure() -> None:
    problems = Problems("dataset x")
    problems.raise_if_any()
    problems.add("a.nii.gz", "is truncated", "copy it again")
    problems.add("b.nii.gz", "is missing", "restore it")
    with pytest.raises(InputError) as caught:
        problems.raise_if_any()
    assert str(caught.value).splitlines() == [
        "dataset x: 2 problems",
        "  - a.nii.gz: is truncated. Cure: copy it again",
        "  - b.nii.gz: is missing. Cure: restore it",
    ]
    assert len(problems) == 2
