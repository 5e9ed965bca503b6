"""Two generative models side by side: the table, its nulls, the rules, and sentences that follow the numbers."""

import dataclasses
import json
import math

import pytest
import torch

import kernelscope as ks
from kernelscope.diagnostics.binomial import binomial
from kernelscope.errors import DataError
from kernelscope.generative.comparing.claims import LIMIT
from kernelscope.generative.comparing.comparing import compare
from kernelscope.generative.comparing.comparison import GenerativeComparison
from kernelscope.generative.comparing.fairness import HELD, NOT_HELD, UNKNOWN
from kernelscope.generative.comparing.localities import radius
from kernelscope.generative.comparing.metrics import METRICS, why_no_null
from kernelscope.generative.comparing.sides import DiffusionSide, GANSide
from kernelscope.generative.measures import locality
from kernelscope.generative.training import train_diffusion, train_gan
from kernelscope.measures import alignment

SIZE = 64


def blobs(count, seed=0):
    """Pictures of 8 by 8 pixels around three of them, and which."""
    source = torch.Generator().manual_seed(seed)
    middle = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % 3
    return middle[labels] + 0.3 * torch.randn(count, SIZE, generator=source), labels


X, LABELS = blobs(48)
HELD_OUT, _ = blobs(30, seed=1)
QUICK = {"held_out": HELD_OUT, "labels": LABELS, "samples": 24, "points": 8}


def denoiser(seed=0, x=X, steps=12):
    return train_diffusion(x, steps=steps, width=8, batch=16, seed=seed)


def game(seed=0, x=X, steps=12):
    return train_gan(x, steps=steps, width=8, latents=4, batch=16, seed=seed)


@pytest.fixture(scope="module")
def both():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return denoiser(), game()


@pytest.fixture(scope="module")
def found(both):
    return compare(*both, probes=1, **QUICK)


@pytest.fixture(scope="module")
def repeated():
    # Of points that are no pictures, whose kernels and Jacobians are small.
    x = X[:, :16]
    return compare([denoiser(seed, x, steps=3) for seed in range(5)], [game(seed, x, steps=3) for seed in range(5)],
                   paths=False, **QUICK | {"held_out": HELD_OUT[:, :16]})


def with_values(result, metric, slot="main", a=None, b=None):
    """The same comparison, had one row had other numbers."""
    table = json.loads(json.dumps(result.table))
    for row in table:
        if (row["metric"], row["slot"]) == (metric, slot):
            row["values"] = [old if new is None else [new] for old, new in zip(row["values"], (a, b), strict=True)]
            row["why"] = ["" if values else why for values, why in zip(row["values"], row["why"], strict=True)]
    return dataclasses.replace(result, table=table)


def claim(result, topic):
    return next(claim for claim in result.claims() if claim.topic == topic)


def test_the_table_has_every_metric_and_each_cell_a_number_or_a_reason(found):
    # In noise a model has three rows, and none that stands for them.
    assert {row.metric for row in found.rows} == set(METRICS)
    for row in found.rows:
        for value, why, where in zip(row.values, row.why, row.where, strict=True):
            assert math.isnan(value.mean) == bool(why), (row.metric, row.slot)
            assert bool(where) or bool(why)


def test_every_row_that_holds_a_number_has_a_null_or_says_why_not(found):
    for row in found.rows:
        if not all(row.why):
            assert any(row.nulls) != bool(row.why_null), (row.metric, row.slot)
        if not any(row.nulls):
            assert row.why_null == why_no_null(row.metric)


def test_nulls_are_what_they_are_known_to_be(found):
    copies = found.row("memorised").nulls[0]
    assert copies["optimal denoiser"] == 1
    assert copies["held-out points"] < 0.2
    spread, seen = found.row("n_eff").nulls[1], found.info["training points"]
    assert 40 < seen <= len(X)
    assert spread["all alike"] == seen
    assert 1 <= spread["optimal denoiser"] <= seen


def test_the_decompositions_behind_a_comparison_close(found):
    rows = [row for row in found.rows if row.metric == "completeness"]
    assert len(rows) == 4
    assert all(value.mean < 1e-12 for row in rows for value in row.values if not math.isnan(value.mean))
    assert found.check().ok


def test_from_real_points_is_all_of_a_denoiser_and_not_of_a_critic(found):
    one, other = found.row("from_real").values
    # A denoiser's training has no other points; Adam's state before the first step is nought.
    assert one.mean == pytest.approx(1, abs=1e-6)
    assert abs(other.mean - 1) > 1e-3


@pytest.fixture(scope="module")
def swapped(both):
    """The same two the other way round, and whether the random state and the runs stayed as they were."""
    state = lambda: (torch.random.get_rng_state().tolist(), both[0].fingerprint(), both[1].critic.fingerprint())
    before = state()
    return compare(*both[::-1], paths=False, **QUICK), state() == before


def test_both_are_asked_the_same_in_either_order(found, swapped):
    there, (back, _) = found, swapped
    assert back.columns == there.columns[::-1]
    for metric in ("coverage", "kernel_rank", "space_radius"):
        assert [v.mean for v in back.row(metric).values] == [v.mean for v in there.row(metric).values][::-1]
    assert torch.equal(there.bridge.generated["critic, denoiser"], back.bridge.generated["critic, denoiser"])


def test_a_comparison_leaves_the_random_state_and_the_runs_alone(swapped):
    assert swapped[1]


@pytest.mark.slow
def test_two_of_one_kind_are_compared_without_a_bridge():
    runs = denoiser(0, steps=3), denoiser(1, steps=3)
    same = compare(*runs, paths=False, **QUICK)
    assert same.bridge is None
    assert same.columns == ["diffusion 1", "diffusion 2"]
    assert not any(same.row("noise_locality", "low noise").why)
    twice = compare(runs[0], runs[0], paths=False, **QUICK)
    for row in twice.rows:
        assert row.values[0].mean == row.values[1].mean or all(row.why)


def test_five_seeds_give_intervals_and_one_gives_none(found, repeated):
    assert math.isnan(found.row("coverage").values[0].low)
    value = repeated.row("kernel_rank").values[1]
    assert value.low < value.mean < value.high
    assert "one run, no interval" in next(rule["found"] for rule in found.rules if "seeds" in rule["rule"])
    assert next(rule["held"] for rule in repeated.rules if "seeds" in rule["rule"]) == HELD


def test_other_seeds_make_other_points_of_the_same_latents(found, repeated):
    assert found.row("stability").why == ["one run; two seeds are needed"] * 2
    row = repeated.row("stability")
    assert all(-1 <= value.mean <= 1 for value in row.values)
    assert "other latents" in row.nulls[0]
    matched = repeated.row("matched_stability")
    assert all(own.mean <= best.mean + 1e-12 for own, best in zip(row.values, matched.values, strict=True))


def test_sentences_on_copies_turn_with_the_numbers(found):
    assert "No model is shown to copy" in claim(with_values(found, "memorised", a=0.0, b=0.0), "memorisation").text
    assert "diffusion copies" in claim(with_values(found, "memorised", a=0.8, b=0.0), "memorisation").text
    assert "GAN copies" in claim(with_values(found, "memorised", a=0.0, b=0.8), "memorisation").text
    assert "diffusion and GAN copy" in claim(with_values(found, "memorised", a=0.7, b=0.8), "memorisation").text


def test_sentences_on_coverage_turn_with_the_numbers(found):
    assert claim(with_values(found, "coverage", a=0.9, b=0.2), "coverage").text.startswith("diffusion covers more")
    assert claim(with_values(found, "coverage", a=0.2, b=0.9), "coverage").text.startswith("GAN covers more")
    level = claim(with_values(found, "coverage", a=0.5, b=0.52), "coverage").text
    assert level.startswith("Neither is shown to cover more")
    none = claim(with_values(found, "coverage", a=0.0, b=0.0), "coverage").text
    assert "Neither is shown to cover more than a Gaussian" in none
    assert "Neither is shown to cover more than before training" in none


def with_nulls(result, metric, **nulls):
    """The same comparison, had one row other nulls."""
    table = json.loads(json.dumps(result.table))
    words = {"untrained": "untrained network", "held_out": "held-out points"}
    for row in table:
        if row["metric"] == metric and row["slot"] == "main":
            row["nulls"] = [side | {words[name]: value for name, value in nulls.items()} for side in row["nulls"]]
    return dataclasses.replace(result, table=table)


def test_no_coverage_is_claimed_that_untrained_networks_have(found):
    ahead = with_values(found, "coverage", a=0.9, b=0.2)
    assert "diffusion covers more" in claim(with_nulls(ahead, "coverage", untrained=0.1), "coverage").text
    idle = claim(with_nulls(ahead, "coverage", untrained=0.9), "coverage").text
    assert "covers more" not in idle
    assert "Neither is shown to cover more than before training" in idle


def test_what_a_few_samples_cover_is_no_claim(found):
    ahead = with_nulls(with_values(found, "coverage", a=0.025, b=1.0), "coverage", untrained=0.0)
    assert "GAN covers more" in claim(ahead, "coverage").text
    few = claim(dataclasses.replace(ahead, info=ahead.info | {"samples": 2}), "coverage")
    assert "covers more" not in few.text
    assert "binomial" in few.null
    # One of 24 samples is what one in a hundred would have by chance, and 160 of 4,000 are not.
    copied = with_nulls(with_values(found, "memorised", a=0.04, b=0.0), "memorised", held_out=0.0)
    assert "No model is shown to copy" in claim(copied, "memorisation").text
    many = dataclasses.replace(copied, info=copied.info | {"samples": 4000})
    assert "diffusion copies" in claim(many, "memorisation").text


def test_intervals_over_seeds_take_the_place_of_binomial_ones(repeated):
    assert "binomial" not in claim(repeated, "coverage").null


def test_untrained_models_claim_nothing_of_what_they_make():
    x = X[:, :16]
    idle = compare(train_diffusion(x, steps=1, rate=1e-12, width=8), train_gan(x, steps=1, rate=1e-12, width=8,
                                                                               latents=2),
                   paths=False, held_out=HELD_OUT[:, :16], samples=24, points=8)
    assert claim(idle, "coverage").text.startswith("Neither is shown to cover more")
    assert claim(idle, "memorisation").text.startswith("No model is shown to copy")
    assert "stays near that level" not in claim(idle, "noise").text
    assert "points back no better than untrained" in claim(idle, "bridge").text


def test_the_interval_of_a_share_holds_it_and_no_more_than_it_should():
    # The ends are the roots of (p - q)^2 = z^2 q (1 - q) / n.
    for share, count in ((0.3, 20), (0.0, 5), (1.0, 5), (0.5, 1000)):
        given = binomial(share, count)
        for end in (given.low, given.high):
            assert (share - end) ** 2 == pytest.approx(1.96**2 * end * (1 - end) / count, abs=1e-12)
        assert given.low <= share <= given.high
    assert math.isnan(binomial(0.5, 0).low)


def test_sentences_on_cancellation_turn_with_the_numbers(found):
    calm = claim(with_values(with_values(found, "cancellation", a=1.5, b=2.0), "from_real", b=0.9), "cancellation").text
    assert "shares may be read" in calm
    assert "no percentages" not in calm
    assert "large sums" not in calm
    wild = claim(with_values(with_values(found, "cancellation", a=20.0, b=4000.0), "from_real", b=1800.0),
                 "cancellation").text
    assert "may be read" not in wild
    # Beyond the limit no multiple of what is left is told; and of one run not which cancels more.
    assert "Real points alone would have moved the critic’s score by far more than it moved" in wild
    assert "1,800" not in wild
    assert "1,799" not in wild
    assert "cancel more than" not in wild
    some = claim(with_values(with_values(found, "cancellation", a=1.5, b=8.0), "from_real", b=3.0), "cancellation").text
    assert "by 3.00 times what it moved" in some


@pytest.mark.parametrize(("a", "b", "said"), [
    (2.0, 8.0, "Terms of GAN cancel 4.00 times as much as those of diffusion"),
    (8.0, 2.0, "Terms of diffusion cancel 4.00 times as much as those of GAN"),
    (2.0, 4000.0, "Terms of GAN cancel more than those of diffusion"),
])
def test_which_cancels_more_is_told_of_seeds(repeated, a, b, said):
    table = json.loads(json.dumps(repeated.table))
    for row in table:
        if row["metric"] == "cancellation" and row["slot"] == "main":
            row["values"] = [[middle * (1 + off / 100) for off in range(-2, 3)] for middle in (a, b)]
    assert said in claim(dataclasses.replace(repeated, table=table), "cancellation").text


def test_sentences_on_noise_turn_with_the_numbers(found):
    slots = ("low noise", "middle noise", "high noise")
    local, nowhere = found, found
    for slot in slots:
        local, nowhere = with_values(local, "noise_locality", slot, a=0.7), with_values(nowhere, "noise_locality", slot,
                                                                                         a=-0.5)
    assert "stays near that level mostly at low noise (0.70)" in claim(local, "noise").text
    assert "acts at all alike" in claim(nowhere, "noise").text
    ahead = json.loads(json.dumps(local.table))
    for row in ahead:
        if row["metric"] == "noise_locality":
            row["nulls"] = [side | {"untrained network": 0.69} for side in row["nulls"]]
    assert "acts at all alike" in claim(dataclasses.replace(found, table=ahead), "noise").text
    mixed = claim(with_values(local, "noise_locality", "middle noise", a=-0.2), "noise").text
    assert "; not at middle noise (−0.20)" in mixed


def test_sentences_on_concentration_turn_with_the_numbers(found):
    assert "spread widely" in claim(with_values(found, "n_eff", a=40.0, b=40.0), "concentration").text
    assert "Corrections rest on few" in claim(with_values(found, "n_eff", a=4.0, b=3.0), "concentration").text
    assert "Corrections of GAN rest on few" in claim(with_values(found, "n_eff", a=40.0, b=3.0), "concentration").text


def test_every_claim_has_its_null(found):
    topics = [one.topic for one in found.claims()]
    assert topics == ["noise", "cancellation", "memorisation", "coverage", "concentration", "bridge"]
    assert all(any(letter.isdigit() for letter in one.null) for one in found.claims())


def test_rules_say_what_is_not_known(found):
    held = {rule["rule"]: rule["held"] for rule in found.rules}
    assert held["same training points, same scale"] == HELD
    assert held["as many training points shown"] == HELD
    assert held["processor seconds told"] == HELD
    assert held["plain SGD behind shares of points"] == NOT_HELD
    assert set(held.values()) <= {HELD, NOT_HELD, UNKNOWN}


def test_presentations_are_counted(both):
    assert DiffusionSide(both[0]).presented() == 12 * 16
    assert GANSide(both[1]).presented() == 12 * 16


def test_a_comparison_is_kept_drawn_and_put_on_a_page(found, tmp_path):
    again = GenerativeComparison.load(found.save(tmp_path / "kept"))
    assert repr(again) == repr(found)
    frame = found.to_frame()
    assert again.to_frame().equals(frame)
    assert len(frame) == len(found.rows)
    for show in ("table", "samples"):
        assert found.plot(show=show).get_title(loc="left")
    page = ks.Report("Two", [again]).html()
    for one in found.claims():
        assert one.text.split("’")[0][:60] in page
    assert "Is this fair?" in page
    assert ("no percentages" in page) == any(v.mean > LIMIT for v in found.row("cancellation").values)


def test_the_index_is_that_of_its_definition():
    weights, places = torch.rand(5, 5, dtype=torch.float64), torch.tensor([0.0, 1.0, 1.5, 4.0, 5.0])
    value = locality(weights, places)
    for t in range(5):
        own = sum(float(weights[t, u] * (places[u] - places[t]) ** 2) for u in range(5)) / float(weights[t].sum())
        law = sum(float((places[u] - places[t]) ** 2) for u in range(5)) / 5
        assert value[t] == pytest.approx(1 - math.sqrt(own / law), abs=1e-14)


def test_the_radius_of_a_shift_is_its_length():
    shift = torch.zeros(64, 64)
    for pixel in range(64):
        if pixel % 8 < 5:
            shift[pixel, pixel + 3] = 2.0
    assert radius(shift, (64,)) == pytest.approx(3, abs=1e-12)


def test_alignment_with_classes_is_of_the_classes_of_the_points(both):
    # A kernel of classes themselves is aligned with them wholly, by the same function that the table uses.
    rows = torch.nn.functional.one_hot(LABELS[:9]).double()
    assert alignment(rows @ rows.T, rows) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(("made", "words"), [
    (lambda d, g: (d, game(x=blobs(48, seed=5)[0], steps=2)), "different points"),
    (lambda d, g: (d, game(x=2 * X, steps=2)), "order and scale"),
    (lambda d, g: (d, game(x=X[:20], steps=2)), "different sets"),
    (lambda d, g: (d, game(x=X[:, :16], steps=2)), "different sets"),
    (lambda d, g: (d[:0], g), "no step"),
    (lambda d, g: (d, "runs/gan"), "a GANRun, or a list"),
    (lambda d, g: ([d, g], g), "repeats of one model"),
    (lambda d, g: ([], g), "empty list"),
])
def test_what_cannot_be_compared_is_refused_in_a_sentence(both, made, words):
    with pytest.raises(DataError, match=words):
        compare(*made(*both), paths=False, samples=8, points=8)


@pytest.mark.parametrize(("options", "words"), [
    ({"held_out": torch.ones(5, 3)}, "held_out must be"),
    ({"labels": torch.zeros(3)}, "one class for each"),
    ({"probes": [1, 2]}, "a pair of latents"),
    ({"names": ("one",)}, "two names"),
    ({"names": 5}, "two names"),
    ({"labels": [0.5] * 48}, "whole numbers or words"),
    ({"labels": 3}, "labels must hold"),
    ({"probes": (torch.zeros(2, 5), torch.zeros(2, 4))}, "latents of a must"),
    ({"samples": 0}, "samples must be"),
])
def test_options_that_make_no_sense_are_refused(both, options, words):
    with pytest.raises(DataError, match=words):
        compare(*both, paths=False, **options)


def test_classes_may_be_words(both):
    by_number = compare(*both, paths=False, **QUICK)
    by_word = compare(*both, paths=False, **QUICK | {"labels": ["cat", "dog", "emu"] * 16})
    assert by_word.table == by_number.table
