"""The samples that answers lean on: overlaps against sets, chance against draws."""

import math

import pytest
import torch

from kernelscope.diagnostics.comparing.leaning import (
    by_chance,
    cancellation,
    overlaps,
    own_and_others,
    random_signs,
    rank_correlations,
)
from kernelscope.diagnostics.comparing.reading import paired_shares, shared_leaning


def drawn(rows, n, seed):
    return torch.randn(rows, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_overlaps_are_those_of_sets():
    a, b = drawn(5, 12, 0), drawn(5, 9, 1)
    pairs = torch.tensor([[0, 3], [2, 1], [5, 8], [7, 0], [11, 2]])
    found = overlaps(a, b, pairs, 4)
    for i in range(5):
        for j in range(5):
            tops = [set(values.abs().topk(4).indices.tolist()) for values in (a[i], b[j])]
            truth = sum(one in tops[0] and other in tops[1] for one, other in pairs.tolist()) / 4
            assert float(found[i, j]) == truth


def test_what_added_nothing_is_leaned_on_by_nobody():
    a = torch.tensor([[3.0, 0.0, 0.0]])
    assert float(overlaps(a, a, torch.tensor([[0, 0], [1, 1], [2, 2]]), 2)) == 0.5


@pytest.mark.parametrize(("a", "b", "shared"), [(40, 40, 40), (40, 25, 20)])
def test_chance_is_the_mean_of_blind_picks(a, b, shared):
    k, times = 6, 4000
    pairs = torch.stack([torch.arange(shared)] * 2, 1)
    means = overlaps(drawn(times, a, 2), drawn(times, b, 3), pairs, k).diagonal()
    # The mean of 4,000 shares, each off by less than a half, is within 3 / (2 sqrt(4000)) nearly always.
    assert float(means.mean()) == pytest.approx(by_chance(a, b, shared, k), abs=0.024)


def test_rank_correlations_are_those_of_scipy():
    from scipy.stats import spearmanr

    a, b = drawn(4, 10, 4), drawn(4, 8, 5)
    pairs = torch.tensor([[0, 0], [1, 7], [3, 2], [9, 4], [5, 5]])
    found = rank_correlations(a, b, pairs)
    for i in range(4):
        for j in range(4):
            truth = spearmanr(a[i, pairs[:, 0]].numpy(), b[j, pairs[:, 1]].numpy()).statistic
            assert float(found[i, j]) == pytest.approx(truth, abs=1e-12)


def test_a_probe_is_held_against_other_probes_and_not_its_own_other_outputs():
    matrix = torch.arange(16.0).reshape(4, 4)
    own, others = own_and_others(matrix, 2)
    assert own.tolist() == [2.5, 12.5]
    assert others == pytest.approx(sum([2, 3, 6, 7, 8, 9, 12, 13]) / 8)
    assert math.isnan(own_and_others(matrix, 1)[1])


def test_samples_that_are_large_everywhere_overlap_by_more_than_chance_and_no_more_than_other_probes():
    # No probe has anything to do with its sample: all share a profile of sizes.
    profile = torch.linspace(3, 0, 60, dtype=torch.float64).exp()
    a, b = (drawn(200, 60, seed) * profile for seed in (6, 7))
    pairs = torch.stack([torch.arange(60)] * 2, 1)
    found = shared_leaning(a, b, pairs, 200, 5)["overlap"]
    assert found.nulls["other probes"] > 2 * found.nulls["by chance"]
    assert found.low <= found.nulls["other probes"] <= found.high


def test_without_a_sample_in_common_nothing_is_known():
    found = shared_leaning(drawn(3, 5, 8), drawn(3, 5, 9), torch.zeros(0, 2, dtype=torch.long), 3, 2)
    assert all(math.isnan(one.value) and "no sample in common" in one.why for one in found.values())


def test_cancellation_of_coin_signs_is_about_what_coins_give():
    sizes = drawn(1, 300, 10).abs()
    coins = drawn(4000, 300, 11).sign() * sizes
    # |sum| of the tossed is half normal: the mean of its size is what is divided by.
    truth = float(sizes.sum() / coins.sum(1).abs().mean())
    assert float(random_signs(sizes)) == pytest.approx(truth, rel=0.05)
    assert float(cancellation(torch.zeros(1, 4)).isnan())


def test_intervals_of_paired_shares_hold_the_truth_even_where_nothing_changed():
    g = torch.Generator().manual_seed(12)
    held = 0
    for _ in range(2000):
        u = torch.rand(40, generator=g, dtype=torch.float64)
        found = paired_shares((u < 0.1).double() - (u > 0.97).double())
        held += found.low <= 0.07 <= found.high
    assert held / 2000 >= 0.93
    assert paired_shares(torch.zeros(40)).high > 0
