"""The kernel of a run along its training, against double loops over Jacobians and entries."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kernelscope as ks
from kernelscope.data.points import as_points
from kernelscope.diagnostics.evolution.choosing import evenly, sorted_by
from kernelscope.diagnostics.evolution.silent import Flow, silent_alignment
from kernelscope.errors import DataError, OutOfBudget
from kernelscope.plots.evolution import _evenly_told
from kernelscope.solvers import Direct, Eigensystem, Problem
from tests.oracles import jacobian

D = torch.float64


def data(n=12, d=3, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=D), torch.randint(classes, (n,), generator=g)


def network(d=3, c=3, hidden=5):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(d, hidden), nn.Tanh(), nn.Linear(hidden, c)).double()


def trained(model, x, y, loss=F.cross_entropy, steps=12, lr=0.4, batch=None, keep="all", make=torch.optim.SGD, **more):
    optimizer = make(model.parameters(), lr=lr, **more)
    g = torch.Generator().manual_seed(3)
    with ks.record(model, (x, y), loss=loss, keep=keep) as recording:
        for _ in range(steps):
            ids = torch.arange(len(x)) if batch is None else torch.randperm(len(x), generator=g)[:batch]
            recording.batch(ids)
            optimizer.zero_grad()
            loss(model(x[ids]), y[ids]).backward()
            optimizer.step()
    return recording.run


@pytest.fixture(scope="module")
def case():
    x, y = data()
    model = network()
    start = copy.deepcopy(model)
    run = trained(model, x, y)
    xt, yt = data(7, seed=5)
    return start, run, (x, y), (xt, yt), ks.evolution(run, xt, yt, times=[0, 3, 8, 12], ridge=1e-2, k=4)


def kernels(start, run, times, *inputs):
    """The kernel among some points at each time, entry by entry of Jacobians."""
    found = []
    model = copy.deepcopy(start).eval()
    for k in times:
        model.load_state_dict(model.state_dict() | run.parameters(k))
        j = jacobian(model, torch.cat(inputs))
        n, c, _ = j.shape
        matrix = torch.zeros(n, n, dtype=D)
        for a in range(n):
            for b in range(n):
                matrix[a, b] = sum(float(j[a, o] @ j[b, o]) for o in range(c))
        found.append(matrix)
    return found


def centred_loops(matrix):
    n = len(matrix)
    out = torch.zeros_like(matrix)
    for a in range(n):
        for b in range(n):
            out[a, b] = matrix[a, b] - matrix[a].mean() - matrix[:, b].mean() + matrix.mean()
    return out


def cos_loops(one, other):
    n = len(one)
    product = lambda p, q: sum(float(p[a, b] * q[a, b]) for a in range(n) for b in range(n))
    return product(one, other) / math.sqrt(product(one, one) * product(other, other))


def test_every_number_of_a_time_is_that_of_double_loops(case):
    start, run, (x, y), (xt, yt), found = case
    times, n = [0, 3, 8, 12], len(x)
    joint = kernels(start, run, times, x, xt)
    own = [m[:n, :n] for m in joint]
    near = lambda name, values: torch.testing.assert_close(found.series[name], torch.tensor(values, dtype=D),
                                                           rtol=1e-10, atol=1e-12)
    targets, others = F.one_hot(y, 3).double(), F.one_hot(yt, 3).double()
    near("trace", [float(m.diagonal().sum()) for m in own])
    near("norm", [float(m.norm()) for m in own])
    near("cosine first", [cos_loops(m, own[0]) for m in own])
    near("cosine last", [cos_loops(m, own[-1]) for m in own])
    near("cka first", [cos_loops(centred_loops(m), centred_loops(own[0])) for m in own])
    near("cka last", [cos_loops(centred_loops(m), centred_loops(own[-1])) for m in own])
    near("drift", [float((m - own[0]).norm() / own[0].norm()) for m in own])
    near("distance", [0.0] + [1 - cos_loops(a, b) for a, b in zip(own[:-1], own[1:], strict=True)])
    ideal = lambda t: centred_loops(t @ t.T)
    near("alignment", [cos_loops(centred_loops(m), ideal(targets)) for m in own])
    near("alignment x", [cos_loops(centred_loops(m[n:, n:]), ideal(others)) for m in joint])
    values = [torch.linalg.eigvalsh(m).flip(0) for m in own]
    near("participation", [float(v.sum() ** 2 / v.square().sum()) for v in values])
    shares = [(v / v.sum()).tolist() for v in values]
    near("entropy rank", [math.exp(-sum(p * math.log(p) for p in each if p > 0)) for each in shares])
    near("effective dimension", [sum(a / (a + 0.01 * float(v.mean())) for a in v.tolist()) for v in values])
    torch.testing.assert_close(found.values, torch.stack([v[:4] for v in values]), rtol=1e-10, atol=1e-12)
    pairs = torch.tensor([[cos_loops(centred_loops(a), centred_loops(b)) for a in own] for b in own], dtype=D)
    torch.testing.assert_close(found.cka, pairs, rtol=1e-10, atol=1e-12)
    speeds = [(1 - cos_loops(a, b)) / (q - p) for a, b, p, q in zip(own[:-1], own[1:], times[:-1], times[1:],
                                                                    strict=True)]
    torch.testing.assert_close(found.velocity, torch.tensor(speeds, dtype=D), rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(found.velocity_by_clock, found.velocity / 0.4, rtol=1e-12, atol=0)
    mass = []
    for m in own:
        u = torch.linalg.eigh(m).eigenvectors.flip(1)[:, :3]
        rest = targets - targets.mean(0)
        mass.append(float((u @ u.T @ rest).square().sum() / rest.square().sum()))
    near("label mass", mass)


def outputs_at(start, run, k, x):
    model = copy.deepcopy(start).eval()
    model.load_state_dict(model.state_dict() | run.parameters(k))
    return model(x).detach()


def test_the_network_scores_what_it_scores(case):
    start, run, (x, y), (xt, yt), found = case
    for i, k in enumerate([0, 3, 8, 12]):
        for inputs, targets, suffix in ((x, y, ""), (xt, yt, " x")):
            f = outputs_at(start, run, k, inputs)
            loss = float(F.cross_entropy(f, targets))
            assert float(found.series[f"loss{suffix}"][i]) == pytest.approx(loss, rel=1e-12)
            right = float((f.argmax(1) == targets).double().mean())
            assert float(found.series[f"score{suffix}"][i]) == pytest.approx(right)


def test_regression_with_each_kernel_is_dense_ridge_regression(case):
    start, run, (x, y), (xt, yt), found = case
    n, times = len(x), [0, 3, 8, 12]
    y1 = F.one_hot(y, 3).double()
    f0, f0x = (outputs_at(start, run, 0, z) for z in (x, xt))
    end, endx = (outputs_at(start, run, 12, z) for z in (x, xt))
    level = lambda t: t - t.mean(1, keepdim=True)
    for i, joint in enumerate(kernels(start, run, times, x, xt)):
        matrix, cross = joint[:n, :n], joint[n:, :n]
        rho = 0.01 * float(matrix.trace()) / n
        inverse = torch.linalg.inv(matrix + rho * torch.eye(n, dtype=D))
        for given, name in ((cross @ inverse @ y1, ""), (f0x + cross @ inverse @ (y1 - f0), " from f0")):
            fit = lambda key, name=name: float(found.regression[f"{key}{name}"][i])  # noqa: B023
            assert fit("score") == pytest.approx(float((given.argmax(1) == yt).double().mean()))
            assert fit("agreement") == pytest.approx(float((given.argmax(1) == endx.argmax(1)).double().mean()))
            cosine = float((level(given) * level(endx)).sum() / level(given).norm() / level(endx).norm())
            assert fit("distance") == pytest.approx(1 - max(cosine, 0) ** 2, rel=1e-9)
        carried = level(f0x + cross @ inverse @ (end - f0))
        truth = level(endx)
        share = float((carried - truth).square().sum() / (truth - truth.mean(0)).square().sum())
        assert float(found.regression["carried"][i]) == pytest.approx(share, rel=1e-7)
        missed = 0.0
        for j in range(n):
            rest = [a for a in range(n) if a != j]
            own = matrix[rest][:, rest] + rho * torch.eye(n - 1, dtype=D)
            missed += float((y1[j] - matrix[j, rest] @ torch.linalg.solve(own, y1[rest])).square().sum())
        spread = float((y1 - y1.mean(0)).square().sum())
        assert float(found.regression["left out"][i]) == pytest.approx(missed / spread, rel=1e-8)


def test_known_eigenpairs_solve_as_the_direct_solver_does():
    x, y = data(30, 4)
    matrix = ks.kernels.Gaussian(1.0)(x)
    points = as_points(torch.arange(30))
    targets = F.one_hot(y, 3).double()
    problem = Problem(ks.kernels.Precomputed(matrix), points, targets, points, ridge=(1e-6, 1e-3, 1e-1))
    one, other = Eigensystem(*torch.linalg.eigh(matrix)).solve(problem), Direct().solve(problem)
    torch.testing.assert_close(one.coefficients, other.coefficients, rtol=1e-7, atol=1e-7)
    assert one.objective == pytest.approx(other.objective, rel=1e-9)
    with pytest.raises(DataError, match="without intercept"):
        Eigensystem(*torch.linalg.eigh(matrix)).solve(
            Problem(problem.kernel, points, targets, points, intercept=True))


def test_a_machine_of_the_shared_fit_gives_the_same_predictions(case):
    start, run, (x, y), (xt, yt), found = case
    tangent = ks.kernels.Tangent(start).at(dict(run.parameters(12)))
    scale = float(tangent(x).diagonal().mean()) / len(x)
    machine = ks.fit(tangent, x, F.one_hot(y, 3).double(), ridge=0.01 * scale, solver="direct", progress=False)
    right = float((machine(xt).argmax(1) == yt).double().mean())
    assert float(found.regression["score"][-1]) == pytest.approx(right)


def test_the_kernel_of_a_linear_model_never_moves():
    x, y = data()
    model = nn.Linear(3, 3).double()
    found = ks.evolution(trained(model, x, y), *data(6, seed=2), times=5)
    ones = torch.ones(5, dtype=D)
    for name in ("cosine first", "cosine last", "cka first", "cka last", "scale"):
        torch.testing.assert_close(found.series[name], ones, rtol=0, atol=1e-12)
    assert float(found.velocity.abs().max()) < 1e-14
    assert float(found.series["drift"].max()) == 0.0
    torch.testing.assert_close(found.cka, torch.ones(5, 5, dtype=D), rtol=0, atol=1e-12)
    assert found.silent["verdict"] == "kept"
    assert "kept its direction" in found.summary()


def test_a_linear_model_under_the_squared_loss_ends_where_gradient_flow_says():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 3, generator=g, dtype=D), torch.randn(8, 2, generator=g, dtype=D)
    missed = []
    for lr in (0.02, 0.01, 0.005):
        torch.manual_seed(1)
        run = trained(nn.Linear(3, 2).double(), x, y, F.mse_loss, steps=round(2 / lr), lr=lr)
        found = ks.evolution(run, x[:3] + 1, times=2)
        assert found.formula["first"] == pytest.approx(found.formula["last"], rel=1e-9)
        missed.append(found.formula["last x"])
    # Steps follow the flow to first order in their size.
    assert missed[0] < 0.01
    assert missed[0] / missed[1] == pytest.approx(2, rel=0.05)
    assert missed[1] / missed[2] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("batch", [None, 4])
def test_a_summed_loss_is_the_same_flow_as_the_mean_at_another_rate(batch):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(8, 3, generator=g, dtype=D), torch.randn(8, 2, generator=g, dtype=D)

    def summed(outputs, targets, reduction="sum"):
        return F.mse_loss(outputs, targets, reduction=reduction) / (1 if reduction == "none" else 2)

    found = []
    for loss, lr in ((F.mse_loss, 0.02), (summed, 0.02 / (batch or 8))):
        found.append(ks.evolution(trained(network(c=2), x, y, loss, steps=60, lr=lr, batch=batch), x + 0.1, times=5))
    mean, total = (each.formula for each in found)
    assert mean["first x"] < 0.7
    assert set(mean) == set(total)
    for name, value in mean.items():
        assert total[name] == pytest.approx(value, rel=1e-8)
    torch.testing.assert_close(found[1].clock, found[0].clock / (batch or 8))


class Products(nn.Module):
    r"""f(x) = sum_j a_j w_j x_j, whose kernel on unit vectors is diag(a_j^2 + w_j^2)."""

    def __init__(self, d, size):
        super().__init__()
        self.a = nn.Parameter(torch.full((d,), size, dtype=D))
        self.w = nn.Parameter(torch.full((d,), size, dtype=D))

    def forward(self, x):
        return (x * self.a * self.w).sum(1, keepdim=True)


def test_a_kernel_that_only_grows_is_its_last_one_in_another_time():
    x, y = torch.eye(4, dtype=D), torch.ones(4, 1, dtype=D)
    missed = []
    for lr in (0.08, 0.04):
        run = trained(Products(4, 0.2), x, y, F.mse_loss, steps=round(8 / lr), lr=lr)
        found = ks.evolution(run, x * 2, y * 2, times=len(run) + 1)
        torch.testing.assert_close(found.series["cosine last"], torch.ones(len(run) + 1, dtype=D), rtol=0, atol=1e-12)
        assert float(found.series["scale"][0]) < 0.06
        assert found.silent["verdict"] == "kept"
        assert found.formula["first x"] > 0.5
        missed.append(found.formula["last x at most"])
        assert found.formula["last x"] <= missed[-1]
    assert missed[0] < 0.02
    assert missed[0] / missed[1] == pytest.approx(2, rel=0.1)


def test_flow_with_a_fixed_kernel_is_the_limit_of_small_steps():
    x, _ = data(6)
    matrix = ks.kernels.Gaussian(1.0)(x) * 3
    rest = torch.arange(6.0, dtype=D)[:, None]
    total, left, h = torch.zeros(6, 1, dtype=D), rest.clone(), 1e-4
    for _ in range(5000):
        # The midpoint of each step, which is exact to second order.
        middle = left - h / 2 * matrix @ left
        total, left = total + h * matrix @ middle, left - h * matrix @ middle
    values, vectors = torch.linalg.eigh(matrix)
    torch.testing.assert_close(Flow.of(values, vectors, matrix, rest).at(0.5), total, rtol=1e-6, atol=1e-6)
    nought = Flow.of(torch.zeros(6, dtype=D), vectors, matrix, rest).at(0.5)
    torch.testing.assert_close(nought, 0.5 * matrix @ rest)


def test_silent_alignment_is_told_by_when_the_loss_falls():
    steps, ones = torch.arange(11.0), torch.ones(11)
    turn = torch.cat([torch.linspace(0.2, 1.0, 4), torch.ones(7)])
    late = (1 - turn.flip(0) + 0.2).clamp(max=1.0)
    fall = lambda at: torch.where(steps < at, 1.0, 0.0)
    assert silent_alignment(steps, turn, fall(6), ones)["verdict"] == "silent"
    found = silent_alignment(steps, turn, fall(1), ones)
    assert found["verdict"] == "late"
    assert found["step"] == pytest.approx(2.7)
    assert silent_alignment(steps, turn, torch.linspace(1, 0, 11) ** 3, ones)["verdict"] == "along"
    assert silent_alignment(steps, turn, steps, ones)["verdict"] == "no fall"
    assert silent_alignment(steps, ones, fall(5), ones)["verdict"] == "kept"
    astray = torch.tensor([0.2, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0, 1.0])
    assert silent_alignment(steps, astray, fall(5), ones)["step"] > 8
    assert silent_alignment(steps, late, fall(5), steps + 1)["growth"] == pytest.approx(11)


def test_two_deep_linear_layers_from_small_weights_align_silently():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20, 4, generator=g, dtype=D)
    y = x @ torch.tensor([[1.0], [0.5], [0.0], [0.0]], dtype=D)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 1, bias=False)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.01)
    found = ks.evolution(trained(model, x, y, F.mse_loss, steps=400, lr=0.05, keep=20), times=81)
    assert found.silent["verdict"] == "silent"
    assert found.silent["growth"] > 100
    assert "silent" in found.silent_words()


def test_the_last_kernel_is_closer_to_the_network_than_the_first():
    digits, test = ks.data.digits("train"), ks.data.digits("test")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    run = trained(model, digits.x[:300].float(), digits.y[:300], steps=150, lr=0.3, batch=32, keep=10)
    found = ks.evolution(run, test.x.float(), test.y, times=4)
    assert found.info["dtype"] == "float32"
    assert float(found.regression["carried"][-1]) < 0.3 * float(found.regression["carried"][0])
    assert {row.name: row.status for row in found.check().rows}["closer"] == "pass"
    assert found.check().ok


def test_scaling_the_data_scales_the_kernel_of_a_model_without_bias():
    x, y = data()
    first = ks.evolution(trained(nn.Linear(3, 3, bias=False).double(), x, y, lr=0.1), times=2)
    other = ks.evolution(trained(nn.Linear(3, 3, bias=False).double(), 3 * x, y, lr=0.1), times=2)
    torch.testing.assert_close(other.series["trace"], 9 * first.series["trace"])
    torch.testing.assert_close(other.series["alignment"], first.series["alignment"])
    torch.testing.assert_close(other.series["effective dimension"], first.series["effective dimension"])


def test_nothing_of_the_users_changes():
    x, y = data()
    model = network()
    run = trained(model, x, y)
    model.train()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    ks.evolution(run, x, y, times=3)
    ks.kernel_distances(run, run, times=2)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert model.training


def test_a_slice_is_looked_at_by_its_own_steps(case):
    _, run, _, (xt, yt), _ = case
    whole = ks.evolution(run, xt, yt, times=[3, 8], ridge=0.1)
    part = ks.evolution(run[3:8], xt, yt, times=[0, 5], ridge=0.1)
    for name in ("trace", "alignment", "cka first", "loss", "score x"):
        torch.testing.assert_close(part.series[name], whole.series[name], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(part.regression["carried"], whole.regression["carried"], rtol=1e-9, atol=1e-12)


def test_what_is_replayed_is_what_was_stored():
    x, y = data()
    found = [ks.evolution(trained(network(), x, y, keep=keep, momentum=0.5), times=4) for keep in ("all", 5)]
    torch.testing.assert_close(found[0].series["norm"], found[1].series["norm"], rtol=1e-12, atol=0)


def test_batch_normalisation_is_read_with_the_statistics_of_the_time():
    x, y = data()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()
    # The initial network is that which recording began with.
    states = [copy.deepcopy(model.state_dict())]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.cross_entropy) as recording:
        for k in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            # A later step begins when the optimizer moves: the forward pass before it has updated the statistics.
            states += [copy.deepcopy(model.state_dict())] * (k > 0)
            optimizer.step()
    states.append(copy.deepcopy(model.state_dict()))
    found = ks.evolution(recording.run, times=5)
    for i, state in enumerate(states):
        other = copy.deepcopy(model)
        other.load_state_dict(state)
        j = jacobian(other.eval(), x)
        true = float(sum(j[:, o] @ j[:, o].T for o in range(3)).norm())
        assert float(found.series["norm"][i]) == pytest.approx(true, rel=1e-10)


def test_quantities_are_scored_by_r2_and_compared_as_they_are():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(16, 2, generator=g, dtype=D)
    y = (x[:, :1] * x[:, 1:]).sin()
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    model = copy.deepcopy(start)
    run = trained(model, x, y, F.mse_loss, steps=40, lr=0.2)
    xt, yt = x + 0.1, y + 0.05
    found = ks.evolution(run, xt, yt, times=3, ridge=0.1)
    assert found.task == "R²"
    f = model(xt).detach()
    assert float(found.series["score x"][-1]) == pytest.approx(
        1 - float((f - yt).square().sum() / (yt - yt.mean(0)).square().sum()), rel=1e-10)
    joint = kernels(start, run, [40], x, xt)[0]
    alpha = torch.linalg.solve(joint[:16, :16] + 0.1 * float(joint[:16, :16].trace()) / 16 * torch.eye(16, dtype=D), y)
    given = joint[16:, :16] @ alpha
    far = float((given - f).square().sum() / (f - f.mean(0)).square().sum())
    assert float(found.regression["distance"][-1]) == pytest.approx(far, rel=1e-8)
    assert "agreement" not in found.regression
    ends = {f"{name}{where}" for name in ("first", "last") for where in ("", " x")}
    assert set(found.formula) == {"tau", *ends, *(f"{name} at most" for name in ends)}


def test_one_logit_of_two_classes_is_scored_by_its_sign():
    x, y = data(classes=2)
    y = y.double()[:, None]
    model = network(c=1)
    run = trained(model, x, y, F.binary_cross_entropy_with_logits)
    found = ks.evolution(run, x, y, times=3)
    right = float(((model(x) > 0).double() == y).double().mean())
    assert found.task == "accuracy"
    assert float(found.series["score x"][-1]) == pytest.approx(right)
    assert 0 <= float(found.regression["agreement"].min()) <= 1


@pytest.mark.parametrize("count", [1, 3])
def test_outputs_that_are_probabilities_are_read_as_such(count):
    x, _ = data(20)
    y = (x[:, :count] + x[:, 1:2] > 0).double()
    model = nn.Sequential(network(c=count), nn.Sigmoid())
    run = trained(model, x, y, F.binary_cross_entropy, steps=4)
    found = ks.evolution(run, x, y, times=3)
    right = float(((model(x) > 0.5).double() == y).double().mean())
    assert 0 < right < 1
    assert float(found.series["score x"][-1]) == pytest.approx(right)
    assert found.formula == {}
    assert any("labels" in note for note in found.info["notes"]) == (count == 3)


@pytest.mark.parametrize("loss", [F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss(pos_weight=torch.ones(3))])
def test_several_labels_are_scored_by_the_share_of_right_ones(loss):
    x, _ = data(20)
    y = (x > 0).double()
    model = network()
    run = trained(model, x, y, loss, steps=6)
    found = ks.evolution(run, x, y, times=3)
    share = sum(float((model(x)[i, c] > 0) == (y[i, c] > 0)) for i in range(20) for c in range(3)) / 60
    assert 0 < share < 1
    assert found.task == "share of right labels"
    assert float(found.series["score x"][-1]) == pytest.approx(share)
    assert float(found.regression["score"].min()) > 0.5
    assert any("any of 3 labels" in note for note in found.info["notes"])


def test_samples_that_the_loss_ignores_are_left_out():
    x, y = data(20)
    y[::4] = -100
    run = trained(network(), x, y, steps=5)
    kept = y >= 0
    found = ks.evolution(run, x, y, times=2)
    assert found.info["samples"] == 15
    assert found.task == "accuracy"
    assert [note for note in found.info["notes"] if "5 of 20" in note and "ignores" in note]
    plain = ks.evolution(run, x[kept], y[kept], times=2)
    torch.testing.assert_close(found.series["score x"], plain.series["score x"])
    with pytest.raises(DataError, match="ignores"):
        ks.evolution(run, x, torch.full_like(y, -100), times=2)


def test_without_points_or_targets_less_is_told():
    x, y = data()
    run = trained(network(), x, y)
    alone = ks.evolution(run, times=3)
    assert set(alone.regression) == {"left out"}
    assert "misses of a sample that is left out" in ks.Report("Alone", [alone]).html()
    assert "score x" not in alone.series
    blind = ks.evolution(run, x + 0.1, times=3)
    assert "agreement" in blind.regression
    assert "score" not in blind.regression
    assert ks.evolution(run, x, y, times=3, regression=False).regression == {}
    assert "kernel regression" not in blind.summary()
    assert "answers as the network" in blind.summary()


def test_one_output_has_a_kernel_of_its_own(case):
    start, run, (x, _), _, _ = case
    found = ks.evolution(run, times=2, output=1)
    j = jacobian(copy.deepcopy(start).eval(), x)[:, 1]
    assert float(found.series["norm"][0]) == pytest.approx(float((j @ j.T).norm()), rel=1e-10)
    same = ks.evolution(run, times=2, output=lambda out: out[:, 1])
    torch.testing.assert_close(same.series["norm"], found.series["norm"], rtol=1e-12, atol=0)


def test_of_many_samples_some_are_taken_from_each_class():
    x, y = data(40)
    run = trained(network(), x, y, steps=2)
    found = ks.evolution(run, times=2, samples=15)
    assert found.info["samples"] == 15
    assert any("15 of 40" in note for note in found.info["notes"])
    columns = F.one_hot(y, 3).double()
    chosen = evenly(sorted_by(columns), 15)
    shares = columns[chosen].mean(0) - columns.mean(0)
    assert float(shares.abs().max()) <= 1 / 15
    assert len(set(chosen.tolist())) == 15


def test_little_memory_keeps_pairs_of_fewer_samples():
    x, y = data(60)
    run = trained(network(), x, y, steps=6)
    whole, part = ks.evolution(run, times=7), ks.evolution(run, times=7, memory=300_000)
    assert part.info["pair_samples"] < 60 == whole.info["pair_samples"]
    assert any("pairs of times" in note for note in part.info["notes"])
    torch.testing.assert_close(part.series["cka last"], whole.series["cka last"], rtol=1e-10, atol=0)
    with pytest.raises(OutOfBudget, match="samples="):
        ks.evolution(run, times=3, memory=50_000)


def test_kernels_of_two_runs_are_compared_on_the_same_points():
    x, y = data()
    model = network()
    start = copy.deepcopy(model)
    a = trained(model, x, y)
    b = trained(copy.deepcopy(start), x, y, lr=0.05)
    found = ks.kernel_distances(a, b, x, times=[0, 12])
    ones, others = ([centred_loops(m) for m in kernels(start, run, [0, 12], x)] for run in (a, b))
    true = torch.tensor([[cos_loops(p, q) for q in others] for p in ones], dtype=D)
    torch.testing.assert_close(found.cka, true, rtol=1e-10, atol=0)
    assert found.check().ok
    assert "two runs" in found.summary()
    assert found.plot(theme="dark").get_title(loc="left")
    with pytest.raises(DataError, match="same data"):
        ks.kernel_distances(a, trained(network(2), *data(d=2)))


@pytest.mark.parametrize("options", [{"samples": "a"}, {"samples": 1}, {"progress": "a"}, {"output": "margin"},
                                     {"times": "a"}, {"memory": "much"}])
def test_options_of_distances_that_do_not_fit_are_refused(case, options):
    with pytest.raises(DataError):
        ks.kernel_distances(case[1], case[1], **options)


@pytest.mark.parametrize("points", [1, 6])
def test_what_is_not_defined_is_left_out_of_sentences(points, tmp_path):
    x, _ = data(12)
    run = trained(network(c=1), x, x[:, :1] * 20, F.mse_loss, steps=5, lr=0.01)
    # R² and alignment with targets that are all the same are not defined.
    found = ks.evolution(run, x[:points] + 1, torch.full((points, 1), 0.3, dtype=D), times=3)
    assert found.series["score x"].isnan().all()
    assert found.series["alignment x"].isnan().all()
    told = f"{found.summary()} {found.silent_words()} {found.check()}"
    assert "nan" not in told.lower()
    assert "on the others" not in told
    assert "R²" not in told
    assert ("of their variance" in told) == (points > 1)
    assert "How the kernel moved" in ks.Report("Page", [found]).html()
    assert "nan" not in found.plot().get_title(loc="left")
    assert ks.KernelEvolution.load(found.save(tmp_path / "a")).summary() == found.summary()


def test_numbers_in_sentences_have_the_sign_of_subtraction():
    x, _ = data(12)
    run = trained(network(c=1), x, x[:, :1], F.mse_loss, steps=3, lr=0.01)
    found = ks.evolution(run, x + 5, x[:, :1] + 50, times=3)
    assert float(found.series["score x"][-1]) < -10
    assert "−" in found.said()
    assert "-" not in found.said() + found.silent_words()
    titles = [found.plot(show=show).get_title(loc="left") for show in ("course", "regression", "closeness")]
    assert "-" not in " ".join(titles)


@pytest.mark.parametrize("count", range(2, 31))
def test_steps_are_told_at_even_places(count):
    places = _evenly_told(count)
    gaps = {b - a for a, b in zip(places[:-1], places[1:], strict=True)}
    assert places[0] == 0
    assert places[-1] >= count - 2
    assert 2 <= len(places) <= 7
    assert max(gaps) - min(gaps) <= (0 if count <= 12 else 1)


def test_a_course_is_kept_drawn_and_reported(tmp_path, case):
    found = case[-1]
    again = ks.KernelEvolution.load(found.save(tmp_path / "course"))
    assert torch.equal(again.cka, found.cka)
    assert torch.equal(again.movie, found.movie)
    assert again.summary() == found.summary()
    assert again.silent == found.silent
    titles = {show: found.plot(show=show).get_title(loc="left") for show in
              ("course", "regression", "closeness", "cka", "movie", "spectrum")}
    assert all(titles.values())
    page = ks.Report("Page", [found]).html()
    assert "silent alignment" in page
    assert "How the kernel moved" in page
    file = found.animate(tmp_path / "kernel.gif")
    assert file.read_bytes().startswith(b"GIF")
    with pytest.raises(DataError, match=r"kernel\.gif"):
        found.animate(tmp_path / "kernel.mp4")
    assert len(found.to_frame()) == len(found) == 4


def test_a_check_fails_where_numbers_cannot_be(case):
    found = case[-1]
    assert found.check().ok
    assert not replace(found, cka=found.cka + 0.5).check().ok
    crooked = found.series | {"asymmetry": found.series["asymmetry"] + 1e-3}
    assert not replace(found, series=crooked).check().ok
    negative = found.series | {"least": found.series["least"] - 1e-2}
    assert not replace(found, series=negative).check().ok


@pytest.mark.parametrize("options", [
    {"times": 1}, {"times": [0, 99]}, {"k": 0}, {"ridge": 0}, {"ridge": "small"}, {"samples": 1}, {"movie": -1},
    {"memory": "much"}, {"device": "nowhere"}, {"dtype": torch.float16}, {"output": "margin"}, {"y": torch.zeros(3)},
])
def test_options_that_do_not_fit_are_refused(case, options):
    with pytest.raises(DataError):
        ks.evolution(case[1], **options)


def test_questions_that_make_no_sense_are_refused(case):
    _, run, (x, y), _, _ = case
    with pytest.raises(DataError, match="recorded run"):
        ks.evolution(nn.Linear(1, 1))
    with pytest.raises(DataError, match="no steps"):
        ks.evolution(run[2:2])
    with pytest.raises(DataError, match="NaN"):
        ks.evolution(run, x * math.nan, y)
    with pytest.raises(DataError):
        ks.evolution(run, x[:, :2], y)
    with pytest.raises(DataError, match="class 7"):
        ks.evolution(run, x, y * 0 + 7)
    with pytest.raises(DataError):
        ks.evolution(run, x, y[:3])
    g = trained(network(c=1), x, x[:, :1], F.mse_loss, steps=2)
    with pytest.raises(DataError, match="as many numbers"):
        ks.evolution(g, x, x[:, :2])
