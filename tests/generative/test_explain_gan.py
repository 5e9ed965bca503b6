"""Generated points traced to real ones: what is told, and what is kept."""

import dataclasses

import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError, OutOfBudget, StoreError
from kernelscope.generative import explain_gan
from kernelscope.generative.games.masses import mass, modes
from kernelscope.generative.games.result import GANExplanation
from kernelscope.generative.measures import concentration

from .random_games import latents, small_game

LABELS = list("aabbbcc")


@pytest.fixture(scope="module")
def game():
    return small_game(r1=0.3, critic_steps=2, steps=6)


@pytest.fixture(scope="module", params=["frozen", "path"])
def found(request, game):
    return explain_gan(game, latents(), how=request.param, labels=LABELS)


def test_the_way_is_named_and_the_numbers_are_told(found):
    said = found.summary()
    assert f'how="{found.how}"' in said
    assert f"{found.kappa:.3g}" in said
    assert found.to_frame()["how"].unique().tolist() == [found.how]
    assert found.to_frame()["amount"].sum() == pytest.approx(float(found.total.sum()), rel=1e-9)
    assert found.check().ok


def test_percentages_of_the_motion_are_told_where_little_cancels(found):
    assert ("the first critic made" in found.said()) == (found.kappa <= 10)


def test_the_two_ways_are_two_answers(game):
    frozen, path = explain_gan(game, latents()), explain_gan(game, latents(), how="path")
    assert not torch.allclose(frozen.real, path.real)


def test_an_explanation_is_kept(found, tmp_path):
    again = GANExplanation.load(found.save(tmp_path / "e"))
    for load in (ks.load, ks.generative.load):
        with pytest.raises(StoreError, match=r"Open it with kernelscope\.generative\.GANExplanation\.load\("):
            load(tmp_path / "e")
    with pytest.raises(StoreError, match=r"Open it with kernelscope\.generative\.Witness\.load\("):
        ks.load(found.witness.save(tmp_path / "w"))
    assert again.summary() == found.summary()
    assert torch.equal(again.real, found.real)
    assert torch.equal(again.witness.real, found.witness.real)
    assert again.to_frame().equals(found.to_frame())
    assert again.witness.to_frame().equals(found.witness.to_frame())


def test_mass_sums_to_one_and_forgets_what_all_do_alike():
    shares = torch.randn(4, 2, 9, dtype=torch.float64)
    assert float(mass(shares).sum()) == pytest.approx(1)
    assert torch.allclose(mass(shares + 7), mass(shares))
    assert not mass(torch.ones(2, 5)).any()


def test_a_mode_that_nothing_is_generated_of_is_dropped():
    """Two clusters, of which one is generated; its images alone have mass."""
    source = torch.Generator().manual_seed(0)
    real = torch.randn(40, 2, generator=source) + torch.arange(2).repeat_interleave(20)[:, None] * 50
    weights = torch.cat([torch.full((20,), 1 / 20), torch.zeros(20)]).double()
    made = torch.randn(200, 2, generator=source)
    near, numbers = modes(weights, real, made, made + 500, torch.cat([made[:20], made[:20] + 50]))
    assert near[:20].double().mean() > 0.8
    assert not near[20:].any()
    assert numbers["dropped"] == 20
    assert numbers["dropped_shuffled"] < 15
    assert numbers["auroc"] > numbers["auroc_shuffled_high"]
    assert numbers["covered_untrained"] == 0
    assert numbers["covered_by_real"] > 0.9
    # Where the mass is on the other mode, it says the opposite; where all have the same, nothing.
    assert modes(weights.flip(0), real, made, made, None)[1]["auroc"] < numbers["auroc_shuffled_low"]
    assert modes(torch.full((40,), 1 / 40).double(), real, made, made, None)[1]["auroc"] == 0.5


def test_classes_share_the_mass(found):
    classes = found.by_class()
    assert list(classes) == ["a", "b", "c"]
    for word in ("mass", "images"):
        assert sum(each[word] for each in classes.values()) == pytest.approx(1)


def test_the_age_of_a_real_point_lies_between_the_last_and_the_first_step(found, game):
    last = torch.full((game.real,), -1)
    for k in range(len(game.critic)):
        drawn = game.critic.step(k).batches[0].columns
        last[drawn[drawn < game.real]] = len(game.critic) - 1 - k
    assert torch.equal(found.last, last)
    shown = last >= 0
    assert (found.age[shown] >= last[shown] - 1e-9).all()
    assert (found.age[shown] <= len(game.critic)).all()


def test_steps_add_up_to_the_shares(found):
    kinds = torch.stack([found.real.sum(-1), found.penalty.sum(-1), found.fake.sum(-1)], -1)
    assert torch.allclose(found.by_step.sum(-1), kinds, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("output", [None, "all", 1, lambda made: made.square().sum(1)])
@pytest.mark.parametrize("how", ["path", "frozen"])
def test_any_output_is_explained_completely(game, output, how):
    asked = explain_gan(game, latents(2), how=how, output=output)
    assert (asked.residual.abs() <= 1e-12 * asked.magnitude).all()


def test_held_out_points_are_the_ceiling_of_coverage(game):
    everything = game.points
    assert explain_gan(game, latents(1), held=everything).modes["covered_by_real"] == 1


@pytest.mark.parametrize(("change", "sentence"), [
    ({"how": "counterfactual"}, "frozen"), ({"chord": 0}, "chord"), ({"labels": ["a"]}, "7 real points"),
    ({"draws": 0}, "draws"), ({"output": 9}, "none of the network's 2 outputs"),
    ({"z": torch.zeros(2, 5)}, r"\(q, 2\); got \(2, 5\)"), ({"z": torch.zeros(0, 2)}, "z must hold a latent"),
    ({"held": torch.zeros(2, 5)}, r"\(q, 2\); got \(2, 5\)"),
])
def test_what_does_not_fit_is_refused(game, change, sentence):
    with pytest.raises(DataError, match=sentence):
        explain_gan(game, **{"z": latents()} | change)


def test_a_run_is_no_game(game):
    with pytest.raises(DataError, match="GANRun"):
        explain_gan(game.critic, latents())


def test_what_does_not_fit_into_memory_is_refused(game):
    with pytest.raises(OutOfBudget, match="MiB"):
        explain_gan(game, latents(), how="path", output="all", memory=16)


def test_asking_changes_nothing(game):
    before, state = game.fingerprint(), torch.get_rng_state()
    explain_gan(game, latents(), how="path")
    assert game.fingerprint() == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("show", ["images", "mass"])
def test_an_explanation_is_drawn(found, show):
    for theme in ("light", "dark"):
        assert found.plot(show=show, theme=theme).get_title(loc="left")


def test_square_images_are_drawn_as_pictures():
    x = torch.randn(9, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    game = ks.generative.train_gan(x, width=3, steps=3, batch=4, latents=2, dtype=torch.float64)
    ax = explain_gan(game, latents(2), labels=[0, 1, 2] * 3).plot(query=1, k=3)
    assert len(ax.images) == 4


def test_an_explanation_reads_on_a_page(found, tmp_path):
    page = ks.Report("A game", [found, found.witness]).save(tmp_path / "page.html").read_text()
    assert "What moved the generator" in page
    assert "running witness" in page


def test_a_network_that_recording_averages_is_explained_as_it_was_trained():
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    game = ks.generative.train_gan(x, width=3, steps=4, batch=4, latents=2, critic_steps=2, average=0.9,
                                   dtype=torch.float64)
    asked = explain_gan(game, latents(2), how="path", chord=1)
    assert (asked.residual.abs() <= 1e-12 * asked.magnitude).all()


def test_images_that_the_critic_never_saw_have_no_mass():
    found = explain_gan(small_game(real=40, steps=3), latents(2), labels=["a"] * 20 + ["b"] * 20)
    count = int(found.seen.sum())
    assert 4 <= count <= 12
    assert not found.mass[~found.seen].any()
    assert not found.centred[..., ~found.seen].any()
    assert float(found.mass.sum()) == pytest.approx(1)
    alone = found.real[..., found.seen]
    assert torch.allclose(found.mass[found.seen], mass(alone))
    assert float(found.concentration.gini) == pytest.approx(float(concentration(mass(alone)).gini))
    assert set(found.top(40)["real"]) <= set(found.seen.nonzero().flatten().tolist())
    assert sum(each["images"] for each in found.by_class().values()) == pytest.approx(1)
    assert f"{count} of 40 real images seen" in found.summary()
    # An image is faint by what each of those shown would have, not by what each of all would.
    assert found.modes["faint"] == pytest.approx(float((found.mass[found.seen] < 0.1 / count).double().mean()))


def test_every_term_that_is_no_small_part_of_the_motion_is_named(found):
    assert "buffers" not in found.said()
    larger = {**found.critic, "buffers": found.total * 3}
    assert "the critic's buffers" in dataclasses.replace(found, critic=larger).said()
    drawn = {**found.generator, "unattributed": found.total / 2}
    assert "the generator's unattributed" in dataclasses.replace(found, generator=drawn).said()
    small = {**found.critic, "buffers": found.total / 1000}
    assert "buffers" not in dataclasses.replace(found, critic=small).said()


def test_one_point_is_a_point(game):
    assert ": 1 point, " in explain_gan(game, latents(1)).summary()


def test_the_drawing_says_what_the_first_critic_made(found):
    title = found.plot(query=1).get_title(loc="left").replace("\n", " ")
    assert f"the first critic alone made {float(found.first_critic[1, 0]):+.2g}" in title
