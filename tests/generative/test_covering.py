import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from kernelscope import plots
from kernelscope.errors import DataError
from kernelscope.generative import Denoiser
from kernelscope.generative.measures import coverage_density
from kernelscope.generative.networks import NoiseMLP, critic, generator
from kernelscope.generative.trials.covering import CoveragePlan, CoverageTrial, Setting, coverage_trial
from kernelscope.report import Report
from kernelscope.result import Result


def points(n=80):
    # Away from where samples of untrained networks are.
    return 3 + 0.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0))


def tried(**given):
    plan = CoveragePlan((Setting(1e-9), Setting(1e-2)), (Setting(1e-3, r1=0.1), Setting(1e-9)), steps=40,
                        seeds=(5, 6, 7, 8, 9), searched=(0, 1), latents=3, batch=16, stages=6)
    x = points()
    return coverage_trial(lambda: Denoiser(NoiseMLP(2, width=8), 1.0), lambda: generator(3, 2, 6),
                          lambda: critic(2, 6), x[:50], x[50:], replace(plan, **given))


@pytest.fixture(scope="module")
def trial():
    return tried()


def made(one, other, matched=0.0):
    """A trial of five seeds with the given coverages at the ends."""
    coverage = torch.tensor([[matched] * 5, one, [0.9] * 5, other], dtype=torch.float64)
    rows = [{"model": model, "setting": str(rate), "rate": rate, "coverage": 0.5, "memorised": 0.0,
             "chosen": rate == 2.0} for model in ("denoiser", "GAN") for rate in (1.0, 2.0, 3.0)]
    return CoverageTrial(["denoiser", "denoiser", "GAN", "GAN"], [4, 8, 4, 8], torch.tensor([1.0, 2.0, 3.0, 6.0]),
                         {"coverage": coverage, "density": coverage * 2, "memorised": coverage * 0}, {}, rows,
                         {"batch": 2, "parameters of the denoiser": 100, "parameters of the GAN": 99})


def test_two_models_are_apart_only_if_the_paired_interval_leaves_out_nought():
    # A difference of 0.1 with a deviation over seeds, and one that all seeds agree on though seeds themselves differ.
    noisy = made([0.5, 0.7, 0.6, 0.4, 0.8], [0.6, 0.4, 0.7, 0.5, 0.3])
    paired = made([0.1, 0.3, 0.5, 0.7, 0.9], [0.08, 0.29, 0.47, 0.69, 0.88])
    assert noisy.apart(1, 3) is False
    assert "not apart" in noisy.said()
    assert paired.apart(1, 3) is True
    assert "not apart" not in paired.said()
    gaps = (paired.values["coverage"][1] - paired.values["coverage"][3]).numpy()
    low, high = stats.t.interval(0.95, 4, loc=gaps.mean(), scale=stats.sem(gaps))
    found = paired.difference("coverage", 1, 3)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))
    few = replace(paired, values={name: table[:, :4] for name, table in paired.values.items()})
    assert few.apart(1, 3) is None
    assert "too few seeds" in few.said()


def test_matched_checkpoints_are_the_best_pair_within_a_twentieth():
    assert made([0.5] * 5, [0.6] * 5, matched=0.88).matched == (0, 2)
    assert made([0.58] * 5, [0.6] * 5, matched=0.1).matched == (1, 3)
    assert made([0.5] * 5, [0.6] * 5).matched is None
    assert "no two checkpoints" in made([0.5] * 5, [0.6] * 5).said()


def test_the_search_sees_no_held_out_point_and_chooses_by_validation(trial):
    # Settings that do not move a network cover less than those that do; the choice is the largest of its own table.
    for model in ("denoiser", "GAN"):
        rows = [row for row in trial.search if row["model"] == model]
        assert sum(row["chosen"] for row in rows) == 1
        assert trial.chosen(model)["coverage"] == max(row["coverage"] for row in rows)
    assert trial.chosen("denoiser")["rate"] == 1e-2
    x = points()
    other = coverage_trial(lambda: Denoiser(NoiseMLP(2, width=8), 1.0), lambda: generator(3, 2, 6),
                           lambda: critic(2, 6), x[:50], x[50:] + 9, CoveragePlan(
                               (Setting(1e-9), Setting(1e-2)), (Setting(1e-3, r1=0.1), Setting(1e-9)), steps=40,
                               seeds=(5,), searched=(0, 1), latents=3, batch=16, stages=6))
    assert other.search == trial.search


def test_ends_are_those_of_the_chosen_setting_trained_alone(trial):
    from kernelscope.generative.games.adversary import Adversary
    from kernelscope.generative.trials.many import train_many_games

    x, best = points(), trial.chosen("GAN")
    games = train_many_games(lambda: generator(3, 2, 6), lambda: critic(2, 6), x[:50], [torch.arange(50)], [5],
                             game=Adversary(r1=0.1 if best["rate"] == 1e-3 else 0.0), latents=3, steps=40, batch=16,
                             rate=best["rate"])
    source = torch.Generator().manual_seed(5)
    torch.randn(30, 2, generator=source)
    z = torch.randn(30, 3, generator=source)
    # A point on the edge of a ball may fall on either side by rounding.
    assert coverage_density(games.generators(z)[0], x[50:]).coverage == pytest.approx(
        float(trial.values["coverage"][trial.place("GAN"), 0]), abs=1.5 / 30)


def test_budgets_are_what_they_are_called(trial):
    assert trial.steps[trial.place("denoiser")] == trial.steps[trial.place("GAN")] == 40
    assert trial.steps[trial.place("denoiser, longer")] == 120
    assert bool((trial.seconds[[trial.place(name) for name in ("denoiser", "GAN")]] > 0).all())
    for name in ("the Wiener denoiser", "the optimal denoiser", "real points", "the untrained denoiser",
                 "the untrained GAN"):
        assert name in trial.nulls
    # The optimal denoiser copies; held-out points do not.
    assert float(trial.nulls["the optimal denoiser"][2]) > 0.9 > 0.5 > float(trial.nulls["real points"][2])


def test_trials_are_kept_drawn_and_shown(trial, tmp_path):
    again = Result.load(trial.save(tmp_path / "trial"))
    assert isinstance(again, CoverageTrial)
    assert repr(again) == repr(trial)
    frame = trial.to_frame()
    assert len(frame) == 15 + 5 + 4
    assert "search, GAN" in set(frame["of"])
    page = Report("Coverage", [trial]).html()
    assert "What a denoiser and a GAN cover" in page
    assert "paired difference" in page
    for over in ("CPU seconds", "presentations"):
        for measure in ("coverage", "density", "memorised"):
            assert over in plots.title(trial, over=over, measure=measure)
    assert {row.name: row.status for row in trial.check().rows}["rate of the denoiser"] == "warn"


def test_unfair_plans_are_refused():
    with pytest.raises(DataError, match="As many settings"):
        tried(games=(Setting(1e-3),))
    with pytest.raises(DataError, match="must not be judged by it"):
        tried(searched=(5,))
    with pytest.raises(DataError, match="no checkpoint of the GAN after 3 steps"):
        made([0.5] * 5, [0.6] * 5).place("GAN", 3)


def test_what_is_not_finite_covers_nothing():
    from kernelscope.generative.trials.covering import _measured

    x = points(20)
    assert _measured(torch.full((4, 2), math.nan), x, x) == [0.0, 0.0, 0.0]
    broken = torch.cat([x, torch.full((4, 2), math.inf)])
    assert _measured(broken, x, x)[0] == 1.0
