"""The measures against double loops over what their definitions say."""

import math

import pytest
import torch

from kernelscope.errors import DataError
from kernelscope.generative.measures import (
    cancellation,
    centred,
    concentration,
    coverage_density,
    effective_rank,
    intervals,
    memorised,
    shares,
)


def distance(a, b):
    return math.sqrt(sum((x - y) ** 2 for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)))


def gini_by_pairs(values):
    """The mean difference of all pairs, over twice the mean."""
    a = [abs(v) for v in values]
    n = len(a)
    return sum(abs(x - y) for x in a for y in a) / (2 * n * n * (sum(a) / n))


def test_concentration_is_what_its_definitions_say():
    values = torch.randn(3, 7, dtype=torch.float64)
    gini, participation, n_eff = concentration(values)
    for i, row in enumerate(values.tolist()):
        a = [abs(v) for v in row]
        p = [v / sum(a) for v in a]
        assert gini[i] == pytest.approx(gini_by_pairs(row), abs=1e-14)
        assert participation[i] == pytest.approx(sum(a) ** 2 / sum(v * v for v in a), abs=1e-13)
        assert n_eff[i] == pytest.approx(math.exp(-sum(v * math.log(v) for v in p)), abs=1e-13)


@pytest.mark.parametrize("scale", [1e-200, 1.0, -3e200])
def test_concentration_has_its_limits_at_any_scale(scale):
    n = 8
    alike = concentration(scale * torch.ones(n, dtype=torch.float64))
    single = concentration(scale * torch.eye(n, dtype=torch.float64)[3])
    assert [float(v) for v in alike] == pytest.approx([0, n, n], abs=1e-12)
    assert [float(v) for v in single] == pytest.approx([1 - 1 / n, 1, 1], abs=1e-12)


def test_of_nothing_no_concentration_is_known():
    assert all(bool(value.isnan()) for value in concentration(torch.zeros(4)))


def test_cancellation_of_numbers_and_of_vectors():
    c = torch.randn(2, 3, 5, dtype=torch.float64)
    kappa = cancellation(c, vectors=True)
    for i in range(2):
        sizes = sum(distance(c[i, :, g], torch.zeros(3)) for g in range(5))
        total = [sum(float(c[i, d, g]) for g in range(5)) for d in range(3)]
        assert kappa[i] == pytest.approx(sizes / math.hypot(*total), rel=1e-13)
    assert torch.allclose(cancellation(c), c.abs().sum(-1) / c.sum(-1).abs(), rtol=1e-14)
    assert cancellation(torch.tensor([2.0, -2.0])) == math.inf
    assert cancellation(torch.tensor([1.0, 2.0])) == 1


def test_shares_add_up_to_one_and_centred_contributions_to_nought():
    c = torch.randn(2, 3, 5, dtype=torch.float64)
    found = shares(c, c.sum(-1))
    assert torch.allclose(found.sum(-1), torch.ones(2, dtype=torch.float64), atol=1e-13)
    g, delta = 4, c[0].sum(-1)
    by_hand = sum(float(c[0, d, g] * delta[d]) for d in range(3)) / sum(float(v) ** 2 for v in delta)
    assert found[0, g] == pytest.approx(by_hand, rel=1e-13)
    assert float(centred(c).sum(-1).abs().max()) < 1e-14
    assert torch.equal(centred(c).argmax(-1), c.argmax(-1))
    with pytest.raises(DataError, match="without their last axis"):
        shares(c, c.sum(-2))


def test_memorised_is_the_nearest_over_the_second_nearest():
    samples, train = torch.randn(12, 2, 2, dtype=torch.float64), torch.randn(9, 2, 2, dtype=torch.float64)
    samples[0] = train[4] + 1e-3
    found = memorised(samples, train)
    for j in range(12):
        away = [distance(samples[j], x) for x in train]
        first, second = sorted(away)[:2]
        assert found.ratios[j] == pytest.approx(first / second, rel=1e-13)
        assert found.nearest[j] == away.index(first)
        assert bool(found.flags[j]) == (first / second < 1 / 3)
    assert bool(found.flags[0])
    assert not bool(found.flags.all())
    assert found.share == sum(found.flags.tolist()) / 12


def test_a_copy_of_a_training_point_that_is_there_twice_is_memorised():
    train = torch.tensor([[5.0], [0.0], [1.0], [0.0]])
    found = memorised(torch.tensor([[0.0], [0.01], [0.5]]), train)
    assert found.ratios.tolist() == pytest.approx([0.0, 0.01 / 0.99, 1.0], rel=1e-6)
    assert found.flags.tolist() == [True, True, False]
    assert found.nearest.tolist() == [1, 1, 1], "the first of several that are as near"


def test_coverage_and_density_are_those_of_naeem():
    samples, real, k = torch.randn(11, 3, dtype=torch.float64), torch.randn(8, 3, dtype=torch.float64), 2
    inside = 0
    covered = []
    for i in range(8):
        radius = sorted(distance(real[i], real[j]) for j in range(8) if j != i)[k - 1]
        within = [distance(y, real[i]) < radius for y in samples]
        inside += sum(within)
        covered.append(any(within))
    found = coverage_density(samples, real, k=k)
    assert found.covered.tolist() == covered
    assert found.coverage == pytest.approx(sum(covered) / 8, abs=1e-15)
    assert found.density == pytest.approx(inside / (k * 11), rel=1e-14)
    assert 0 < found.coverage < 1, "neither none nor all, or nothing was tested"


def test_real_points_cover_themselves_and_far_ones_cover_nothing():
    real = torch.randn(20, 4)
    assert coverage_density(real, real).coverage == 1
    assert coverage_density(real + 100, real)[:2] == (0, 0)


def test_the_effective_rank_of_a_gram_of_equal_directions_is_their_number():
    u, _ = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64))
    assert effective_rank(u @ u.T, centred=False) == pytest.approx(4, abs=1e-12)
    ones = torch.ones(9, 9, dtype=torch.float64)
    x = torch.randn(9, 4, dtype=torch.float64)
    assert effective_rank(x @ x.T + 50 * ones) == pytest.approx(effective_rank(x @ x.T), rel=1e-10)
    with pytest.raises(DataError, match="square"):
        effective_rank(torch.ones(2, 3))


def test_an_interval_needs_five_seeds():
    four, five = intervals([1.0, 2.0, 3.0, 4.0]), intervals([1.0, 2.0, 3.0, 4.0, 5.0])
    assert four.mean == 2.5
    assert math.isnan(four.low)
    assert math.isnan(four.high)
    half = 2.7764451051977987 * math.sqrt(2.5 / 5)
    assert (five.mean, five.low, five.high) == pytest.approx((3.0, 3 - half, 3 + half), rel=1e-12)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: memorised(torch.ones(2, 3), torch.ones(4, 3)), DataError, "two different training points"),
    (lambda: memorised(torch.ones(2, 3), torch.ones(4, 2)), DataError, "points of one shape"),
    (lambda: coverage_density(torch.ones(2, 3), torch.ones(5, 3)), DataError, "more than 5 real points"),
    (lambda: coverage_density(torch.full((2, 3), math.nan), torch.ones(9, 3)), DataError, "NaN"),
    (lambda: concentration(torch.ones(0)), DataError, "along the last"),
])
def test_what_cannot_be_measured_is_refused_in_a_sentence(call, error, words):
    with pytest.raises(error, match=words):
        call()
