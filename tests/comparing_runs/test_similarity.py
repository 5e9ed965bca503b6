"""CKA without its bias: against sums over distinct probes by hand, and intervals against a population that is known."""

import itertools
import math

import pytest
import torch

from kernelscope.diagnostics.comparing.similarity import cka, debiased_cka, plain_cka, shuffled


def kernels(n, seed, features=6, share=0.5):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, features, generator=g, dtype=torch.float64)
    b = share * a + (1 - share) * torch.randn(n, features, generator=g, dtype=torch.float64)
    return a @ a.T, b @ b.T


def by_hand(k, p, w):
    """The weighted estimate by loops over tuples of probes that are all different."""
    n, sums = len(k), [0.0] * 6
    for i, j in itertools.permutations(range(n), 2):
        sums[0] += float(w[i] * w[j] * k[i, j] * p[i, j])
        sums[1] += float(w[i] * w[j])
    for i, j, q, r in itertools.permutations(range(n), 4):
        sums[2] += float(w[i] * w[j] * w[q] * w[r] * k[i, j] * p[q, r])
        sums[3] += float(w[i] * w[j] * w[q] * w[r])
    for i, j, r in itertools.permutations(range(n), 3):
        sums[4] += float(w[i] * w[j] * w[r] * k[i, j] * p[i, r])
        sums[5] += float(w[i] * w[j] * w[r])
    return sums[0] / sums[1] + sums[2] / sums[3] - 2 * sums[4] / sums[5]


@pytest.mark.parametrize("weights", [[1, 1, 1, 1, 1, 1], [2, 0, 1, 1, 3, 1]])
def test_it_is_the_sum_over_distinct_probes(weights):
    k, p = kernels(6, 0)
    w = torch.tensor(weights, dtype=torch.float64)
    found = float(debiased_cka(k, p, w[:, None]))
    truth = by_hand(k, p, w) / math.sqrt(by_hand(k, k, w) * by_hand(p, p, w))
    assert found == pytest.approx(truth, rel=1e-10)


def test_a_probe_that_is_drawn_twice_counts_twice_and_is_not_held_against_itself():
    k, p = kernels(7, 1)
    # Were copies compared with each other, the diagonal would matter.
    changed = k + torch.diag(torch.arange(7.0).double())
    w = torch.tensor([2.0, 1, 1, 0, 1, 1, 1], dtype=torch.float64)[:, None]
    assert float(debiased_cka(k, p, w)) == pytest.approx(float(debiased_cka(changed, p, w)), rel=1e-12)
    assert plain_cka(k, p) != pytest.approx(plain_cka(changed, p), rel=1e-3)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_it_is_one_for_the_same_kernel_whatever_its_scale_and_shift(scale):
    k, _ = kernels(9, 2)
    assert float(debiased_cka(k, scale * k)) == pytest.approx(1, rel=1e-12)
    assert float(debiased_cka(k, k + 5.0)) == pytest.approx(1, rel=1e-10)


def test_unrelated_kernels_of_many_features_have_a_plain_cka_near_one_and_a_debiased_one_near_nought():
    g = torch.Generator().manual_seed(3)
    rows = [torch.randn(40, 400, generator=g, dtype=torch.float64) for _ in range(2)]
    one, other = (x @ x.T for x in rows)
    assert plain_cka(one, other) > 0.85
    assert abs(float(debiased_cka(one, other))) < 0.1


def test_too_few_probes_and_constant_kernels_are_not_known():
    k, p = kernels(3, 4)
    assert math.isnan(float(debiased_cka(k, p)))
    assert math.isnan(cka(torch.ones(8, 8), torch.eye(8), 50, 0).mean)


def test_the_same_kernel_has_an_interval_of_no_width():
    k, _ = kernels(20, 5)
    found = cka(k, 2 * k, 200, 0)
    assert (found.low, found.mean, found.high) == pytest.approx((1, 1, 1), rel=1e-9)


def coverage_of_intervals(n, share, repeats, draws, seed, features=20):
    """How often intervals hold the CKA of the population, which linear kernels of Gaussian points have in closed form.

    It is |cov(a, b)|^2 / (|cov(a)| |cov(b)|); also that of plain CKA drawn with repeats, and the means of both.
    """
    g = torch.Generator().manual_seed(seed)
    decay = torch.arange(1, features + 1, dtype=torch.float64).pow(-0.7)
    a, b = (torch.randn(features, features, generator=g, dtype=torch.float64) * decay for _ in range(2))
    b = share * a + (1 - share) * b
    truth = float((a @ b.T).square().sum() / ((a @ a.T).norm() * (b @ b.T).norm()))
    held, means, naive = [], [], []
    for repeat in range(repeats):
        z = torch.randn(n, features, generator=g, dtype=torch.float64)
        one, other = ((z @ m.T) @ (z @ m.T).T for m in (a, b))
        found = cka(one, other, draws, repeat)
        held.append(found.low <= truth <= found.high)
        means.append((found.mean, plain_cka(one, other)))
        if repeat < repeats // 4:
            drawn = [plain_cka(one[i][:, i], other[i][:, i]) for i in torch.randint(n, (draws, n), generator=g)]
            low, high = torch.tensor(drawn).quantile(torch.tensor([0.025, 0.975]))
            naive.append(float(low) <= truth <= float(high))
    middle, plain = (sum(values) / repeats for values in zip(*means, strict=True))
    return truth, sum(held) / repeats, sum(naive) / len(naive), middle, plain


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_intervals_hold_the_cka_of_all_points_as_often_as_they_say(share):
    truth, held, _, middle, plain = coverage_of_intervals(40, share, 200, 200, 7)
    # 200 repeats of a 95 % interval: below 0.90 in fewer than one of 200 cases.
    assert held >= 0.90
    # The mean of 200 is off by a fifteenth of the spread of one.
    assert abs(middle - truth) < 0.01
    assert plain > truth


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 60])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_repeats_would_mislead(n, share):
    truth, held, naive, middle, plain = coverage_of_intervals(n, share, 400, 400, 8)
    assert held >= 0.91
    # Of kernels that are nearly the same, copies of a probe mislead little.
    assert naive <= held or share == 0.9
    assert abs(middle - truth) < abs(plain - truth) + 0.005


def test_shuffled_probes_tell_nothing():
    k, p = kernels(30, 9)
    values = shuffled(k, p, 60, 0)
    assert values == sorted(values)
    assert abs(sum(values) / len(values)) < 0.05
    assert float(debiased_cka(k, p)) > values[-1]
