"""Marks of verified cases reach the processes that share them."""

from __future__ import annotations

import os
import pickle

import pytest

from monai_ext.preprocessing.verified_marks import VerifiedMarks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="marks are shared with forked processes")
def test_a_mark_of_a_worker_is_known_to_all() -> None:
    marks = VerifiedMarks(["a", "b"])
    child = os.fork()
    if child == 0:
        marks.add("b", [(1, 2, 3)])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert marks.has("b", [(1, 2, 3)])
    assert not marks.has("b", [(1, 2, 4)])
    assert not marks.has("a", [(1, 2, 3)])


def test_copies_and_strangers_have_none() -> None:
    marks = VerifiedMarks(["a"])
    marks.add("a", 1)
    marks.add("x", 1)
    assert marks.has("a", 1)
    assert not marks.has("x", 1)
    assert not pickle.loads(pickle.dumps(marks)).has("a", 1)
