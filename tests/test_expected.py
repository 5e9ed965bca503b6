"""The expected output of recorded runs, against the average over every sequence of batches there is."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError, ModelError, OutOfBudget, RuleError
from tests.enumeration import reshuffled, with_replacement

ETAS = (0.02, 0.01)
N = 4


def points(seed=0, n=N):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 2, generator=g, dtype=torch.float64), torch.randn(n, 1, generator=g, dtype=torch.float64)


def network(linear=False, seed=0):
    torch.manual_seed(seed)
    made = nn.Linear(2, 1) if linear else nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    return made.double()


QUERIES = torch.tensor([[0.3, -1.1], [0.9, 0.4]], dtype=torch.float64)


def recorded(batches, lr, linear=False, n=N, make=None, **options):
    x, y = points(n=n)
    model = network(linear)
    optimizer = (make or torch.optim.SGD)(model.parameters(), lr=lr, **options)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for ids in batches:
            ids = torch.as_tensor(ids)
            recording.batch(ids)
            optimizer.zero_grad()
            F.mse_loss(model(x[ids]), y[ids]).backward()
            optimizer.step()
    return recording.run


def slopes(sequences, scheme, n=N, **options):
    """By how many powers of the learning rate the mean is missed with the path alone, and with all terms."""
    errors = {"path": [], "noise": []}
    for lr in ETAS:
        missed = {"path": 0.0, "noise": 0.0}
        for batches in sequences:
            found = ks.expected(recorded(batches, lr, n=n, **options), QUERIES, data=points(n=n), sampling=scheme,
                                carried=False, progress=False)
            for term in missed:
                missed[term] = missed[term] + (found.final - found.upto(term)) / len(sequences)
        for term in missed:
            errors[term].append(float(missed[term].norm()))
    return [math.log(errors[term][0] / errors[term][1]) / math.log(ETAS[0] / ETAS[1]) for term in errors]


CASES = {
    "sgd": (with_replacement(N, 1, 3), "replacement", {}),
    "batches of two": (with_replacement(3, 2, 2), "replacement", {"n": 3}),
    "batches without a sample twice": (itertools.product(itertools.combinations(range(N), 2), repeat=2), "independent",
                                       {}),
    "heavy ball": (with_replacement(N, 1, 3), "replacement", {"momentum": 0.6}),
    "nesterov with decay": (with_replacement(N, 1, 3), "replacement",
                            {"momentum": 0.6, "nesterov": True, "weight_decay": 0.1}),
    "reshuffling": (reshuffled(N, 1, 1), "reshuffling", {}),
    "reshuffling twice": (reshuffled(3, 1, 2), "reshuffling", {"n": 3}),
    "reshuffling batches of two": (reshuffled(N, 2, 1), "reshuffling", {}),
    "reshuffling heavy ball": (reshuffled(N, 1, 1), "reshuffling", {"momentum": 0.6}),
}


#: The cases that every run of the tests goes through; the others are slow.
FEW = ("reshuffling batches of two",)


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in FEW else pytest.mark.slow) for name in CASES])
def test_the_mean_over_all_sequences_is_met_to_the_third_power(name):
    sequences, scheme, options = CASES[name]
    first, second = slopes(list(sequences), scheme, **options)
    assert first == pytest.approx(2, abs=0.2)
    assert second == pytest.approx(3, abs=0.25)


def dense(run, data, k, scheme_own):
    """Gradient and Hessian of each output, the samples' gradients, at the start of step k, by plain Jacobians."""
    theta = run.parameters(k)
    names, shapes = list(theta), [t.shape for t in theta.values()]
    flat = torch.cat([t.flatten() for t in theta.values()]).double()

    def put(v):
        parts = v.split([s.numel() for s in shapes])
        return {name: part.view(s) for name, part, s in zip(names, parts, shapes, strict=True)}

    outputs = lambda v: run.network(put(v), {}, (QUERIES,))[:, 0]
    losses = lambda v: F.mse_loss(run.network(put(v), {}, (data[0],)), data[1], reduction="none")[:, 0]
    jac, hess = torch.func.jacrev, torch.func.hessian
    with ks.network.exact_arithmetic():
        return jac(outputs)(flat), hess(outputs)(flat), jac(losses)(flat), hess(losses)(flat)


def test_terms_and_shares_are_those_of_dense_hessians():
    lr, batch, data = 0.1, 2, points(n=6)
    run = recorded([[0, 3], [2, 2], [5, 1], [4, 0]], lr, n=6)
    found = ks.expected(run, QUERIES, data=data)
    assert found.sampling == "replacement"
    path, curvature, noise, variance = (torch.zeros(2, 6, dtype=torch.float64) for _ in range(4))
    for k in range(4):
        phi, hessian, g, _ = dense(run, data, k, 1 / batch)
        mean = g.mean(0)
        for q in range(2):
            for i in range(6):
                path[q, i] -= lr / 6 * phi[q] @ g[i]
                curvature[q, i] += lr**2 / 12 * g[i] @ hessian[q] @ mean
                noise[q, i] += lr**2 / (12 * batch) * (g[i] @ hessian[q] @ g[i] - g[i] @ hessian[q] @ mean)
                variance[q, i] += lr**2 / (6 * batch) * (phi[q] @ (g[i] - mean)) ** 2
    for name, wanted in (("path", path), ("curvature", curvature), ("noise", noise)):
        assert torch.allclose(found.shares[name][:, 0], wanted, rtol=1e-10, atol=1e-13)
        assert torch.allclose(found.terms[name][:, 0], wanted.sum(1), rtol=1e-10, atol=1e-13)
        assert torch.allclose(found.steps[name].sum(-1), found.terms[name], rtol=1e-12, atol=1e-14)
    assert torch.allclose(found.variance_shares[:, 0], variance, rtol=1e-10, atol=1e-14)
    assert torch.allclose(found.row_variance[:, 0], variance.sum(1), rtol=1e-10, atol=1e-14)


def test_reshuffled_terms_are_those_of_dense_hessians():
    lr, n, data = 0.1, 6, points(n=6)
    run = recorded([[0, 3], [2, 5], [4, 1], [1, 2], [0, 4]], lr, n=n)
    found = ks.expected(run, QUERIES, data=data)
    assert found.sampling == "reshuffling"
    own, pair, noise = (n - 2) / ((n - 1) * 2), 1 / (n - 1), torch.zeros(2, dtype=torch.float64)
    for k, (before, after) in enumerate([(0, 2), (1, 1), (2, 0), (0, 1), (1, 0)]):
        phi, hessian, g, curve = dense(run, data, k, own)
        centred = g - g.mean(0)
        sigma = centred.T @ centred / n
        drift = sum(curve[i] @ centred[i] for i in range(n)) / n
        for q in range(2):
            noise[q] += lr**2 * (own / 2 - pair * after) * (hessian[q] @ sigma).trace()
            noise[q] -= pair * lr**2 * before * phi[q] @ drift
    assert torch.allclose(found.terms["noise"][:, 0], noise, rtol=1e-10, atol=1e-14)
    assert torch.allclose(found.shares["noise"].sum(-1), found.terms["noise"], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.7}, {"momentum": 0.7, "nesterov": True, "weight_decay": 0.2},
                                     {"momentum": 0.7, "dampening": 0.3}])
def test_the_variance_is_that_of_pushes_carried_through_the_steps(options):
    lr, batches, data = 0.1, [[0, 3], [2, 2], [5, 1], [4, 0], [1, 1]], points(n=6)
    run = recorded(batches, lr, n=6, **options)
    found = ks.expected(run, QUERIES, data=data)
    theta = {name: t.double() for name, t in run.parameters(0).items()}
    pushes = [{name: torch.zeros_like(t, requires_grad=True) for name, t in theta.items()} for _ in batches]
    mu, decay = options.get("momentum", 0.0), options.get("weight_decay", 0.0)
    velocity = None
    for ids, push in zip(batches, pushes, strict=True):
        with torch.enable_grad():
            moved = {name: t if t.requires_grad else t.clone().requires_grad_() for name, t in theta.items()}
            loss = F.mse_loss(run.network(moved, {}, (data[0][ids],)), data[1][ids])
            g = dict(zip(moved, torch.autograd.grad(loss, list(moved.values()), create_graph=True), strict=True))
            d = {name: g[name] + push[name] + decay * moved[name] for name in g}
            if velocity is None:
                velocity = d
            else:
                velocity = {name: mu * velocity[name] + (1 - options.get("dampening", 0.0)) * d[name] for name in d}
            step = {name: d[name] + mu * velocity[name] for name in d} if options.get("nesterov") else velocity
            theta = {name: moved[name] - lr * step[name] for name in moved}
    outputs = run.network(theta, {}, (QUERIES,))[:, 0]
    assert torch.allclose(outputs.detach(), found.final[:, 0], atol=1e-12)
    wanted = torch.zeros(2, dtype=torch.float64)
    for q in range(2):
        for k, push in enumerate(pushes):
            slope = torch.autograd.grad(outputs[q], list(push.values()), retain_graph=True)
            met = dense(run, data, k, 0)[2] @ torch.cat([t.flatten() for t in slope])
            wanted[q] += met.var(correction=0) / 2
    assert torch.allclose(found.variance[:, 0], wanted, rtol=1e-9, atol=1e-14)


def test_the_variance_over_all_sequences_is_met_as_the_learning_rate_falls():
    ratios = []
    for lr in (0.08, 0.04, 0.02):
        ends, told, rows = [], [], []
        for batches in with_replacement(3, 1, 3):
            found = ks.expected(recorded(batches, lr, n=3), QUERIES, data=points(n=3), sampling="replacement")
            ends.append(found.final)
            told.append(found.variance)
            rows.append(found.row_variance)
        measured = torch.stack(ends).var(0, correction=0)
        ratios.append([float((torch.stack(t).mean(0) / measured - 1).abs().max()) for t in (told, rows)])
    carried, rows = zip(*ratios, strict=True)
    assert carried[2] < 0.02
    assert all(a < b / 5 for a, b in ratios)
    # The rows leave out what training makes of a push, which is of the order of the learning rate.
    assert all(math.log2(first / later) == pytest.approx(1, abs=0.2) for first, later in itertools.pairwise(rows))


def test_a_linear_model_has_no_noise_term_and_ends_on_average_where_all_samples_lead():
    sequences = list(with_replacement(3, 1, 3))
    ends = []
    for batches in sequences:
        run = recorded(batches, 0.1, linear=True, n=3)
        found = ks.expected(run, QUERIES, data=points(n=3), sampling="replacement", carried=False)
        assert float(found.terms["noise"].abs().max()) == 0.0
        ends.append(found.final)
    whole = ks.expected(recorded([range(3)] * 3, 0.1, linear=True, n=3), QUERIES)
    assert whole.sampling == "fixed"
    assert torch.allclose(torch.stack(ends).mean(0), whole.final, atol=1e-14)
    assert float(whole.variance.max()) == 0.0
    assert torch.allclose(whole.fluctuation, torch.zeros_like(whole.final), atol=1e-13)


def test_estimates_from_pairs_of_batches_are_right_on_average():
    run, data = recorded([[0, 3], [2, 2], [5, 1], [4, 0]], 0.1, n=6), points(n=6)
    exact = ks.expected(run, QUERIES, data=data, carried=False)
    pairs = ks.expected(run, QUERIES, data=data, carried=False, noise="two-batch", probes=150)
    apart = ks.expected(run, QUERIES, data=data, carried=False, noise="difference", probes=150)
    assert "noise" not in pairs.shares
    off = (pairs.terms["noise"] - exact.terms["noise"]) / pairs.estimate_error
    assert float(off.abs().max()) < 4
    assert torch.allclose(pairs.terms["noise"], apart.terms["noise"], rtol=1e-5, atol=1e-9)
    assert torch.allclose(pairs.terms["path"], exact.terms["path"], rtol=1e-12)


@pytest.mark.slow
def test_estimates_from_pairs_under_reshuffling_are_right_on_average():
    run, data = recorded([[0, 3], [2, 5], [4, 1]], 0.1, n=6, momentum=0.5), points(n=6)
    exact = ks.expected(run, QUERIES, data=data, carried=False)
    pairs = ks.expected(run, QUERIES, data=data, carried=False, noise="two-batch", probes=150)
    off = (pairs.terms["noise"] - exact.terms["noise"]) / pairs.estimate_error
    assert exact.sampling == "reshuffling"
    assert float(off.abs().max()) < 4


@pytest.mark.slow
def test_some_of_the_samples_tell_the_terms_on_average():
    run, data = recorded([[0, 3], [2, 2], [5, 1], [4, 0]], 0.1, n=6), points(n=6)
    exact = ks.expected(run, QUERIES, data=data)
    drawn = [ks.expected(run, QUERIES, data=data, samples=3, seed=seed) for seed in range(60)]
    for value in (lambda e: e.mean, lambda e: e.terms["curvature"], lambda e: e.terms["noise"], lambda e: e.variance,
                  lambda e: e.row_variance, lambda e: e.contributions):
        found = torch.stack([value(e) for e in drawn])
        off = (found.mean(0) - value(exact)) / (found.std(0) / len(drawn) ** 0.5).clamp_min(1e-12)
        assert float(off.abs().max()) < 4.5
    told = torch.stack([e.estimate_error for e in drawn]).square().mean(0).sqrt()
    measured = torch.stack([e.terms["path"] for e in drawn]).std(0)
    assert torch.allclose(told, measured, rtol=0.35)
    assert torch.equal(ks.expected(run, QUERIES, data=data, samples=6).mean, exact.mean)


def test_little_memory_gives_the_same_numbers():
    run, data = recorded([[0, 3], [2, 5], [4, 1], [1, 2]], 0.1, n=6, momentum=0.5), points(n=6)
    whole = ks.expected(run, QUERIES, data=data)
    pieces = ks.expected(run, QUERIES, data=data, memory=1500)
    for name in whole.terms:
        assert torch.allclose(whole.terms[name], pieces.terms[name], rtol=1e-11, atol=1e-15)
    assert torch.allclose(whole.contributions, pieces.contributions, rtol=1e-11, atol=1e-15)
    assert torch.allclose(whole.variance, pieces.variance, rtol=1e-11, atol=1e-15)
    with pytest.raises(OutOfBudget, match="One query"):
        ks.expected(run, QUERIES, data=data, memory=100)


@pytest.mark.parametrize("make", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad])
def test_preconditioned_steps_are_followed_with_what_was_recorded(make):
    run, data = recorded([[0, 3], [2, 2], [5, 1]], 0.05, n=6, make=make), points(n=6)
    found = ks.expected(run, QUERIES, data=data, preconditioner="recorded")
    assert any("as recorded" in note for note in found.info["notes"])
    assert torch.allclose(found.mean + found.fluctuation, found.final, atol=1e-13)
    # Of the whole batch nothing is left to chance, and the terms say where the run went to third order.
    whole = [recorded([range(6)] * 3, lr, n=6, make=make) for lr in (0.004, 0.002)]
    missed = [float(ks.expected(run, QUERIES).fluctuation.abs().max()) for run in whole]
    assert math.log2(missed[0] / missed[1]) == pytest.approx(3, abs=0.35)
    mean, given = (ks.expected(whole[0], QUERIES, preconditioner=way) for way in ("mean", "recorded"))
    assert torch.allclose(mean.mean, given.mean, atol=1e-12)


def test_the_best_guess_has_the_least_variance_of_all_mixtures():
    run = recorded([[0, 3], [2, 2], [5, 1], [4, 0]], 0.3, n=6)
    found = ks.expected(run, QUERIES, data=points(n=6))
    assert bool((found.adjusted_error <= found.std + 1e-12).all())
    assert bool((found.adjusted_error <= found.mean_error + 1e-12).all())
    plain = ks.expected(run, QUERIES, data=points(n=6), carried=False)
    assert torch.allclose(plain.adjusted, plain.mean, atol=1e-14)
    assert plain.adjusted_error is None


def test_a_call_that_looks_changes_nothing_and_says_the_same_again(tmp_path):
    run, data = recorded([[0, 3], [2, 2], [5, 1]], 0.1, n=6), points(n=6)
    state, parameters = torch.get_rng_state(), run.parameters()
    found = ks.expected(run, QUERIES, data=data, noise="two-batch", seed=4)
    again = ks.expected(run, QUERIES, data=data, noise="two-batch", seed=4)
    assert torch.equal(found.mean, again.mean)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(t, parameters[name]) for name, t in run.parameters().items())
    loaded = type(found).load(found.save(tmp_path / "expected"))
    assert torch.equal(loaded.mean, found.mean)
    assert loaded.summary() == found.summary()
    assert torch.equal(found[1].mean, found.mean[1:])
    assert len(found.to_frame()) == 2
    assert found.check().ok
    assert found.top(3)["sample"].tolist() == found.contributions[0, 0].abs().argsort(descending=True)[:3].tolist()
    assert "standard deviation" in found.plot().get_title(loc="left")


def test_samples_that_were_never_drawn_are_told():
    run = recorded([[0, 3], [2, 2]], 0.1, n=6)
    found = ks.expected(run, QUERIES)
    assert any("3 of the 6 training samples were never drawn" in note for note in found.info["notes"])
    assert found.contributions.shape[-1] == 6
    assert float(found.contributions[..., [1, 4, 5]].abs().max()) == 0.0


def test_kinks_are_told():
    x, y = points(n=6)
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for _ in range(2):
            recording.batch(torch.arange(6))
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    assert any("kinks (ReLU)" in note for note in ks.expected(recording.run, QUERIES).info["notes"])


def test_what_cannot_be_answered_is_refused_in_a_sentence():
    run = recorded([[0, 3], [2, 2], [5, 1]], 0.1, n=6)
    with pytest.raises(DataError, match="order must be 1"):
        ks.expected(run, QUERIES, order=3)
    with pytest.raises(DataError, match="sampling must be"):
        ks.expected(run, QUERIES, sampling="bootstrap")
    with pytest.raises(DataError, match="noise must be"):
        ks.expected(run, QUERIES, noise="dense")
    with pytest.raises(DataError, match="training set"):
        ks.expected(run, QUERIES, data=points(n=4))
    with pytest.raises(RuleError, match="whole run"):
        ks.expected(run[1:], QUERIES)
    with pytest.raises(DataError, match="data must be"):
        ks.expected(run, QUERIES, data=3)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.BatchNorm1d(3)])
def test_noise_from_elsewhere_is_refused_by_name(layer):
    x, y = points(n=6)
    model = nn.Sequential(nn.Linear(2, 3), layer, nn.Linear(3, 1)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        recording.batch(torch.arange(4))
        F.mse_loss(model(x[:4]), y[:4]).backward()
        optimizer.step()
    with pytest.raises(ModelError, match="choice of batches alone"):
        ks.expected(recording.run, QUERIES)


def test_muon_is_answered_to_first_order_only():
    x, y = points(n=6)
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Tanh(), nn.Linear(3, 1, bias=False)).double()
    optimizer = torch.optim.Muon(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for _ in range(2):
            recording.batch(torch.arange(6))
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    with pytest.raises(RuleError, match="whole matrices"):
        ks.expected(recording.run, QUERIES)
    assert ks.expected(recording.run, QUERIES, order=1).order == 1


class Written(nn.Module):
    """Layer normalisation in plain operations."""

    def __init__(self, width):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        apart = x - x.mean(-1, keepdim=True)
        return apart / (apart.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.weight + self.bias


def recorded_network(model, loss, targets, batches, lr=0.1, **options):
    x, _ = points(n=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, **options)
    with ks.record(model, (x, targets), loss=loss) as recording:
        for ids in batches:
            recording.batch(torch.as_tensor(ids))
            optimizer.zero_grad()
            loss(model(x[ids]), targets[ids]).backward()
            optimizer.step()
    return recording.run


@pytest.mark.parametrize("made", [nn.LayerNorm, lambda width: nn.GroupNorm(1, width)])
def test_normalisation_is_bent_as_its_plain_operations_are(made):
    x, y = points(n=6)
    found = []
    for layer in (made, Written):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 4), layer(4), nn.Tanh(), nn.Linear(4, 1)).double()
        run = recorded_network(model, F.mse_loss, y, [[0, 3], [2, 5], [4, 1]], lr=0.2)
        one = ks.expected(run, QUERIES, data=(x, y))
        other = ks.ensemble(run, QUERIES, seeds=4, terms=True, data=(x, y))
        second = ks.path_kernel(run, QUERIES, kind="second")
        found.append((one.terms["noise"], one.terms["curvature"], one.variance, other.terms["curvature"],
                      other.terms["noise"], other.terms["drift"], second.matrix))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-13)


class Cut(nn.Module):
    """A network whose gradient is cut off from part of what it depends on."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return self.head(h * h.detach())


def cut_mse(outputs, targets, reduction="mean"):
    apart = outputs - targets
    found = (apart * apart.detach()).mean(1)
    return found.mean() if reduction == "mean" else found


ASKED = {
    "expected": lambda run, data, **options: ks.expected(run, QUERIES, data=data, **options),
    "ensemble": lambda run, data, **options: ks.ensemble(run, QUERIES, seeds=4, terms=True, data=data),
    "second kernel": lambda run, data, **options: ks.path_kernel(run, QUERIES, kind="second"),
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", ASKED)
def test_outputs_whose_second_derivatives_are_cut_off_are_refused(name, dtype):
    x, y = (t.to(dtype) for t in points(n=6))
    model = Cut().to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for ids in ([0, 3], [2, 2], [5, 1], [4, 0]):
            recording.batch(torch.tensor(ids))
            optimizer.zero_grad()
            F.mse_loss(model(x[ids]), y[ids]).backward()
            optimizer.step()
    with pytest.raises(ModelError, match=r"The second derivatives of the outputs .* differences"):
        ASKED[name](recording.run, (x, y))


@pytest.mark.parametrize("name", ["expected", "ensemble"])
def test_a_loss_whose_second_derivatives_are_cut_off_is_refused(name):
    data = points(n=6)
    run = recorded_network(network(), cut_mse, data[1], [[0, 3], [2, 5], [4, 1], [1, 2], [0, 4], [3, 5]])
    with pytest.raises(ModelError, match=r"The second derivatives of the loss .* differences"):
        ASKED[name](run, data)
    # The path takes first derivatives of the loss alone.
    assert ks.expected(run, QUERIES, data=data, order=1, carried=False).terms["path"].isfinite().all()


def test_a_network_with_kinks_that_begins_at_nought_is_answered():
    data = points(n=6)
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    run = recorded_network(model, F.mse_loss, data[1], [[0, 3], [2, 5], [4, 1]])
    for asked in ASKED.values():
        asked(run, data)


def test_a_loss_that_weighs_classes_is_refused():
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 8.0], dtype=torch.float64))
    run = recorded_network(model, loss, labels, [[0, 3], [2, 1], [4, 0]])
    with pytest.raises(ModelError, match="class weights"):
        ks.expected(run, QUERIES)


def test_passes_that_count_otherwise_than_their_samples_are_refused():
    x, y = points(n=6)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for part in ([0, 1], [2]):
            recording.batch(torch.tensor(part))
            F.mse_loss(model(x[part]), y[part]).backward()
        optimizer.step()
    with pytest.raises(RuleError, match="otherwise than by their sizes"):
        ks.expected(recording.run, QUERIES)


def test_a_summed_loss_over_an_incomplete_batch_is_no_clipping():
    y = points(n=6)[1]
    summed = lambda outputs, targets, reduction="sum": F.mse_loss(outputs, targets, reduction=reduction)
    run = recorded_network(network(), summed, y, [[0, 3, 1, 2], [4, 5]], lr=0.02)
    found = ks.expected(run, QUERIES)
    assert not any("is in no term" in note for note in found.info["notes"])
    assert torch.allclose(found.mean + found.fluctuation, found.final, atol=1e-13)


def test_samples_that_are_drawn_more_often_are_told():
    weights = torch.ones(6)
    weights[0] = 60
    draw = torch.Generator().manual_seed(0)
    batches = [torch.multinomial(weights, 2, True, generator=draw).tolist() for _ in range(40)]
    found = ks.expected(recorded(batches, 0.02, n=6), QUERIES, data=points(n=6), carried=False)
    assert any("far more often" in note for note in found.info["notes"])
    assert not all(row.status == "pass" for row in found.check().rows)
    plain = ks.expected(recorded([torch.randint(6, (2,), generator=draw).tolist() for _ in range(40)], 0.02, n=6),
                        QUERIES, data=points(n=6), carried=False)
    assert not any("far more often" in note for note in plain.info["notes"])


def test_other_targets_than_those_of_the_run_are_refused():
    x, y = points(n=6)
    run = recorded([[0, 3], [2, 2], [5, 1]], 0.1, n=6)
    with pytest.raises(DataError, match="are others"):
        ks.expected(run, QUERIES, data=(x, y + 1))


@pytest.mark.parametrize(("options", "said"), [
    ({"probes": 1}, "probes must be"), ({"dtype": torch.float16}, "float16"), ({"order": 1.0}, "order must be"),
    ({"samples": 1}, "samples must be"), ({"preconditioner": "none"}, "preconditioner must be")])
def test_odd_options_are_refused(options, said):
    run = recorded([[0, 3], [2, 2], [5, 1]], 0.1, n=6)
    with pytest.raises(DataError, match=said):
        ks.expected(run, QUERIES, **options)


def test_odd_questions_are_refused():
    run = recorded([[0, 3], [2, 2], [5, 1]], 0.1, n=6)
    with pytest.raises(DataError, match="cannot take these queries"):
        ks.expected(run, torch.zeros(2, 5, dtype=torch.float64))
    with pytest.raises(DataError, match="seeds out"):
        ks.expected(recorded([range(6)] * 3, 0.1, n=6), QUERIES, seeds=4)
    with pytest.raises(DataError, match="term must be"):
        ks.expected(run, QUERIES).upto("drift")
    with pytest.raises(DataError, match="none came"):
        ks.ensemble(run, QUERIES[:0], seeds=4)


def test_centered_rmsprop_says_that_its_preconditioners_are_those_recorded():
    make = lambda parameters, lr: torch.optim.RMSprop(parameters, lr=lr, centered=True)
    run = recorded([[0, 3], [2, 2], [5, 1]], 0.01, n=6, make=make)
    assert any("as recorded" in note for note in ks.expected(run, QUERIES).info["notes"])


def test_parameters_have_storages_of_their_own_where_tangents_are_laid_beside_them():
    run = recorded([[0, 3], [2, 2], [5, 1]], 0.1, n=6)
    theta = run.parameters(1)
    kept = ks.network.apart(theta, list(theta))
    assert all(t.untyped_storage().nbytes() == t.nbytes for t in kept.values())
    assert all(torch.equal(t, theta[name]) for name, t in kept.items())
