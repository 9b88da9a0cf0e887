"""Text and numbers of a card."""

from __future__ import annotations

import math

from monai_ext.model_card.markdown import code, escaped, facts, number, section, shown, table


def test_text_of_others_stays_text() -> None:
    assert escaped("a|b") == "a\\|b"
    assert escaped("<b>&") == "&lt;b>&amp;"
    assert escaped("two\nlines\u2028three") == "two lines three"
    assert escaped("[a](b) `c` *d*") == "[a]\\(b) 'c' \\*d\\*"
    assert code("x\n# y") == "    x # y"


def test_numbers_keep_their_kind() -> None:
    assert number(0.12345) == "0.1235"  # as Python rounds: the double lies above the middle
    assert number(3) == "3"
    assert number(None) == number(math.nan) == number(math.inf) == number(True) == number("1") == "-"
    assert shown(21819.275) == "21819"
    assert shown(0.000123456) == "0.0001235"
    assert shown(2.0) == "2"
    assert shown(math.nan) == "-"


def test_values_of_files_become_one_line() -> None:
    assert shown([[1, 2], [3.5, 4]]) == "(1, 2), (3.5, 4)"
    assert shown({"a": 1, "b|": [2, 3]}) == "a: 1, b\\|: 2, 3"
    assert shown(list(range(15))).endswith("11, and 3 more")
    assert shown(None) == shown([]) == shown("") == "none"
    assert shown(False) == "no"


def test_tables_and_lists() -> None:
    assert table(("a", "b"), [["1", "2"]]) == "| a | b |\n|:--|--:|\n| 1 | 2 |"
    assert table(("a", "b"), [], left=2).endswith("|:--|:--|")
    assert facts({"x": 1, "y": None}) == "- x: 1"
    assert section("T", "", "a") == "## T\n\na"
