"""Conditions are read strictly, and what is not known never passes."""

import math
from types import SimpleNamespace

import pytest

from kernelscope.commands.conditions import parsed
from kernelscope.errors import DataError

KNOWN = ("cka", "agreement", "kappa_a")


def measures(value, low=math.nan, high=math.nan, why=""):
    return {"cka": SimpleNamespace(value=value, low=low, high=high, why=why)}


def fails(word, value, **options):
    return parsed([word], KNOWN)[0].judged(measures(value, **options))


@pytest.mark.parametrize(("word", "value", "truth"), [
    ("cka < 0.9", 0.8, True), ("cka < 0.9", 0.9, False), ("cka <= 0.9", 0.9, True), ("cka>0.9", 0.95, True),
    (" cka >= 9e-1 ", 0.9, True), ("cka > -1", 0.0, True), ("cka < +.5", 0.4, True),
])
def test_a_condition_is_the_comparison_it_says(word, value, truth):
    found = fails(word, value)
    assert found.fails is truth
    assert found.text.startswith("FAILED" if truth else "passed")


def test_an_end_of_the_interval_is_asked_for_by_name():
    assert fails("cka.low < 0.8", 0.85, low=0.75, high=0.9).fails
    assert not fails("cka.high < 0.8", 0.85, low=0.75, high=0.9).fails
    assert "cka is 0.85" in fails("cka.low < 0.8", 0.85, low=0.75, high=0.9).text
    assert "0.75 to 0.9" in fails("cka < 0.8", 0.85, low=0.75, high=0.9).text


@pytest.mark.parametrize("word", ["cka < 0.9", "cka > 0.9", "cka <= 0", "cka.low < 1", "cka.high > 1"])
def test_what_is_not_known_fails_with_its_reason(word):
    found = fails(word, math.nan, why="no classes")
    assert found.fails
    assert found.value is None
    assert "cannot be judged" in found.text
    assert "no classes" in found.text


def test_an_interval_that_is_not_there_fails_too():
    found = fails("cka.low < 0.1", 0.9)
    assert found.fails
    assert "has no interval" in found.text


@pytest.mark.parametrize(("word", "said"), [
    ("ckaa < 0.9", "Did you mean 'cka'"), ("zebra < 1", "The measures are cka, agreement, kappa_a"),
    ("cka = 0.9", "takes a measure"), ("cka == 0.9", "takes a measure"), ("cka", "takes a measure"),
    ("< 0.9", "takes a measure"), ("cka < ", "takes a measure"), ("", "takes a measure"),
    ("cka < 0.9 or agreement < 1", "takes a measure"), ("cka < nan", "finite number"), ("cka < inf", "finite number"),
    ("cka < high", "finite number"), ("cka < 1_0", "finite number"), ("cka < 90%", "finite number"),
    ("cka < 0,9", "finite number"), ("cka.middle < 1", "cka.low and cka.high"), ("cka.low.high < 1", "takes a measure"),
    ("0.9 > cka", "takes a measure"), ("cka =< 0.9", "takes a measure"), ("CKA < 0.9", "Did you mean"),
])
def test_what_is_no_condition_is_refused(word, said):
    if word.startswith("CKA"):
        said = "There is no measure 'CKA'"
    with pytest.raises(DataError, match=said):
        parsed([word], KNOWN)
