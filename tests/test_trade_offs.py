"""What it costs to be good: means and standard errors over seeds, and which cheaper point is level."""

import math

import numpy as np
import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError, NonFiniteError
from kernelscope.result import Result

POINTS = [("small", 10, [0.80, 0.90, 0.82]), ("small", 30, [0.70, 0.72]), ("large", 100, [0.86, 0.88, 0.87]),
          ("head", 2, 0.5)]


def found(**options):
    return ks.trade_offs(POINTS, cost="parameters", measure="accuracy", **options)


def test_means_and_standard_errors_are_those_of_numpy():
    result = found()
    for k, (_, _, values) in enumerate(POINTS):
        values = np.atleast_1d(values)
        assert float(result.means[k]) == pytest.approx(values.mean(), abs=1e-15)
        off = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        assert float(result.standard_errors[k]) == pytest.approx(off, abs=1e-15, nan_ok=True)
    mean, off = result.difference(0, 2)
    gaps = np.array(POINTS[0][2]) - np.array(POINTS[2][2])
    assert (mean, off) == pytest.approx((gaps.mean(), gaps.std(ddof=1) / math.sqrt(3)))


def test_the_cheapest_is_within_one_standard_error_of_the_best():
    assert (found().best, found().cheapest) == (2, 2)
    wide = ks.trade_offs([("small", 10, [0.80, 0.90, 0.82]), ("large", 100, [0.76, 0.98, 0.87])], cost="c", measure="m")
    assert (wide.best, wide.cheapest) == (1, 0)
    assert "10 times fewer" in wide.said()
    lower = found(higher=False)
    assert (lower.best, lower.cheapest) == (3, 3)


def test_it_is_kept_drawn_and_put_on_a_page(tmp_path):
    result = found(lines={"chance": 0.1})
    again = Result.load(result.save(tmp_path / "r"))
    assert again.said() == result.said()
    assert torch.equal(again.values.nan_to_num(), result.values.nan_to_num())
    ax = result.plot()
    assert "large has the best accuracy, 0.87; it takes 100 parameters" in ax.get_title("left")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["small", "large", "head"]
    page = ks.Report("Costs", [result]).html()
    assert "What it costs to be good" in page
    assert result.to_frame().shape == (4, 5)
    assert [row.status for row in result.check().rows] == ["warn"]


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match="at least one point"):
        ks.trade_offs([], cost="c", measure="m")
    with pytest.raises(DataError, match="above nought; a has"):
        ks.trade_offs([("a", 0, 1.0)], cost="c", measure="m")
    for bad in (("a", 1, math.nan), ("a", math.inf, 1.0), ("a", 1, [])):
        with pytest.raises(NonFiniteError, match="Leave the point out"):
            ks.trade_offs([bad], cost="c", measure="m")


@pytest.mark.parametrize("kind", [torch.tensor, np.array, tuple])
def test_values_may_be_in_whatever_holds_numbers(kind):
    result = ks.trade_offs([(name, taken, kind(values) if isinstance(values, list) else values)
                            for name, taken, values in POINTS], cost="parameters", measure="accuracy")
    assert torch.allclose(result.means, found().means, atol=1e-6)
    assert float(ks.trade_offs([("a", torch.tensor(3), torch.tensor(0.5))], cost="c", measure="m").means[0]) == 0.5


@pytest.mark.parametrize(("points", "said"), [
    ([("a", 1)], "a method, a cost and a measure; one with 2 entries came"), ([3], "a measure; 3 came"),
    (3, "points must be a list"), ("abc", "points must be a list"), ({"a": 1}, "points must be a list"),
    ([(1, 2, 3)], "named by a word"), ([("a", "much", 3)], "that is no number"), ([("a", 1, ["x"])], "is no number")])
def test_what_is_no_point_is_named(points, said):
    with pytest.raises(DataError, match=said):
        ks.trade_offs(points, cost="c", measure="m")
