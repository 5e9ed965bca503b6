"""Laws of coverage: projections onto explicit features, samples left out, ridges, times and layers."""

import itertools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.diagnostics.coverage import spanning
from kernelscope.diagnostics.coverage.result import BANDS
from kernelscope.diagnostics.coverage.span import Span, shares
from kernelscope.diagnostics.coverage.subset import chosen
from kernelscope.errors import DataError, ModelError, NonFiniteError, OutOfBudget, OutOfRange
from tests.covered import C, N, Q, random, recorded


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, C)).double()


@pytest.fixture(scope="module")
def run(model):
    x = random(N, 4)
    return recorded(model, x, torch.arange(N) % C)


@pytest.fixture(scope="module")
def x():
    return random(Q, 4, seed=1)


def gradient(model, point, pick):
    """The gradient of one number by all parameters, by plain differentiation."""
    number = pick(model(point[None])[0])
    return torch.cat([g.flatten() for g in torch.autograd.grad(number, list(model.parameters()))])


def features(model, points, picks):
    return torch.stack([gradient(model, point, pick) for point, pick in zip(points, picks, strict=True)])


def own(c):
    return lambda z: z[c]


def centred(c):
    return lambda z: z[c] - z.mean()


def explicit(run, model, x, feature="predicted"):
    """The features of samples and of queries, by plain differentiation at the end of the run."""
    model.load_state_dict(run.parameters())
    samples, classes = run.samples.batch(torch.arange(N))
    if feature == "trace":
        rows = [torch.cat([features(model, points, [own(c)] * len(points)) for c in range(C)], 1)
                for points in (samples[0], x)]
        return rows[0], rows[1]
    pick = own if feature == "predicted" else centred
    return (features(model, samples[0], [pick(int(c)) for c in classes]),
            features(model, x, [pick(int(c)) for c in model(x).argmax(1)]))


def projected(phi, rows):
    """What of each row is in the span of phi, by least squares."""
    coefficients = torch.linalg.lstsq(phi.T, rows.T, driver="gelsd", rcond=1e-11).solution
    return (phi.T @ coefficients).T


@pytest.mark.parametrize("feature", ["predicted", "centred", "trace"])
def test_the_schur_complement_is_the_squared_length_outside_the_span(run, model, x, feature):
    phi, rows = explicit(run, model, x, feature)
    found = ks.coverage(run, x, feature=feature)
    outside = (rows - projected(phi, rows)).square().sum(1)
    torch.testing.assert_close(found.schur, outside, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.diagonal, rows.square().sum(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(1 - found.profile[:, :-1].sum(1), outside / rows.square().sum(1), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("ridge", [1e-1, 1e-3, 1e-6])
def test_coverage_and_variance_are_those_of_the_solved_kernel(run, model, x, ridge):
    phi, rows = explicit(run, model, x)
    k, kx = phi @ phi.T, phi @ rows.T
    lam = ridge * k.trace() / N
    within = (kx * torch.linalg.solve(k + lam * torch.eye(N, dtype=k.dtype), kx)).sum(0)
    found = ks.coverage(run, x, ridge=ridge)
    torch.testing.assert_close(found.variance, rows.square().sum(1) - within, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.coverage, within / rows.square().sum(1), rtol=1e-9, atol=1e-11)
    place = found.ridges.index(ridge)
    torch.testing.assert_close(found.ladder[place], found.coverage)
    assert bool((found.ladder.diff(dim=0) >= -1e-12).all())  # a smaller ridge covers more
    cosine = kx / phi.norm(dim=1)[:, None] / rows.norm(dim=1)
    torch.testing.assert_close(found.cosine, cosine.amax(0))
    assert found.nearest.tolist() == cosine.argmax(0).tolist()


def test_the_profile_has_the_energy_of_each_eigenvector(run, model, x):
    phi, rows = explicit(run, model, x)
    values, vectors = torch.linalg.eigh(phi @ phi.T)
    energies = (vectors.T @ phi @ rows.T).square() / values[:, None] / rows.square().sum(1)
    relative = values / values.mean()
    found = ks.coverage(run, x).profile
    edges = [float("inf"), *BANDS]
    for i, (high, low) in enumerate(itertools.pairwise(edges)):
        expected = energies[(relative >= low) & (relative < high)].sum(0)
        torch.testing.assert_close(found[:, i], expected, rtol=1e-8, atol=1e-10)


def test_left_out_coverage_is_that_of_a_fit_without_the_sample(run, model, x):
    phi, _ = explicit(run, model, x)
    k = phi @ phi.T
    for ridge in (1e-1, 1e-3, 1e-6):
        lam, found = ridge * k.trace() / N, ks.coverage(run, x, ridge=ridge)
        for i in range(N):
            rest = [j for j in range(N) if j != i]
            row = k[i, rest]
            inside = row @ torch.linalg.solve(k[rest][:, rest] + lam * torch.eye(N - 1, dtype=k.dtype), row)
            assert float(found.left_out[i]) == pytest.approx(float(inside / k[i, i]), rel=1e-10, abs=1e-10)


def test_left_out_coverage_without_ridge_knows_sums_of_other_samples():
    phi = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 2]], dtype=torch.float64)
    for span in (Span.of_kernel(phi @ phi.T), Span.of_features(phi)):
        torch.testing.assert_close(span.left_out(), torch.tensor([1.0, 1, 2, 1], dtype=torch.float64))


def test_left_out_coverage_of_fewer_features_than_samples_is_that_of_a_fit_without_the_sample():
    phi = random(7, 3)
    k, lam = phi @ phi.T, 0.3
    for span in (Span.of_kernel(k), Span.of_features(phi)):
        for i in range(7):
            rest = [j for j in range(7) if j != i]
            solved = torch.linalg.solve(k[rest][:, rest] + lam * torch.eye(6, dtype=k.dtype), k[rest, i])
            assert float(span.left_out(lam)[i]) == pytest.approx(float(k[i, rest] @ solved), rel=1e-10)


def test_error_bars_come_from_residuals_of_fits_without_the_sample(run, model, x):
    phi, rows = explicit(run, model, x)
    samples, classes = run.samples.batch(torch.arange(N))
    end = model(samples[0]).gather(1, classes[:, None])[:, 0]
    predicted = model(x).argmax(1)
    final = model(x).gather(1, predicted[:, None])[:, 0]
    model.load_state_dict(run.parameters(0))
    change = (end - model(samples[0]).gather(1, classes[:, None])[:, 0]).detach()
    moved = (final - model(x).gather(1, predicted[:, None])[:, 0]).detach()
    k, kx = phi @ phi.T, rows @ phi.T
    lam = 1e-3 * k.trace() / N
    eye = torch.eye(N, dtype=k.dtype)
    weights = torch.linalg.solve(k + lam * eye, change)
    ratios = []
    for i in range(N):
        rest = [j for j in range(N) if j != i]
        solved = torch.linalg.solve(k[rest][:, rest] + lam * eye[1:, 1:], torch.stack([change[rest], k[i, rest]], 1))
        missed = change[i] - k[i, rest] @ solved[:, 0]
        ratios.append(abs(missed) / (k[i, i] - k[i, rest] @ solved[:, 1]).sqrt())
    found = ks.coverage(run, x)
    torch.testing.assert_close(found.machine, kx @ weights, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(found.change, moved, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.error_bar, torch.stack(ratios).quantile(0.95) * found.variance.sqrt(), rtol=1e-7,
                               atol=1e-10)
    torch.testing.assert_close(found.bound, (weights @ k @ weights * found.variance).sqrt(), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("seed", range(20))
def test_the_bound_holds_for_every_function_of_the_kernel(seed):
    phi, rows, weights = random(6, 9, seed=seed), random(4, 9, seed=seed + 100), random(9, seed=seed + 200)
    span, k = Span.of_kernel(phi @ phi.T), phi @ phi.T
    for lam in (1e-6, 0.1, 3.0):
        fitted = rows @ phi.T @ torch.linalg.solve(k + lam * torch.eye(6, dtype=k.dtype), phi @ weights)
        left = rows.square().sum(1) - span.within(span.energies(rows @ phi.T), lam)
        assert bool(((rows @ weights - fitted).abs() <= left.clamp(min=0).sqrt() * weights.norm() + 1e-10).all())


def test_modes_of_features_tell_what_modes_of_the_kernel_tell():
    phi, rows = random(9, 5), random(4, 5, seed=1)
    one, other = Span.of_kernel(phi @ phi.T), Span.of_features(phi)
    torch.testing.assert_close(one.values, other.values, rtol=1e-9, atol=0)
    for lam in (0.0, 1e-4, 0.3):
        torch.testing.assert_close(one.within(one.energies(rows @ phi.T), lam), other.within(other.energies(rows), lam),
                                   rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(one.left_out(lam), other.left_out(lam), rtol=1e-8, atol=1e-9)


def test_more_samples_never_cover_less():
    phi, rows = random(8, 20), random(3, 20, seed=1)
    found = [Span.of_kernel(phi[:n] @ phi[:n].T) for n in range(1, 9)]
    for lam in (0.0, 0.5):
        inside = torch.stack([span.within(span.energies(rows @ phi[:len(span)].T), lam) for span in found])
        assert bool((inside.diff(dim=0) >= -1e-10).all())
        assert float(inside.diff(dim=0).max()) > 1e-3


def test_a_sample_is_covered_and_what_is_orthogonal_is_not():
    phi = random(5, 8)
    away = torch.linalg.svd(phi).Vh[5:6]
    span = Span.of_kernel(phi @ phi.T)
    torch.testing.assert_close(span.within(span.energies(phi @ phi.T)), phi.square().sum(1))
    assert float(span.within(span.energies(away @ phi.T))) < 1e-20
    scaled = Span.of_kernel(49 * phi @ phi.T)
    x = random(3, 8, seed=2)
    both = [shares(s.within(s.energies(t * x @ phi.T), s.ridge(1e-2)), t * x.square().sum(1))
            for s, t in ((span, 1), (scaled, 49))]
    torch.testing.assert_close(*both)


def test_training_samples_are_covered_wholly_as_the_ridge_vanishes(run):
    inputs, _ = run.samples.batch(torch.arange(N))
    found = ks.coverage(run, inputs[0], ridge=0.0, targets=torch.arange(N) % C)
    right = found.right
    assert bool(right.any())
    torch.testing.assert_close(found.coverage[right], torch.ones(int(right.sum()), dtype=torch.float64))
    assert float(found.schur[right].max()) < 1e-9 * float(found.diagonal.max())
    assert found.error_bar is None
    assert float(found.range_error.max()) < 1e-10


def test_a_path_kernel_of_all_times_is_the_path_kernel_of_the_run(run, model, x):
    found = ks.coverage(run, x, kernel="path", times=len(run) + 1)
    full = ks.path_kernel(run, torch.cat([run.samples.batch(torch.arange(N))[0][0], x]), outputs="full",
                          quadrature="trapezoid").matrix
    classes = torch.cat([torch.arange(N) % C, found.classes])
    k = torch.stack([torch.stack([full[i, a, j, b] for j, b in enumerate(classes)]) for i, a in enumerate(classes)])
    torch.testing.assert_close(found.diagonal, k.diagonal()[N:], rtol=1e-10, atol=0)
    torch.testing.assert_close(found.spectrum, torch.linalg.eigvalsh(k[:N, :N]).flip(0), rtol=1e-8, atol=1e-12)
    lam = 1e-3 * k[:N, :N].trace() / N
    inside = torch.linalg.solve(k[:N, :N] + lam * torch.eye(N, dtype=k.dtype), k[:N, N:])
    torch.testing.assert_close(found.coverage, (k[:N, N:] * inside).sum(0) / k.diagonal()[N:], rtol=1e-9, atol=1e-10)


def test_groups_of_parameters_count_by_their_own_learning_rates(x):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    optimizer = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.1},
                                 {"params": [model[2].weight], "lr": 0.02}, {"params": [model[2].bias], "lr": 0.0}])
    points, y = random(6, 4), random(6, 1, seed=3)
    with ks.record(model, (points, y), loss=F.mse_loss) as recording:
        for _ in range(4):
            optimizer.zero_grad()
            F.mse_loss(model(points), y).backward()
            optimizer.step()
    found = ks.coverage(recording.run, x, kernel="path", times=range(5))
    k = ks.path_kernel(recording.run, x, quadrature="trapezoid").matrix
    torch.testing.assert_close(found.diagonal, k.diagonal(), rtol=1e-10, atol=0)


def test_coverage_by_layer_is_that_of_its_own_gradients(run, model, x):
    phi, rows = explicit(run, model, x)
    first = sum(p.numel() for p in model[0].parameters())
    found = ks.coverage(run, x, by_layer=True)
    last = ks.coverage(run, x, kernel="last layer")
    for name, part in (("0", slice(0, first)), ("2", slice(first, None))):
        a, b = phi[:, part], rows[:, part]
        lam = 1e-3 * a.square().sum() / N
        solved = torch.linalg.solve(a @ a.T + lam * torch.eye(N, dtype=a.dtype), a @ b.T)
        expected = ((a @ b.T) * solved).sum(0) / b.square().sum(1)
        torch.testing.assert_close(found.by_layer[name], expected, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(last.coverage, found.by_layer["2"])
    assert last.info["last layer"] == "2"


def test_many_samples_are_taken_apart_by_their_features(run, x, monkeypatch):
    whole = ks.coverage(run, x, kernel="last layer", ridge=1e-2)
    monkeypatch.setattr(spanning, "DENSE", 24)
    many = recorded_many()
    points = random(40, 4, seed=5)
    dual_limit = ks.coverage(many, points, kernel="last layer", ridge=1e-2)
    assert dual_limit.info["solved"] == "p by p"
    monkeypatch.setattr(spanning, "DENSE", 4000)
    dense = ks.coverage(many, points, kernel="last layer", ridge=1e-2)
    assert dense.info["solved"] == whole.info["solved"] == "n by n"
    for name in ("coverage", "ladder", "left_out", "rank", "cosine", "variance", "profile"):
        torch.testing.assert_close(getattr(dual_limit, name), getattr(dense, name), rtol=1e-7, atol=1e-8)


def recorded_many():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, C)).double()
    return recorded(model, random(40, 4, seed=4), torch.arange(40) % C)


def test_too_many_samples_and_features_are_refused_in_words(run, x, monkeypatch):
    monkeypatch.setattr(spanning, "DENSE", 10)
    with pytest.raises(OutOfBudget, match="samples=10, which are drawn evenly"):
        ks.coverage(run, x)
    found = ks.coverage(run, x, samples=9)
    assert found.info["samples"] == len(found.left_out) == 9
    with pytest.raises(OutOfBudget, match="Raise memory"):
        ks.coverage(run, x, samples=9, memory=1000)


def test_samples_are_drawn_evenly_or_named(run, x):
    classes = torch.tensor([0] * 9 + [1] * 3)
    drawn = chosen(list(range(12)), classes, 6)
    assert classes[drawn].bincount().tolist() == [3, 3]
    assert chosen([5, 6, 7], None, [7, 5]).tolist() == [0, 2]
    named = ks.coverage(run, x, samples=[0, 4, 8, 11])
    assert len(named.left_out) == 4
    assert set(named.nearest.tolist()) <= {0, 4, 8, 11}
    for wrong in (0, 13, [99], [], [1, 1], "all", 1.5):
        with pytest.raises(DataError):
            ks.coverage(run, x, samples=wrong)


def test_rank_and_verdict_are_read_off_the_samples_left_out(run, x):
    found = ks.coverage(run, x)
    for c, rank, inside in zip(found.coverage, found.rank, found.inside, strict=True):
        below = sum(float(v) <= float(c) for v in found.left_out)
        assert float(rank) == pytest.approx((1 + below) / (N + 1))
        assert bool(inside) == (float(c) >= found.threshold)
    assert "Query 0, answered " in found.sentence(0)
    with pytest.raises(OutOfRange):
        found.sentence(Q)


def test_a_network_of_one_logit_and_one_of_quantities_have_coverage_too(x):
    torch.manual_seed(0)
    points = random(N, 4)
    logit = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    run = recorded(logit, points, (torch.arange(N) % 2).double()[:, None], F.binary_cross_entropy_with_logits)
    found = ks.coverage(run, x, targets=torch.zeros(Q, 1, dtype=torch.float64))
    torch.testing.assert_close(found.right, (logit(x)[:, 0] <= 0))
    assert {"max softmax", "energy", "GradNorm"} <= set(found.baselines)
    quantities = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    several = ks.coverage(recorded(quantities, points, random(N, 2, seed=9), F.mse_loss), x)
    assert several.feature == "trace"
    assert several.classes is several.error_bar is several.right is None
    assert set(several.baselines) == {"feature kNN", "Mahalanobis", "pixel kNN"}
    assert several.info["notes"]
    with pytest.raises(DataError, match="tells no classes apart"):
        ks.coverage(recorded(quantities, points, random(N, 2, seed=9), F.mse_loss), x, feature="centred")


class Flat(nn.Module):
    """A network whose output has no axis but that of points."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()

    def forward(self, x):
        return self.body(x)[:, 0]


def test_outputs_of_one_axis_are_those_of_one_column(x):
    torch.manual_seed(0)
    flat, points, y = Flat(), random(N, 4), random(N, seed=3)
    column = nn.Sequential(*flat.body)
    state = {name: p.clone() for name, p in column.state_dict().items()}
    one = ks.coverage(recorded(flat, points, y, F.mse_loss), x, ledger=True, progress=False)
    column.load_state_dict(state)
    other = ks.coverage(recorded(column, points, y[:, None], F.mse_loss), x, ledger=True, progress=False)
    for name, values in other.scores().items():
        torch.testing.assert_close(one.score(name), values)


def test_a_last_layer_that_was_not_trained_is_no_feature(x):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, C)).double()
    model[2].requires_grad_(False)
    run = recorded(model, random(N, 4), torch.arange(N) % C)
    assert ks.coverage(run, x).info["last layer"] == "2"
    with pytest.raises(ModelError, match="was not trained"):
        ks.coverage(run, x, kernel="last layer")


class Named(nn.Module):
    """A network that answers with a dictionary."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, C).double()

    def forward(self, x):
        return {"logits": self.body(x)}


def test_a_network_that_answers_with_a_dictionary_is_refused(x):
    def loss(outputs, targets, reduction="mean"):
        return F.cross_entropy(outputs["logits"], targets, reduction=reduction)

    with pytest.raises(ModelError, match="gives a dict"):
        ks.coverage(recorded(Named(), random(N, 4), torch.arange(N) % C, loss), x)


def test_scores_of_the_ledger_are_those_of_its_contributions(run, x):
    found = ks.coverage(run, x, ledger=True, progress=False)
    book = ks.decompose(run, x, output=lambda z, c: z.gather(1, c[:, None]), targets=found.classes)
    for q in range(Q):
        shares_ = book.contributions[q, 0].tolist()
        total = sum(abs(v) for v in shares_)
        p = torch.tensor([abs(v) / total for v in shares_])
        own = [v for v, label in zip(shares_, book.labels, strict=True) if label == found.class_name(q)]
        expected = {
            "retrieval strength": abs(float(book.final[q] - book.initial[q])) / float(found.diagonal[q]) ** 0.5,
            "init share": abs(float(book.initial[q])) / (abs(float(book.initial[q])) + total),
            "agreement": abs(sum(shares_)) / total,
            "effective support": float(torch.exp(-(p * p.log()).sum())),
            "label purity": sum(v for v in own if v > 0) / sum(v for v in shares_ if v > 0),
            "time centre": sum(abs(float(s)) * (k + 0.5) for k, s in enumerate(book.steps[q, 0])) / len(run)
            / float(book.steps[q, 0].abs().sum()),
        }
        for name, value in expected.items():
            assert float(found.ledger[name][q]) == pytest.approx(value, rel=1e-5), name
    assert "SGD variance" not in found.ledger
    torch.testing.assert_close(found.score("init share"), -found.ledger["init share"])


def test_the_variance_of_draws_is_taken_where_it_is_asked_for(run, x):
    found = ks.coverage(run, x, sgd_variance=True, progress=False)
    rows = ks.expected(run, x, output=lambda z, c: z.gather(1, c[:, None]), targets=found.classes, order=1,
                       carried=False).row_variance[:, 0]
    assert set(found.ledger) == {"SGD variance"}
    assert float(rows.min()) > 0
    torch.testing.assert_close(found.score("SGD variance"), -rows)


def test_a_network_whose_samples_have_no_gradients_of_their_own_keeps_its_ledger(x):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, C)).double()
    found = ks.coverage(recorded(model, random(N, 4), torch.arange(N) % C), x, ledger=True, sgd_variance=True,
                        progress=False)
    assert "agreement" in found.ledger
    assert "SGD variance" not in found.ledger
    assert "The SGD variance is left out: " in notes(found)


def test_a_predicted_class_that_no_sample_has_is_named_by_its_number(x):
    model = perceptron(C)
    with torch.no_grad():
        model[2].bias[2] = 5.0
    found = ks.coverage(recorded(model, random(N, 4), torch.arange(N) % 2), x, ledger=True, progress=False)
    assert set(found.classes.tolist()) == {2}
    assert float(found.ledger["label purity"].abs().max()) == 0


def test_a_slice_says_that_its_variance_is_missing(run, x):
    found = ks.coverage(run[2:], x, ledger=True, sgd_variance=True, progress=False)
    assert set(found.ledger) >= {"agreement", "time centre"}
    assert "SGD variance" not in found.ledger
    assert "a slice that begins at step 2" in found.info["notes"][-1]


def test_a_part_of_the_queries_is_what_it_would_be_alone(run, x):
    found, alone = ks.coverage(run, x, by_layer=True)[1:3], ks.coverage(run, x[1:3], by_layer=True)
    for name, values in alone.scores().items():
        torch.testing.assert_close(found.score(name), values, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(found.profile, alone.profile)
    with pytest.raises(DataError, match="no score 'msp'"):
        found.score("msp")


def test_asking_leaves_everything_as_it_was(model, x):
    run = recorded(model, random(N, 4), torch.arange(N) % C)
    model.train()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    state = torch.get_rng_state()
    ks.coverage(run, x, kernel="path", times=3, by_layer=True)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    for name, p in model.state_dict().items():
        assert torch.equal(p, before[name])
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_coverage_is_kept_and_shown(run, x, tmp_path):
    found = ks.coverage(run, x, targets=torch.zeros(Q, dtype=torch.long), by_layer=True)
    loaded = ks.Coverage.load(found.save(tmp_path / "kept"))
    assert loaded.summary() == found.summary()
    torch.testing.assert_close(loaded.ladder, found.ladder)
    frame = found.to_frame()
    assert loaded.to_frame()[frame.columns].equals(frame)
    assert len(found.to_frame()) == Q
    assert {row.name for row in found.check().rows} == {"shares", "range", "ridge", "error bar"}
    assert "queries" in found.plot().get_title(loc="left")
    assert "outside the span" in found.plot(show="profile").get_title(loc="left")
    page = ks.Report("Covered", [found]).html()
    assert "by the others" in page
    assert len(found[[]]) == 0
    assert "no query" in found[[]].summary()
    found[[]].plot()


@pytest.mark.parametrize(("options", "error", "words"), [
    ({"kernel": "ntk"}, DataError, "kernel must be"),
    ({"feature": "logit"}, DataError, "feature must be"),
    ({"ridge": -1}, DataError, "ridge must be"),
    ({"ridge": (1e-3, 1e-4)}, DataError, "ridge must be"),
    ({"times": 4}, DataError, 'kernel="path"'),
    ({"ledger": "yes"}, DataError, "ledger must be"),
    ({"sgd_variance": 1}, DataError, "sgd_variance must be"),
    ({"memory": "much"}, DataError, "memory"),
    ({"dtype": torch.float16}, DataError, "float64"),
    ({"targets": torch.zeros(2)}, DataError, "targets"),
    ({"targets": torch.full((Q,), 7)}, DataError, "class 7"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(run, x, options, error, words):
    with pytest.raises(error, match=words):
        ks.coverage(run, x, **options)


def test_queries_that_do_not_fit_are_refused(run, x):
    with pytest.raises(NonFiniteError):
        ks.coverage(run, torch.full((2, 4), torch.nan, dtype=torch.float64))
    with pytest.raises(DataError):
        ks.coverage(run, random(3, 5))
    with pytest.raises(DataError, match="no rows"):
        ks.coverage(run, torch.zeros(0, 4, dtype=torch.float64))
    with pytest.raises(DataError, match="no steps"):
        ks.coverage(run[2:2], x)
    with pytest.raises(DataError, match="recorded run"):
        ks.coverage("runs/digits", x)


class Dead(nn.Module):
    """A network that answers nought, by any parameters, wherever its first input is negative."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 0.5, -0.2]], dtype=torch.float64))

    def forward(self, x):
        return (x @ self.weight.T) * (x[:, :1] > 0)


def moved_once(model, x, y, lr=0.05, steps=1):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for _ in range(steps):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    return recording.run


def test_nothing_was_learned_of_an_answer_that_no_parameter_moves():
    x = random(10, 3).abs()
    run = moved_once(Dead(), x, random(10, 1, seed=1))
    queries = torch.cat([x[:2], -x[:2], -x[2:3]])
    found = ks.coverage(run, queries, by_layer=True)
    for silent in (found.coverage[2:], found.ladder[:, 2:], found.by_layer[""][2:], found.profile[2:, :-1]):
        assert float(silent.abs().max()) == 0
    assert found.inside.tolist() == [True, True, False, False, False]
    assert float(found.rank[2:].max()) == pytest.approx(1 / 11)
    assert float(found.profile[2:, -1].min()) == 1
    assert "the answer to 3 of the 5 queries" in " ".join(found.info["notes"])
    assert "no parameter moves this answer" in found.sentence(3)
    assert "training samples" not in " ".join(ks.coverage(run, x[:2]).info["notes"])
    half = moved_once(Dead(), torch.cat([x, -x]), random(20, 1, seed=1))
    silent = ks.coverage(half, queries)
    assert "10 of the 20 training samples" in " ".join(silent.info["notes"])
    assert silent.inside.tolist() == found.inside.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_round_off_decides_no_verdict(seed):
    # More samples than features: each is a sum of the others, and so is each query.
    x = random(40, 5, seed=seed) * torch.logspace(0, -3, 5, dtype=torch.float64)
    found = ks.coverage(moved_once(nn.Linear(5, 1, bias=False).double(), x, random(40, 1, seed=9)),
                        random(50, 5, seed=seed + 7), ridge=0.0)
    assert bool(found.inside.all())
    assert found.rank.tolist() == [1.0] * 50


def test_samples_that_stand_twice_are_spoken_of(x):
    points, y = random(N, 4), torch.arange(N) % C
    net = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, C)).double()
    twice = recorded(net, torch.cat([points, points]), torch.cat([y, y]))
    assert "24 of the 24 training samples have the same inputs" in " ".join(ks.coverage(twice, x).info["notes"])
    assert not any("same inputs" in note for note in ks.coverage(recorded(net, points, y), x).info["notes"])


@pytest.fixture(scope="module")
def labelled():
    """Points on the two sides of a plane, and their side."""
    points = random(N, 4, seed=3)
    return points, (points[:, :1] > 0).double()


def perceptron(width, *end):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, width), *end).double()


def notes(found):
    return " ".join(found.info["notes"])


def test_a_probability_is_taken_by_its_logit(x, labelled):
    points, y = labelled
    alike = [recorded(perceptron(1, *end), points, y, loss)
             for end, loss in (((), F.binary_cross_entropy_with_logits), ((nn.Sigmoid(),), F.binary_cross_entropy))]
    one, other = (ks.coverage(run, x, targets=torch.zeros(Q, 1)) for run in alike)
    assert one.right.tolist() == other.right.tolist()
    assert 0 < int(one.right.sum()) < Q
    assert set(one.baselines) == set(other.baselines)
    for name, values in one.baselines.items():
        torch.testing.assert_close(other.baselines[name], values, rtol=1e-8, atol=1e-8)
    sure = perceptron(1, nn.Sigmoid())
    run = recorded(sure, points, y, F.binary_cross_entropy)
    far = ks.coverage(run, 1e6 * x, dtype=torch.float32, targets=torch.zeros(Q, 1))
    assert all(bool(values.isfinite().all()) for values in far.baselines.values())


@pytest.mark.parametrize("width", [1, 2])
def test_numbers_of_classes_are_classes_under_a_squared_loss(x, labelled, width):
    points, y = labelled
    targets = y if width == 1 else torch.cat([1 - y, y], 1)
    model = perceptron(width)
    found = ks.coverage(recorded(model, points, targets, F.mse_loss), x, targets=targets[:Q])
    z = model(x)
    predicted = (z[:, 0] > 0.5).long() if width == 1 else z.argmax(1)
    assert found.feature == "predicted"
    assert found.right.tolist() == (predicted == y[:Q, 0].long()).tolist()
    assert found.to_frame()["predicted"].tolist() == [str(c) for c in predicted.tolist()]
    assert set(found.baselines) == {"feature kNN", "Mahalanobis", "pixel kNN"}
    assert "outputs trained by mse_loss are no logits" in notes(found)
    model.zero_grad()
    model(x[:1])[0, predicted[0] if width == 2 else 0].backward()
    assert float(found.diagonal[0]) == pytest.approx(sum(float(p.grad.square().sum()) for p in model.parameters()))


def test_several_labels_are_no_classes(x):
    labels = (random(N, 3, seed=8) > 0).double()
    run = recorded(perceptron(3), random(N, 4), labels, F.binary_cross_entropy_with_logits)
    found = ks.coverage(run, x, targets=labels[:Q])
    assert found.feature == "trace"
    assert found.right is found.classes is None
    assert "several labels and no class" in notes(found)
    assert "answered right cannot be told" in notes(found)
    assert "answered right" not in notes(ks.coverage(run, x))


def test_counts_of_one_output_are_no_classes(x):
    def counted(z, y, reduction="mean"):
        return F.mse_loss(z[:, 0], y.double(), reduction=reduction)

    found = ks.coverage(recorded(perceptron(1), random(N, 4), torch.arange(N) % 5, counted), x, targets=torch.ones(Q))
    assert found.right is None
    assert "answered right cannot be told" in notes(found)


@pytest.mark.parametrize("index", [-100, 2])
def test_samples_that_the_loss_passes_over_span_nothing(x, index):
    points, y = random(N, 4), torch.arange(N) % 2
    y[3:6] = index
    loss = nn.CrossEntropyLoss(ignore_index=index)
    run = recorded(perceptron(C), points, y, loss)
    found, kept = ks.coverage(run, x, ledger=True, progress=False), [i for i in range(N) if i not in (3, 4, 5)]
    alone = ks.coverage(run, x, samples=kept)
    assert f"passes over the target {index}, so 3 of the 12" in notes(found)
    torch.testing.assert_close(found.coverage, alone.coverage)
    assert len(found.left_out) == N - 3
    with pytest.raises(DataError, match="every training sample"):
        ks.coverage(recorded(perceptron(C), points, torch.full((N,), index), loss, steps=1), x)


def test_a_run_that_never_moved_has_no_path_kernel(x):
    still = moved_once(perceptron(1), random(N, 4), random(N, 1, seed=1), lr=0.0, steps=3)
    with pytest.raises(DataError, match="Every learning rate of this run is 0"):
        ks.coverage(still, x, kernel="path")
    assert len(ks.coverage(still, x)) == Q


def test_the_answer_counts_queries_in_plain_words(run, x):
    found = ks.coverage(run, x)
    found = replace(found, left_out=found.coverage.median().expand(N))
    covered, not_covered = (found[found.inside.eq(wanted).nonzero().flatten()] for wanted in (True, False))
    assert len(covered) > 1
    assert len(not_covered) > 1
    limit = f"(coverage at least {found.threshold:.3g}, which 95% of these {N} have)"
    usual = f"as well covered as training samples are by the other samples {limit}"
    n, m = len(found), len(not_covered)
    assert found.said() == f"{n - m} of {n} queries are {usual}; {m} ({m / n:.0%}) are not, and count as outside"
    assert covered.said() == f"all {n - m} queries are {usual}; none counts as outside"
    assert not_covered.said() == f"none of {m} queries are {usual}; all count as outside"
    one = covered[0]
    assert one.said() == f"the query, with coverage {float(one.coverage[0]):.3g}, is {usual}, and counts as inside"
    assert f"is not {usual}, and counts as outside" in not_covered[0].said()
    titles = [part.plot(show=show).get_title(loc="left").replace("\n", " ") for part in (found, one)
              for show in ("queries", "profile")]
    assert titles[0].startswith(f"{m} of {n} queries ({m / n:.0%}) are less covered than 95% of training samples")
    assert titles[2].startswith("The query is not less covered")
    assert "the query’s feature" in titles[3]
    assert "e-" not in "".join(row.sentence for row in found.check().rows)
