"""Scores of how well points are known, by hand, and their comparison over seeds and splits."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import t
from torch import nn

import kernelscope as ks
from kernelscope.diagnostics.baselines import energy, mahalanobis, max_softmax, nearest
from kernelscope.diagnostics.separation import fpr95
from kernelscope.errors import DataError
from kernelscope.ranks import auroc
from tests.covered import C, N, Q, random, recorded


def test_auroc_is_the_share_of_pairs_in_order():
    for seed in range(20):
        g = torch.Generator().manual_seed(seed)
        known = torch.randint(0, 6, (11,), generator=g).double()
        unknown = torch.randint(0, 5, (7,), generator=g).double()
        pairs = [(a > b) + 0.5 * (a == b) for a in known.tolist() for b in unknown.tolist()]
        assert auroc(known, unknown) == pytest.approx(sum(pairs) / len(pairs), abs=1e-15)


def test_fpr95_lets_through_the_least_threshold_that_keeps_the_known():
    for seed in range(20):
        known, unknown = random(40 + seed, seed=seed), random(30, seed=seed + 50) - 1
        best = max(v for v in known.tolist() if sum(k >= v for k in known.tolist()) >= 0.95 * len(known))
        expected = sum(u >= best for u in unknown.tolist()) / len(unknown)
        assert fpr95(known, unknown) == pytest.approx(expected)
    assert fpr95(torch.ones(3), torch.tensor([1.0, 0.0])) == 0.5


def test_scores_of_logits_are_their_closed_forms():
    logits = random(4, 3)
    for row, score, top in zip(logits.tolist(), energy(logits), max_softmax(logits), strict=True):
        total = sum(math.exp(z) for z in row)
        assert float(score) == pytest.approx(math.log(total))
        assert float(top) == pytest.approx(math.exp(max(row)) / total)
    one = random(4, 1)
    torch.testing.assert_close(max_softmax(one)[:, None], torch.maximum(one.sigmoid(), (-one).sigmoid()))
    torch.testing.assert_close(energy(one)[:, None], F.softplus(one))


@pytest.mark.parametrize("normalised", [False, True])
def test_nearest_is_the_distance_by_a_double_loop(normalised):
    points, samples = random(5, 3), random(7, 3, seed=1)
    for k in (1, 3, 99):
        found = nearest(points, samples, k, normalised)
        for point, score in zip(points, found, strict=True):
            one = point / point.norm() if normalised else point
            distances = sorted(float((one - (s / s.norm() if normalised else s)).norm()) for s in samples)
            assert -float(score) == pytest.approx(distances[min(k, 7) - 1], abs=1e-12)


def test_mahalanobis_is_the_distance_to_the_nearest_class_mean():
    points, samples, classes = random(5, 2), random(9, 2, seed=1), torch.arange(9) % 3
    means = [samples[classes == c].mean(0) for c in range(3)]
    spread = sum(torch.outer(s - means[int(c)], s - means[int(c)]) for s, c in zip(samples, classes, strict=True)) / 9
    for point, score in zip(points, mahalanobis(points, samples, classes), strict=True):
        expected = min(float((point - m) @ torch.linalg.solve(spread, point - m)) for m in means)
        assert -float(score) == pytest.approx(expected)


def test_baselines_of_a_run_are_those_of_its_last_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, C)).double()
    run, x = recorded(model, random(N, 4), torch.arange(N) % C), random(Q, 4, seed=1)
    found = ks.coverage(run, x).baselines
    model.load_state_dict(run.parameters())
    samples, classes = run.samples.batch(torch.arange(N))
    into = model[:2]
    with torch.no_grad():
        a, b, logits = into(x), into(samples[0]), model(x)
    torch.testing.assert_close(found["feature kNN"], nearest(a, b, normalised=True))
    torch.testing.assert_close(found["Mahalanobis"], mahalanobis(a, b, classes))
    torch.testing.assert_close(found["pixel kNN"], nearest(x, samples[0]))
    torch.testing.assert_close(found["energy"], energy(logits))
    for point, score in zip(x, found["GradNorm"], strict=True):
        model.zero_grad()
        uniform = torch.full((C,), 1 / C, dtype=torch.float64)
        F.kl_div(model(point[None]).log_softmax(1)[0], uniform, reduction="sum").backward()
        assert float(score) == pytest.approx(sum(float(p.grad.abs().sum()) for p in model[2].parameters()))


@pytest.fixture(scope="module")
def repeats():
    """Three seeds of two splits, with targets."""
    found = {}
    for seed in range(3):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, C)).double()
        points = random(N, 4, seed=seed)
        trained = recorded(net, points, torch.arange(N) % C)
        queries = torch.cat([points + 0.1 * random(N, 4, seed=seed + 9), 3 * random(8, 4, seed=seed + 20)])
        covered = ks.coverage(trained, queries, targets=torch.arange(len(queries)) % C)
        found |= {(seed, "first"): (covered[:N], covered[N:N + 4]), (seed, "second"): (covered[:N], covered[N + 4:])}
    return found


def test_repeats_are_averaged_over_splits_and_their_interval_is_over_seeds(repeats):
    found = ks.separation(repeats)
    for name in found.names:
        each = [[auroc(a.score(name), b.score(name)) for (s, _), (a, b) in repeats.items() if s == seed]
                for seed in range(3)]
        means = torch.tensor([sum(v) / 2 for v in each], dtype=torch.float64)
        half = t.ppf(0.975, 2) * float(means.std()) / 3**0.5
        value = found.interval(name)
        assert (value.mean, value.low, value.high) == pytest.approx(
            (float(means.mean()), float(means.mean()) - half, float(means.mean()) + half))
    lead = found.interval("coverage", than="pixel kNN")
    differences = found.auroc[:, found.names.index("coverage")] - found.auroc[:, found.names.index("pixel kNN")]
    assert lead.mean == pytest.approx(float(differences.mean()))
    assert lead.high - lead.low < 2 * (found.interval("coverage").high - found.interval("coverage").low) + 1


def test_right_predictions_are_compared_with_wrong_ones(repeats):
    found = ks.separation(repeats)
    for i, (known, _) in enumerate(repeats.values()):
        scores = known.score("coverage")
        if bool(known.right.all()) or not bool(known.right.any()):
            assert bool(found.right[i].isnan().all())
        else:
            expected = auroc(scores[known.right], scores[~known.right])
            assert float(found.right[i, found.names.index("coverage")]) == pytest.approx(expected)


def test_who_wins_is_computed(repeats):
    found = ks.separation(repeats)
    place = found.names.index("pixel kNN")
    for value, words in ((1.0, "the null wins against coverage"), (0.0, "coverage beats the null")):
        table = found.auroc.clamp(0.6, 0.9)
        table[:, place] = value
        table[:, found.names.index("coverage")] = 0.5 + 1e-3 * torch.arange(len(table)) // 2
        told = ks.Separation(**{**vars(found), "auroc": table})
        assert words in told.said()
        assert ("null" in told.plot().get_title(loc="left").split(";")[0]) == (value == 1.0)
        assert told.order[0 if value else -1] == "pixel kNN"


def test_a_separation_is_kept_and_shown(repeats, tmp_path):
    found = ks.separation(repeats)
    loaded = ks.Separation.load(found.save(tmp_path / "kept"))
    assert loaded.summary() == found.summary()
    assert loaded.to_frame().equals(found.to_frame())
    assert found.by_split().index.tolist() == ["first", "second"]
    assert float(found.by_split()["coverage"].mean()) == pytest.approx(found.interval("coverage").mean)
    assert {row.name for row in found.check().rows} == {"coverage", "null", "others", "ridge"}
    page = ks.Report("Compared", [found]).html()
    assert "second" in page
    assert "AUROC" in page
    for show in ("fpr95", "right"):
        found.plot(show=show, theme="dark")
    alone = ks.separation([next(iter(repeats.values()))])
    assert alone.interval("coverage").low != alone.interval("coverage").low
    assert "1 seed, 1 split" in alone.summary()
    alone.plot()
    ks.Report("Alone", [alone]).html()


@pytest.mark.parametrize("given", [None, {}, "pairs", [1], {"a": (1, 2)}])
def test_what_is_no_pair_is_refused(given):
    with pytest.raises(DataError, match="pair"):
        ks.separation(given)


def test_empty_sides_and_unknown_names_are_refused(repeats):
    known, unknown = next(iter(repeats.values()))
    with pytest.raises(DataError, match="no unknown points"):
        ks.separation([(known, unknown[[]])])
    found = ks.separation([(known, unknown)])
    with pytest.raises(DataError, match="no score"):
        found.interval("msp")
    with pytest.raises(DataError, match="measure must be"):
        found.interval("coverage", "auc")


def table_of(found, **columns):
    """A separation with other AUROCs: one number for each score named, 0.6 for the others."""
    table = torch.full_like(found.auroc, 0.6)
    for name, value in columns.items():
        table[:, found.names.index(name)] = value
    return ks.Separation(**{**vars(found), "auroc": table})


def title(found, show="auroc"):
    return found.plot(show=show).get_title(loc="left").replace("\n", " ")


def test_scores_that_tie_are_said_to_tie(repeats):
    found = ks.separation(repeats)
    two = table_of(found, cosine=0.9, energy=0.9 + 1e-13)
    assert two.said().startswith("cosine and energy tie; each tells known from unknown best, with AUROC 0.9000 (")
    assert title(two) == "Cosine and energy tie; they have 0.9000, coverage has 0.6000"
    both = table_of(found, coverage=0.9, cosine=0.9, energy=0.9, **{"pixel kNN": 0.9})
    assert both.said().startswith("coverage, the null and 2 others tie; each")
    assert "best" in table_of(found, coverage=0.9).said()
    assert "tie" not in table_of(found, coverage=0.9).said().split(";")[0]
    none_passes = ks.Separation(**{**vars(found), "fpr95": torch.zeros_like(found.fpr95)})
    assert title(none_passes, "fpr95").startswith("Coverage, the null and ")
    assert title(none_passes, "fpr95").endswith("others tie; they have 0.0000")


def test_where_no_score_separates_none_wins(repeats):
    known, _ = next(iter(repeats.values()))
    same = ks.separation([(known, known)])
    assert same.said().startswith("no score tells known from unknown; all have AUROC 0.500")
    assert title(same) == "No score tells known from unknown; all have 0.5000, which chance may give too"
    assert title(same, "fpr95").startswith("No score keeps unknown points out")
    found = ks.separation(repeats)
    spread = torch.tensor([0.3, 0.9, 0.5]).repeat_interleave(2)
    near = ks.Separation(**{**vars(found), "auroc": torch.full_like(found.auroc, 0.5)})
    near.auroc[:, found.names.index("cosine")] = spread.double()
    assert near.said().startswith("no score tells known from unknown; the best, cosine, has AUROC 0.5667 (")
    sure = ks.Separation(**{**vars(found), "auroc": near.auroc.clone()})
    sure.auroc[:, found.names.index("energy")] = 0.55
    assert sure.said().startswith("cosine tells known from unknown best")  # though only energy is beyond doubt


def test_one_repeat_separates_beyond_what_chance_does():
    lucky, count = 0, 400
    for seed in range(count):
        g = torch.Generator().manual_seed(seed)
        value = auroc(torch.rand(20, generator=g), torch.rand(30, generator=g))
        one = torch.full((1, 1), value, dtype=torch.float64)
        found = ks.Separation(["cosine"], one, one, one, one, [1e-3], ["0"], [""], None,
                              {"known": 20, "unknown": 30, "baselines": []})
        lucky += not found.said().startswith("no score")
    assert 0.01 < lucky / count < 0.045  # 2.5 % by a normal law
