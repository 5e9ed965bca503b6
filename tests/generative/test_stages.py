"""A generated sample is exactly the sum of what each draw of training added at each stage."""

from __future__ import annotations

import pytest
import torch

import kernelscope as ks
from kernelscope.decomposition.result import CHANNELS
from kernelscope.errors import DataError, OutOfBudget
from kernelscope.generative.denoising.noise import schedule
from kernelscope.generative.stages.optimal_result import first_of_the_last
from kernelscope.generative.stages.result import DiffusionExplanation
from kernelscope.generative.stages.stages import explain_diffusion, explain_optimal
from kernelscope.generative.training import train_diffusion
from tests.generative.denoisers import RATE, SPREAD, LinearCore, at, draws, gradient, mlp, points, recorded

LEVELS = schedule(5, lowest=0.05, highest=5.0)


def latents(q: int = 2, d: int = 3) -> torch.Tensor:
    return torch.randn(q, d, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def told(run, **options) -> DiffusionExplanation:
    return explain_diffusion(run, latents(), levels=LEVELS, bins=3, progress=False, **options)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "decay"])
@pytest.mark.parametrize("directions", [None, "displacement", 2])
def test_cells_and_channels_are_all_that_training_changed(optimizer, directions):
    why = told(recorded(mlp(), points(), optimizer), directions=directions)
    one, two = why.completeness()
    assert one <= 1e-10
    assert two <= 1e-12
    assert why.telescoped() <= 1e-15
    assert why.check().ok
    # The change is computed from the sampler, so that the ledger is compared with something else.
    assert float(why.change.abs().min()) > 1e-6


@pytest.mark.parametrize("weights", ["average", "average apart"])
@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_samples_of_averaged_weights_are_complete_too(weights, optimizer):
    run = recorded(mlp(), points(), optimizer, average=True)
    why = told(run, weights=weights)
    assert why.completeness()[0] <= 1e-10
    assert ("average" in why.channels) == (weights == "average apart")
    trained = told(run)
    assert float((why.final - trained.final).abs().max()) > 1e-4
    if weights == "average apart":
        assert float(why.channels["average"].abs().max()) > 1e-4


def test_stage_contributions_add_up_to_the_last_stage():
    why = told(recorded(mlp(), points(), "adam"))
    for by in ("image", "bin", "image and bin"):
        total = why.stage_contributions(by).sum((1, 3))
        parts = sum(part[:, -1] for part in why.channels.values())
        assert torch.allclose(total + parts, why.change[:, -1], atol=1e-13)


def test_cells_of_a_sample_are_its_contribution_in_the_ledger():
    run = recorded(mlp(), points(), "adam")
    why = told(run)
    y, sigma = why.points.flatten(0, 1), why.levels.repeat(len(why))
    ledger = ks.decompose(run, (y, sigma), progress=False)
    b = (sigma * SPREAD / (sigma**2 + SPREAD**2).sqrt())[:, None, None]
    mine = why.contributions("image").flatten(0, 1)
    assert torch.allclose(mine, b * ledger.contributions, atol=1e-14)
    for name in CHANNELS:
        if name != "data":
            assert torch.allclose(why.channels[name].flatten(0, 1), b[..., 0] * ledger.channels[name], atol=1e-14)


def test_a_linear_denoiser_is_split_by_products_of_its_points():
    run = recorded(LinearCore(3), points(), "sgd")
    why = told(run)
    scale = lambda sigma: (sigma**2 + SPREAD**2).rsqrt()
    expected = torch.zeros_like(why.tensor)
    for q in range(len(why)):
        for s, level in enumerate(why.levels):
            for k, i, y, sigma, target, count in draws(run):
                bin_ = int((sigma > why.edges).sum())
                error = 2 / 3 * (at(run, k, y, sigma) - target)
                product = scale(sigma) * scale(level) * (y @ why.points[q, s])
                expected[q, s, :, bin_, i] -= level * SPREAD * scale(level) * RATE / count * error * product
    assert torch.allclose(why.tensor, expected, atol=1e-13)


def test_a_network_is_split_as_two_nested_loops_split_it():
    run = recorded(mlp(), points(), "sgd", steps=3)
    why = told(run)
    expected = torch.zeros_like(why.tensor)
    b = why.levels * SPREAD / (why.levels**2 + SPREAD**2).sqrt()
    for k in range(len(run)):
        here, later = run.parameters(k), run.parameters(k + 1)
        middle = {name: (here[name] + later[name]) / 2 for name in here}
        step = torch.cat([(later[name] - here[name]).flatten() for name in here])
        own = [draw for draw in draws(run) if draw[0] == k]
        of_draws = [gradient(run, k, lambda p, k=k, y=y, s=s, t=t: (at(run, k, y, s, p) - t).square().mean(), here)
                    for _, _, y, s, t, _ in own]
        for q in range(len(why)):
            for s, level in enumerate(why.levels):
                for c in range(3):
                    value = lambda p, k=k, y=why.points[q, s], level=level, c=c: at(run, k, y, level, p)[c]
                    p = gradient(run, k, value, middle)
                    p = p + (value(later) - value(here) - p @ step) / (step @ step) * step
                    for (_, i, _, sigma, _, count), g in zip(own, of_draws, strict=True):
                        expected[q, s, c, int((sigma > why.edges).sum()), i] -= b[s] * RATE / count * (p @ g)
    assert torch.allclose(why.tensor, expected, atol=1e-12)


def test_one_direction_is_the_projection_of_every_number():
    run = recorded(mlp(), points(), "adam")
    whole, one = told(run), told(run, directions="displacement")
    along = torch.einsum("qmd,qkdbn->qkmbn", one.directions, whole.tensor)
    assert torch.allclose(along, one.tensor, atol=1e-14)
    assert torch.allclose(whole.toward("bin"), one.toward("bin"), atol=1e-13)


def test_single_precision_closes_to_its_own_round_off():
    why = told(recorded(mlp(), points(), "adam"), dtype=torch.float32)
    assert why.completeness()[1] <= 1e-5
    assert why.check().ok


def test_groups_of_labels_hold_their_images():
    run = recorded(mlp(), points(), "adam")
    words = ["a", "b"] * 6
    why = told(run, labels=words)
    both = why.contributions("label")
    assert why.group_names("label") == ["a", "b"]
    assert torch.allclose(both[..., 0], why.contributions("image")[..., ::2].sum(-1))
    assert torch.allclose(why.contributions("label and bin").sum(-1), both.sum(-1))
    assert len(why.group_names("label and bin")) == 6
    with pytest.raises(DataError, match="No labels"):
        told(run).contributions("label")


def test_percentages_are_refused_where_contributions_cancel():
    why = told(recorded(mlp(), points(), "adam"))
    for stage in range(5):
        refused = bool(why.top(stage=stage)["share"].isna().all())
        assert refused == (float(why.cancellation("image")[0, stage]) > 10) == (not why.divisible(stage=stage))
        found = why.top(stage=stage)
        assert found["rank"][0] == 1
        assert found["rank"].is_monotonic_increasing
        assert found["centred"].is_monotonic_decreasing


def test_the_optimal_denoiser_gives_what_it_takes():
    why = explain_optimal(points(30), torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    assert float(why.stage_contributions().sum(-1).abs().max()) <= 1e-15
    assert torch.allclose(torch.einsum("qkn,nd->qkd", why.weights, points(30)), why.denoised, atol=1e-14)
    assert bool((torch.cdist(why.final, points(30)).amin(1) < 1e-6).all())
    assert why.check().ok


def test_a_copy_is_called_memorised_and_a_mixture_composed():
    x = points(20)
    run = recorded(mlp(), x, "adam")
    why = told(run, held_out=points(40)[20:])
    from dataclasses import replace

    copied = replace(why, ratios=torch.tensor([0.1, 0.9], dtype=torch.float64))
    assert copied.verdict(0).startswith("memorised")
    assert copied.verdict(1).startswith("composed")
    assert "held-out" in copied.verdict(0)


def test_posterior_weights_are_those_of_the_softmax():
    why = told(recorded(mlp(), points(), "sgd", steps=20))
    y, level = why.points[0, 2], why.levels[2]
    naive = torch.softmax(-(y - why.clean).square().sum(1) / (2 * level**2), 0)
    assert torch.allclose(why.log_weights[0, 2].exp(), naive, atol=1e-12)


def test_questions_that_cannot_be_answered_say_why():
    run = recorded(mlp(), points(), "sgd", steps=1)
    with pytest.raises(DataError, match="shape"):
        explain_diffusion(run, torch.zeros(1, 4))
    with pytest.raises(DataError, match="descending"):
        explain_diffusion(run, latents(), levels=LEVELS.flip(0))
    with pytest.raises(DataError, match="averaged"):
        told(run, weights="average")
    with pytest.raises(OutOfBudget, match="displacement"):
        told(run, directions=None, memory=100)
    with pytest.raises(DataError, match="directions"):
        told(run, directions=torch.zeros(2, 5))


def test_the_explanation_is_kept_and_opened(tmp_path):
    why = told(recorded(mlp(), points(), "adam"))
    why.save(tmp_path / "why")
    again = DiffusionExplanation.load(tmp_path / "why")
    assert torch.equal(again.tensor, why.tensor)
    assert repr(again) == repr(why)
    assert len(why.to_frame()) == 10
    assert first_of_the_last(torch.tensor([1, 1])) == 0


def test_images_that_training_never_drew_are_not_counted():
    x = points(12)
    few = recorded(mlp(), x, "sgd", steps=1)
    words = ["seen" if one else "unseen" for one in few.samples.seen.tolist()]
    why = told(few, labels=words)
    drawn = few.samples.seen
    assert 2 < int(drawn.sum()) < 12
    assert torch.equal(why.shown(), drawn)
    expected = why.contributions()[..., drawn]
    expected = expected - expected.mean(-1, keepdim=True)
    assert torch.allclose(why.centred()[..., drawn], expected, atol=1e-15)
    assert not why.centred()[..., ~drawn].any()
    sizes = expected.norm(dim=-2)
    share = sizes / sizes.sum(-1, keepdim=True)
    assert torch.allclose(why.concentration().participation, 1 / share.square().sum(-1), atol=1e-10)
    top = why.top(12)
    assert set(top.group) == {f"image {i}" for i in drawn.nonzero().flatten().tolist()}
    assert top["rank"].tolist() == list(range(1, int(drawn.sum()) + 1))
    assert top.centred.sum() == pytest.approx(0, abs=1e-12)
    # Of two classes one was never drawn, and of a class alone there is nothing beside it.
    assert why.shown("label").tolist() == [True, False]
    assert not why.centred("label").any()
    pairs = why.centred("image and bin").unflatten(-1, (3, 12))
    assert not pairs[..., ~drawn].any()
    assert torch.allclose(pairs.sum((-2, -1)), torch.zeros(()).double(), atol=1e-14)
    assert why.shown("label and bin").tolist() == [True, False] * 3
    assert why.shown("bin").tolist() == [True] * 3


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_what_is_called_a_copy_is_compared_with_different_images(dtype, near):
    once = points(5)
    # Each is told from a point with noise of its own, so that twins agree to rounding only.
    alone = train_diffusion(once, width=4, steps=8, batch=8, dtype=dtype)
    twice = train_diffusion(once.repeat(4, 1), width=4, steps=30, batch=8, dtype=dtype)
    assert bool(alone.samples.seen.all())
    assert int(twice.samples.seen.sum()) > 15
    one, other = (explain_diffusion(run, latents(1), levels=schedule(3), directions="displacement", progress=False)
                  for run in (alone, twice))
    assert torch.allclose(one.null_ratios.sort().values, other.null_ratios.sort().values, atol=near)
    assert len(other.clean[other.log_weights[0, 0].isfinite()].unique(dim=0)) == 5
    assert float(other.ratios) > 1e-6
    assert float(one.null_ratios.min()) > 0.05
    away = torch.cdist(once, once).fill_diagonal_(torch.inf).sort(1).values
    assert torch.allclose(one.null_ratios.sort().values, (away[:, 0] / away[:, 1]).sort().values, atol=near)


def test_two_images_have_no_null(tmp_path):
    run = train_diffusion(points(2), width=4, steps=5, batch=4, dtype=torch.float64)
    why = explain_diffusion(run, latents(1), levels=schedule(3), directions="displacement", progress=False)
    assert len(why.null_ratios) == 0
    assert "too few different training images" in why.verdict()
    why.save(tmp_path / "why")
    assert DiffusionExplanation.load(tmp_path / "why").verdict() == why.verdict()
