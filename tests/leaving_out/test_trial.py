"""The ceiling of noise and the choice of settings, on answers whose truth is known."""

import math

import pytest
import torch

from kernelscope.diagnostics.leaving_out.choosing import chosen_elsewhere
from kernelscope.diagnostics.leaving_out.subsets import drawn_members
from kernelscope.diagnostics.leaving_out.trial import longer, subset_trial
from kernelscope.errors import DataError
from kernelscope.ranks import spearman

from .runs import normal


def noisy(noise, seeds, q=40, n=60, subsets=80, first=2):
    effects, members = normal(q, n, seed=1), drawn_members(subsets, n, 0.5, 0)
    answers = members.double() @ effects.T
    return effects, members, answers + noise * answers.std(0) * normal(seeds, subsets, q, seed=first)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_another_set_of_as_many_seeds_foretells_by_the_reliability(seeds):
    effects, members, measured = noisy(1.0, seeds)
    found = subset_trial({"effects": ("influence", effects)}, members, measured)
    again = noisy(1.0, seeds, first=77)[2].mean(0)
    other = float(spearman(again.T, measured.mean(0).T).mean())
    # Of 40 queries over 80 subsets a correlation is known to 1 / sqrt(79 * 40) = 0.018; both sides and the halves are.
    assert abs(found.reliability - other) < 0.06
    # By the law of averages; ranks have up to 0.02 less than a linear law.
    assert abs(found.reliability - 1 / (1 + 1 / seeds)) < 0.07
    assert abs(found.ceiling - found.interval("effects").mean) < 0.06
    assert found.ceiling == math.sqrt(found.reliability)


def test_the_formula_of_spearman_and_brown_is_that_of_averages():
    # A signal of variance 1 under noise of variance v: one draw correlates by 1 / (1 + v), the mean of k by
    # 1 / (1 + v / k).
    for v in (0.1, 1.0, 3.0):
        for k in (1, 1.5, 2, 3, 10):
            assert longer(1 / (1 + v), k) == pytest.approx(1 / (1 + v / k), abs=1e-12)


def test_training_without_noise_needs_one_seed_and_has_the_ceiling_one():
    effects, members, measured = noisy(0.0, 1)
    with pytest.raises(DataError, match="2 seeds"):
        subset_trial({"effects": ("influence", effects)}, members, measured)
    found = subset_trial({"effects": ("influence", effects)}, members, measured, exact=True)
    assert (found.ceiling, found.reliability, found.interval("effects").mean) == (1.0, 1.0, 1.0)
    assert "no noise" in repr(found)


def test_a_setting_is_judged_on_queries_that_it_was_not_chosen_on():
    q, n = 40, 30
    members, answers = drawn_members(16, n, 0.5, 0), normal(16, q, seed=5)
    settings = {str(i): normal(q, n, seed=100 + i) for i in range(40)}
    found, _ = chosen_elsewhere(settings, members, answers)

    def lds(scores):
        return float(spearman(scores @ members.double().T, answers.T).mean())

    # Of 40 random scores the best by its own queries is at its luck; one that is chosen elsewhere is not.
    deviation = 1 / math.sqrt(15 * q)
    assert max(lds(scores) for scores in settings.values()) > 1.5 * deviation
    assert abs(lds(found)) < 3 * deviation
    with pytest.raises(DataError, match="one query"):
        chosen_elsewhere({name: value[:1] for name, value in settings.items()}, members, answers[:, :1])


def test_each_half_of_the_queries_has_what_does_best_on_the_other():
    members = drawn_members(20, 12, 0.5, 0)
    right = normal(6, 12, seed=3)
    answers = (right @ members.double().T).T
    # One setting is right of even queries, the other of odd ones: each half gets what is right of the other.
    even = torch.arange(6)[:, None] % 2 == 0
    settings = {"even": torch.where(even, right, -right), "odd": torch.where(even, -right, right)}
    found, word = chosen_elsewhere(settings, members, answers)
    assert word == "odd / even"
    assert torch.equal(found, -right)
