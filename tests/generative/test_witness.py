"""The critic as a running witness function."""

import dataclasses

import pytest
import torch
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.generative.games.witnessing import Witness, witness

from .random_games import latents, small_game

GAMES = ["non-saturating", "wasserstein", "hinge"]


def points(game, count=3):
    return game.generated(latents(count))


@pytest.mark.parametrize("rule", ["sgd", "momentum", "adam", "adamw"])
@pytest.mark.parametrize("kind", GAMES)
def test_the_shares_add_up_to_the_change_of_the_score(kind, rule):
    game = small_game(kind, rule, r1=0.3)
    found = witness(game, points(game))
    first, last = (game.score(points(game), game.critic.parameters(k)) for k in (0, len(game.critic)))
    terms = found.parts().sum(1) + sum(found.channels.values())
    assert torch.allclose(terms, last - first, rtol=0, atol=1e-12 * float(found.magnitude.max()))
    assert (found.residual.abs() <= 1e-13 * found.magnitude).all()
    assert found.check().ok


def test_a_witness_is_the_decomposition_of_the_critics_run():
    game = small_game(r1=0.3)
    d = ks.decompose(game.critic, points(game), output=0)
    found = witness(game, points(game))
    every = torch.cat([found.real, found.penalty, found.fake], 1)
    assert torch.allclose(every, d.contributions[:, 0], rtol=1e-10, atol=1e-14)


def test_the_witness_of_a_linear_critic_is_a_sum_of_inner_products():
    """D(x) = <w, x> under SGD on the Wasserstein loss: each step adds rate / B times what was shown."""
    game = small_game("wasserstein", "sgd", r1=0.5, judge=nn.Linear(2, 1, bias=False))
    x, rate, batch = points(game), 0.05, 4
    n = game.real
    real, penalty = torch.zeros(len(x), n, dtype=torch.float64), torch.zeros(len(x), n, dtype=torch.float64)
    fake = torch.zeros(len(x), batch, dtype=torch.float64)
    for k in range(len(game.critic)):
        w = game.critic.parameters(k)["network.weight"][0]
        for micro in game.critic.step(k).batches:
            (shown,), _ = game.critic.samples.read(micro)
            for place, y in zip(micro.columns.tolist(), shown, strict=True):
                if place < n:
                    real[:, place] += rate / batch * (x @ y)
                elif place < 2 * n:
                    penalty[:, place - n] -= rate / batch * 0.5 * (x @ w)
                else:
                    fake[:, place - 2 * n] -= rate / batch * (x @ y)
    found = witness(game, x)
    for one, other in ((found.real, real), (found.penalty, penalty), (found.fake, fake)):
        assert torch.allclose(one, other, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_the_field_splits_completely(rule):
    game = small_game("non-saturating", rule, r1=0.3)
    x = points(game)
    found = witness(game, x, field=True).of_field
    total = found["initial"] + found["real"].sum(2) + found["penalty"] + found["fake"] + found["others"]
    assert torch.allclose(total, game.slope(x), rtol=0, atol=1e-10 * float(found["magnitude"].max()))
    assert torch.allclose(found["initial"], game.slope(x, game.critic.parameters(0)), atol=1e-13)


def test_the_pieces_of_the_field_are_the_gradients_of_the_shares():
    """By central differences of each real point's share of the score, where the quadrature has no part in it."""
    game = small_game("wasserstein", "sgd", steps=4)
    x, h = points(game, 2), 1e-5
    pieces = witness(game, x, field=True).of_field["real"]
    for axis in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[axis] = h
        slope = (witness(game, x + step).real - witness(game, x - step).real) / (2 * h)
        # Discrete gradients of score and slope differ by the square of a step of 1e-2.
        assert (slope - pieces[:, axis]).abs().max() <= 1e-3 * slope.abs().max()


def test_classes_are_sums_of_their_real_points():
    game = small_game()
    labels = list("abababb")
    split = witness(game, points(game), labels=labels, field=True)
    alone = witness(game, points(game), field=True)
    a = torch.tensor([label == "a" for label in labels])
    assert torch.allclose(split.of_field["real"][..., 0], alone.of_field["real"][..., a].sum(-1), atol=1e-14)
    assert torch.allclose(split.by_group()["a"], alone.real[:, a].sum(1), atol=1e-14)
    assert torch.allclose(split.classes()[:, 0], alone.centred[:, a].sum(1), atol=1e-14)


def test_ranks_are_those_of_centred_shares():
    found = witness(small_game(), latents())
    best = found.centred.argmax(1)
    assert (found.ranks()[range(3), best] == 1).all()
    assert found.top(2, query=1)["real"][0] == best[1]


def test_groups_that_cancel_are_told_together():
    """A hinge critic whose scores lie inside the margin: its output bias has as many real points as generated ones."""
    game = small_game("hinge", "adam without momentum", steps=5)
    x = points(game)
    apart = ks.decompose(game.critic, x, output=0).contributions.abs().max()
    found = witness(game, x)
    # Without it a step of 1e-3 over a root of nought blows shares up to 1e-3 / (B eps).
    assert apart > 1e3
    assert found.real.abs().max() < 1
    assert found.info["cancelled"] == 5
    assert any("network.2.bias" in note for note in found.info["notes"])
    assert (found.residual.abs() <= 1e-12 * found.magnitude).all()
    assert "told together" in found.summary()


def test_nothing_is_told_together_where_the_rule_does_not_divide():
    game = small_game("hinge", "sgd", steps=5)
    found = witness(game, points(game))
    assert found.info["cancelled"] == 0
    assert not found.channels["cancelled"].any()


def test_no_percentages_are_told_of_what_cancels():
    many, few = witness(small_game("hinge", "adam", steps=20), latents()), None
    assert many.kappa == pytest.approx(float(
        sum(c.norm() for c in many.by_group().values()) / sum(many.by_group().values()).norm()))
    for seed in range(5):
        found = witness(small_game("wasserstein", "sgd", seed=seed), latents())
        assert ("%" in found.summary()) == (found.kappa <= 10)
        few = found if found.kappa <= 10 else few
    assert few is not None


def test_a_witness_reads_as_a_table_and_is_kept(tmp_path):
    game = small_game(r1=0.3)
    found = witness(game, points(game), labels=list("abababb"), own=list("aba"))
    again = Witness.load(found.save(tmp_path / "w"))
    assert again.summary() == found.summary()
    assert torch.equal(again.real, found.real)
    frame = found.to_frame()
    assert frame["share"].sum() == pytest.approx(float((found.final - found.initial).sum()), abs=1e-9)
    assert 0 <= found.own_class() <= 1


def test_points_that_were_never_shown_are_missing_from_the_pictures_alone():
    game = small_game(steps=1, real=40)
    found = witness(game, points(game))
    assert found.shown.isnan().any()
    assert found.real.isfinite().all()


@pytest.mark.parametrize(("change", "sentence"), [
    ({"labels": ["a"]}, "7 real points"), ({"own": ["a"]}, "3 points"), ({"field": 1}, "True or False"),
    ({"run": 3}, "GANRun"), ({"x": torch.zeros(3, 5, 1)}, "shaped like"),
    ({"x": torch.zeros(3, 5)}, r"\(q, 2\); got \(3, 5\)"),
])
def test_what_does_not_fit_is_refused(change, sentence):
    game = small_game(steps=1)
    asked = {"run": game, "x": points(game), **change}
    with pytest.raises(DataError, match=sentence):
        witness(asked.pop("run"), asked.pop("x"), **asked)


def test_asking_changes_nothing():
    game = small_game(r1=0.3)
    before, state = game.critic.fingerprint(), torch.get_rng_state()
    witness(game, points(game), field=True)
    assert game.critic.fingerprint() == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_witness_is_drawn_with_its_cancellation_in_the_title(theme):
    found = witness(small_game(r1=0.3), latents())
    title = found.plot(theme=theme).get_title(loc="left")
    assert f"{found.kappa:.2g}" in title
    assert f"{float(found.cancellation[1]):.2g}" in found.plot(query=1).get_title(loc="left")


def test_points_that_were_never_shown_have_no_share_and_no_rank():
    game = small_game(real=40, steps=2)
    found = witness(game, points(game))
    assert 0 < int(found.seen.sum()) <= 8
    assert not found.centred[:, ~found.seen].any()
    assert found.centred[:, found.seen].sum(1).abs().max() < 1e-12
    assert found.ranks()[:, ~found.seen].min() > found.ranks()[:, found.seen].max()
    assert set(found.top(40)["real"]) == set(found.seen.nonzero().flatten().tolist())
    assert f"{int(found.seen.sum())} of 40 real" in found.summary()


def test_a_witness_names_whatever_moved_the_score():
    found = witness(small_game(steps=2), torch.randn(1, 2, dtype=torch.float64))
    assert found.summary().startswith("Witness(1 point, ")
    assert "buffers" not in found.summary()
    moved = {**found.channels, "buffers": found.final - found.initial}
    assert ", buffers " in dataclasses.replace(found, channels=moved).summary()
