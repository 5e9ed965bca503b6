"""Identities that the ledger obeys, and known answers; the numbers T1 to T25 are those of the theory notes."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.decomposition.training_side import WAYS, TrainingSide
from kernelscope.network import exact_arithmetic
from tests.oracles import corrected_midpoint, shapley
from tests.recordings import batches, complete, network, points, queries, relative, share_of, train


def half_square(outputs, targets, reduction="mean"):
    each = 0.5 * ((outputs - targets) ** 2).flatten(1).sum(1)
    return each if reduction == "none" else each.mean()


def descend(model, x, y, eta, steps, loss=half_square, decay=0.0):
    """Gradient descent on the mean loss of all points."""
    optimizer = torch.optim.SGD(model.parameters(), lr=eta, weight_decay=decay)
    with ks.record(model, (x, y), loss=loss) as recording:
        for _ in range(steps):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()
    return recording.run


def linear(features=6):
    return nn.Linear(features, 1, bias=False).double()


def normal(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def steep(n=4, features=6):
    """Points of nearly orthogonal directions, on which gradient descent soon arrives."""
    rows = torch.linalg.qr(normal(features, n))[0].T
    return rows * torch.linspace(0.9, 1.1, n, dtype=torch.float64)[:, None] + 0.05 * normal(n, features, seed=9)


# -- T7: linear regression ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 10, 60])
def test_linear_regression_by_gradient_descent_is_its_closed_form(steps):
    """T7: the share of a sample is k(x, x_i) alpha_i with alpha = K^+ (I - (I - eta K / n)^T) (y - f_0)."""
    x, y, z = normal(4, 6), normal(4, 1, seed=2), normal(3, 6, seed=3)
    model = linear()
    before = model(x).detach()
    eta, n = 0.3, len(x)
    run = descend(model, x, y, eta, steps)
    k = x @ x.T
    unlearned = torch.linalg.matrix_power(torch.eye(n, dtype=torch.float64) - eta * k / n, steps)
    alpha = torch.linalg.solve(k, (torch.eye(n, dtype=torch.float64) - unlearned) @ (y - before))
    d = ks.decompose(run, z)
    assert relative(d.contributions[:, 0], (z @ x.T) * alpha.T) <= 1e-10
    assert complete(d) <= 1e-13


def test_gradient_descent_without_end_is_the_interpolant_of_least_norm():
    """T7: the limit."""
    x, y, z = steep(), normal(4, 1, seed=2), normal(3, 6, seed=3)
    model = linear()
    nn.init.zeros_(model.weight)
    d = ks.decompose(descend(model, x, y, 2.0, 120), z)
    assert relative(d.final, z @ torch.linalg.pinv(x) @ y) <= 1e-8
    assert relative(d.contributions.sum(-1), d.final) <= 1e-12


def test_decay_leads_to_ridge_regression():
    """T7: with decay lambda from nought, k_x^T (K + n lambda I)^-1 y."""
    x, y, z = steep(), normal(4, 1, seed=2), normal(3, 6, seed=3)
    model = linear()
    nn.init.zeros_(model.weight)
    decay = 0.1
    d = ks.decompose(descend(model, x, y, 2.0, 120, decay=decay), z)
    k = x @ x.T
    ridge = z @ x.T @ torch.linalg.solve(k + len(x) * decay * torch.eye(len(x), dtype=torch.float64), y)
    assert relative(d.final, ridge) <= 1e-8
    assert relative(d.channels["data"] + d.channels["decay"], ridge) <= 1e-8
    assert d.channels["decay"].abs().min() > 0


# -- T8, T9: known flows -----------------------------------------------------------------------------------------------


class Product(nn.Module):
    """f = u v."""

    def __init__(self, start):
        super().__init__()
        self.u, self.v = (nn.Parameter(torch.tensor(start, dtype=torch.float64)) for _ in range(2))

    def forward(self, x):
        return (self.u * self.v) * x


def extrapolated(values):
    """The limit of a sequence whose steps are halved from each entry to the next, by Richardson's scheme."""
    table = list(values)
    for order in range(1, len(values)):
        table = [(2**order * b - a) / (2**order - 1) for a, b in itertools.pairwise(table)]
    return table[0]


def test_the_product_of_two_parameters_follows_its_closed_form():
    """T8: p(T) = y p0 e^(2yT) / (y - p0 + p0 e^(2yT)), and the path kernel is ln((y - p0 + p0 e^(2yT)) / y)."""
    start, y, time = 0.4, 1.3, 0.8
    p0 = start**2
    one, target = torch.ones(1, 1, dtype=torch.float64), torch.full((1, 1), y, dtype=torch.float64)
    grown = y - p0 + p0 * math.exp(2 * y * time)
    ends, kernels = [], []
    for steps in (20, 40, 80, 160):
        d = ks.decompose(descend(Product(start), one, target, time / steps, steps), one)
        assert complete(d) <= 1e-13
        ends.append(float(d.initial + d.contributions[0, 0, 0]))
        residuals = d.path[0, 0, :-1] - y
        kernels.append(float((-d.steps[0, 0] / residuals).sum()))
    exact = y * p0 * math.exp(2 * y * time) / grown, math.log(grown / y)
    for found, truth in zip((ends, kernels), exact, strict=True):
        errors = [abs(value - truth) for value in found]
        assert all(0.8 < math.log2(a / b) < 1.2 for a, b in itertools.pairwise(errors))
        assert abs(extrapolated(found) - truth) <= 1e-5 * truth


def homogeneous(depth):
    return nn.Sequential(*[nn.Linear(3, 3, bias=False) for _ in range(depth - 1)],
                         nn.Linear(3, 1, bias=False)).double()


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_decay_shrinks_a_homogeneous_network_as_euler_says(depth):
    """T9: <phi, theta> = L f, so a step of decay alone books -eta lambda L f at its midpoint."""
    torch.manual_seed(depth)
    model = homogeneous(depth)
    x, y = points(outputs=1)
    # The target is the output itself, so no sample pulls; what moves the weights is decay.
    y = model(x).detach()
    middle = copy.deepcopy(model)
    eta, decay = 1e-3, 0.5
    with torch.no_grad():
        for p in middle.parameters():
            p.mul_(1 - eta * decay / 2)
    d = ks.decompose(descend(model, x, y, eta, 1, decay=decay), queries(), quadrature="midpoint")
    # At the midpoint p the decay is -eta lambda <phi(p), theta_0>, and theta_0 is p times 1 / (1 - eta lambda / 2).
    expected = -eta * decay * depth * middle(queries()).detach() / (1 - eta * decay / 2)
    assert relative(d.channels["decay"], expected) <= 1e-12
    assert float(d.contributions.abs().max()) <= 1e-15


def test_layers_of_a_homogeneous_network_share_its_output_equally():
    """T9: <df/dW_l, W_l> = f for each layer."""
    torch.manual_seed(3)
    start = homogeneous(3)
    x, _ = points(outputs=1)
    shares = []
    for layer in range(3):
        model = copy.deepcopy(start)
        y = model(x).detach()
        optimizer = torch.optim.SGD(model[layer].parameters(), lr=0.1, weight_decay=0.1)
        with ks.record(model, (x, y), loss=half_square) as recording:
            optimizer.zero_grad()
            half_square(model(x), y).backward()
            optimizer.step()
        # f is linear in one layer, so every point of the step has the same gradient.
        shares.append(ks.decompose(recording.run, queries()).channels["decay"])
    for share in shares:
        assert relative(share, -0.01 * start(queries()).detach()) <= 1e-12


def test_decay_makes_a_homogeneous_network_forget_its_samples_exponentially():
    """T9: f_T = e^(-lambda L T) f_0 + the shares of time t times e^(-lambda L (T - t)), in the limit of small steps."""
    depth, decay, time = 2, 0.3, 1.0
    x, y = points(outputs=1)
    gaps = []
    for steps in (20, 40, 80, 160):
        torch.manual_seed(3)
        d = ks.decompose(descend(homogeneous(depth), x, y, time / steps, steps, decay=decay), queries())
        left = time - (torch.arange(steps, dtype=torch.float64) + 1) * time / steps
        kept = torch.exp(-decay * depth * left)
        formula = math.exp(-decay * depth * time) * d.initial + (d.steps * kept).sum(-1)
        gaps.append(float((formula - d.final)[0, 0]))
    assert all(0.8 < math.log2(abs(a / b)) < 1.2 for a, b in itertools.pairwise(gaps))
    assert abs(extrapolated(gaps)) <= 1e-3 * abs(gaps[-1])


# -- T5, T6: three ways to one kernel ----------------------------------------------------------------------------------


def test_every_way_through_the_network_gives_the_same_products():
    """T5: by layers, by sample, by directional derivative and by loop."""
    model = nn.Sequential(nn.Conv1d(1, 3, 2), nn.GroupNorm(1, 3), nn.Tanh(), nn.Flatten(), nn.Linear(6, 2)).double()
    x, y = points()
    x = x.unsqueeze(1)
    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), steps=1, size=5, diary=False)
    side = TrainingSide(run, torch.float64, torch.device("cpu"), 2**20)
    parameters = run.parameters(0)
    directions = {name: normal(4, *p.shape, seed=5) for name, p in parameters.items()}
    batch = run[0].batches[0]
    with exact_arithmetic(), torch.no_grad():
        found = [side._by(way)(batch, 0, parameters, list(directions))(directions, dict.fromkeys(directions, -0.5))
                 for way in WAYS]
    by_hand = []
    for i in batch.columns.tolist():
        leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
        out = torch.func.functional_call(model, leaves, (x[[i]],))
        grads = torch.autograd.grad(F.mse_loss(out, y[[i]]), list(leaves.values()))
        by_hand.append(sum(-0.5 * (u.flatten(1) @ g.flatten())
                           for u, g in zip(directions.values(), grads, strict=True)))
    for products in found:
        assert relative(products, torch.stack(by_hand, 1)) <= 1e-12


def test_the_kernel_of_losses_is_symmetric_in_the_limit_of_small_steps():
    """T6: for the loss of each training point as output, the shares of a step are -eta / n <grad l_i, grad l_j>."""
    x, y = points()
    gaps = []
    for eta in (0.2, 0.1, 0.05):
        torch.manual_seed(1)
        d = ks.decompose(descend(network(), x, y, eta, 1), x, output="loss", targets=y)
        k = -d.contributions[:, 0] * len(x) / eta
        gaps.append(float((k - k.T).abs().max()))
        assert float(torch.linalg.eigvalsh((k + k.T) / 2).min()) > -1e-2 * float(k.abs().max())
    assert all(0.8 < math.log2(a / b) < 1.2 for a, b in itertools.pairwise(gaps))


# -- T15, T16: what a share is -----------------------------------------------------------------------------------------


def test_a_share_of_a_step_is_a_shapley_value_up_to_the_third_order():
    """T15: slope 3 for the share, 2 for the left rule, against the Shapley values by all orders."""
    x, y = points(n=5)
    gaps = {"gonzalez": [], "gauss5": [], "left": []}
    for eta in (0.4, 0.2, 0.1):
        torch.manual_seed(1)
        model = network(outputs=1)
        y1 = y[:, :1]
        start = {name: p.detach().clone() for name, p in model.named_parameters()}
        moves = []
        for i in range(5):
            g = torch.autograd.grad(half_square(model(x[[i]]), y1[[i]]), list(model.parameters()))
            moves.append([-eta / 5 * part for part in g])
        probe = copy.deepcopy(model)

        def game(present, moves=moves, start=start, probe=probe):
            with torch.no_grad():
                for at, (name, p) in enumerate(probe.named_parameters()):
                    p.copy_(start[name] + sum((moves[i][at] for i in present), torch.zeros(())))
                return float(probe(queries()[:1]))

        value = shapley(range(5), game)
        truth = torch.tensor([value[i] for i in range(5)], dtype=torch.float64)
        run = descend(model, x, y1, eta, 1)
        for rule, found in gaps.items():
            d = ks.decompose(run, queries()[:1], quadrature=rule)
            found.append(float((d.contributions[0, 0] - truth).abs().max()))
    for rule, order in (("gonzalez", 3), ("gauss5", 3), ("left", 2)):
        for a, b in itertools.pairwise(gaps[rule]):
            assert abs(math.log2(a / b) - order) < 0.4


def test_copies_share_equally_though_leaving_one_out_changes_nothing():
    """T16: a share is accounting along the run, not the effect of leaving a sample out."""
    x, y = steep(), normal(4, 1, seed=2)
    z = normal(2, 6, seed=3)
    x, y = torch.cat([x, x[:1]]), torch.cat([y, y[:1]])

    def answer(x, y):
        model = linear()
        nn.init.zeros_(model.weight)
        return ks.decompose(descend(model, x, y, 2.0, 120), z)

    whole, without = answer(x, y), answer(x[:4], y[:4])
    assert relative(whole.contributions[..., 4], whole.contributions[..., 0]) <= 1e-12
    assert whole.contributions[..., 4].abs().min() > 1e-3
    assert relative(without.final, whole.final) <= 1e-8


# -- T17, T18: what changes shares and what does not -------------------------------------------------------------------


def shares_of(model, x, y, order, z=None, loss=half_square, eta=0.2):
    """The ledger of plain steps over the batches in ``order``."""
    optimizer = torch.optim.SGD(model.parameters(), lr=eta, momentum=0.5)
    with ks.record(model, (x, y), loss=loss) as recording:
        for ids in order:
            recording.batch(ids)
            optimizer.zero_grad()
            loss(model(x[ids]), y[ids]).backward()
            optimizer.step()
    return ks.decompose(recording.run, queries() if z is None else z)


def test_the_order_inside_a_batch_does_not_matter():
    """T17."""
    x, y = points()
    start = network()
    order = batches(5, 4)
    a = shares_of(copy.deepcopy(start), x, y, order)
    b = shares_of(copy.deepcopy(start), x, y, [ids.flip(0) for ids in order])
    assert relative(b.contributions, a.contributions) <= 1e-12


def test_hidden_units_may_be_renamed():
    """T17."""
    x, y = points()
    start = network()
    renamed = copy.deepcopy(start)
    places = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        renamed[0].weight.copy_(start[0].weight[places])
        renamed[0].bias.copy_(start[0].bias[places])
        renamed[2].weight.copy_(start[2].weight[:, places])
    order = batches(5, 4)
    a, b = shares_of(start, x, y, order), shares_of(renamed, x, y, order)
    assert relative(b.contributions, a.contributions) <= 1e-12


def test_a_sample_whose_loss_is_flat_has_no_share():
    """T17: l' = 0."""
    def hinge(outputs, targets, reduction="mean"):
        each = (0.5 - targets[:, 0] * outputs[:, 0]).clamp(min=0)
        return each if reduction == "none" else each.mean()

    x, _ = points()
    model = network(outputs=1)
    y = torch.sign(model(x).detach())
    # Half of the samples are far on their right side and never pull.
    with torch.no_grad():
        model[2].weight.mul_(20)
    margins = (y * torch.sign(model(x).detach()) * model(x).detach().abs())[:, 0]
    y[margins.abs().argsort()[:3]] *= -1
    d = shares_of(model, x, y, [list(range(8))] * 3, loss=hinge, eta=1e-3)
    flat = (y * model(x).detach())[:, 0] > 0.6
    assert 0 < int(flat.sum()) < 8
    assert not d.contributions[..., flat].any()
    assert bool((d.contributions[..., ~flat].abs().amax((0, 1)) > 0).all())


def test_a_sample_that_was_never_drawn_has_no_share():
    x, y = points()
    d = shares_of(network(), x, y, [[0, 1, 2], [2, 3, 4]])
    assert not d.contributions[..., 5:].any()
    assert d.contributions[..., :5].abs().amin() > 0


def test_two_copies_of_half_the_weight_have_half_the_share_each():
    """T17."""
    def weighted(outputs, targets, reduction="mean"):
        each = targets[:, 2] * 0.5 * ((outputs - targets[:, :2]) ** 2).sum(1)
        return each if reduction == "none" else each.mean()

    x, y = points()
    one = torch.cat([y, torch.ones(8, 1, dtype=torch.float64)], 1)
    half = torch.cat([one, one[:1]])
    half[0, 2] = half[8, 2] = 0.5
    start = network()
    a = shares_of(copy.deepcopy(start), x, one, [list(range(8))] * 5, loss=weighted, eta=0.8)
    # The mean is over nine rows instead of eight, so the rate makes up for it.
    b = shares_of(copy.deepcopy(start), torch.cat([x, x[:1]]), half, [list(range(9))] * 5, loss=weighted, eta=0.9)
    assert relative(b.contributions[..., 0], a.contributions[..., 0] / 2) <= 1e-12
    assert relative(b.contributions[..., 8], a.contributions[..., 0] / 2) <= 1e-12
    assert relative(b.contributions[..., 1:8], a.contributions[..., 1:]) <= 1e-12


def test_cross_entropy_does_not_see_what_all_classes_share():
    """T17: K + c 1 1^T is the same kernel to it."""
    class Shifted(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.shift = inner, nn.Linear(3, 1).double()

        def forward(self, x):
            return self.inner(x) + self.shift(x)

    x, _ = points()
    y = torch.arange(8) % 2
    start = network()
    plain, shifted = copy.deepcopy(start), Shifted(copy.deepcopy(start))
    order = batches(5, 4)
    a = shares_of(plain, x, y, order, loss=F.cross_entropy)
    b = shares_of(shifted, x, y, order, loss=F.cross_entropy)
    assert relative(b.contributions, a.contributions) <= 1e-12


def test_shares_depend_on_the_order_of_batches():
    """T18: the path matters, and this is documented here."""
    x, y = points()
    start = network()
    order = batches(4, 4)
    a = shares_of(copy.deepcopy(start), x, y, order)
    b = shares_of(copy.deepcopy(start), x, y, [order[1], order[0], *order[2:]])
    assert relative(b.contributions, a.contributions) > 1e-2


def test_shares_depend_on_how_a_function_is_written_in_its_weights():
    """T18: W1 -> a W1, W2 -> W2 / a is the same function and another path."""
    x, y = points()
    start = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2, bias=False)).double()
    other = copy.deepcopy(start)
    with torch.no_grad():
        other[0].weight.mul_(2)
        other[2].weight.div_(2)
    a, b = (shares_of(model, x, y, [list(range(8))] * 4) for model in (start, other))
    assert torch.allclose(a.initial, b.initial, rtol=1e-13)
    assert relative(b.contributions, a.contributions) > 1e-2


# -- T19, T20, T24, T25 ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.8])
def test_both_conventions_for_decay_give_the_same_total(momentum):
    """T19: decay as a channel of its own, or unrolled into the samples and the initial weights."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=momentum, weight_decay=0.2)
    run, notes = train(model, *points(), optimizer, steps=6)
    d = ks.decompose(run, queries())
    thetas = [entry.theta for entry in notes.entries] + [notes.last]
    phib = [list(corrected_midpoint(notes, thetas[k], thetas[k + 1], {}, queries())) for k in range(6)]
    for j in range(4):
        # p_T = phib_{T-1}; q_k = -eta p_{k+1} + mu q_{k+1}; p_k = (phib_{k-1} - phib_k) + p_{k+1} + lambda q_k.
        p, q, data = phib[5][j], dict.fromkeys(notes.names, torch.zeros(())), 0.0
        for k in range(5, -1, -1):
            q = {n: -0.1 * p[n] + momentum * q[n] for n in notes.names}
            data += sum(float((q[n] * notes.entries[k].gradient[n].total()).sum()) for n in notes.names)
            before = phib[k - 1][j] if k else dict.fromkeys(notes.names, torch.zeros(()))
            p = {n: before[n] - phib[k][j][n] + p[n] + 0.2 * q[n] for n in notes.names}
        initial = sum(float((p[n] * thetas[0][n]).sum()) for n in notes.names)
        at = divmod(j, 2)
        assert abs(data + initial - float((d.final - d.initial)[at])) <= 1e-13
        assert abs(data + initial - float((d.channels["data"] + d.channels["decay"])[at])) <= 1e-13
        assert abs(data - float(d.channels["data"][at])) > 1e-3


@pytest.mark.parametrize(("dtype", "least", "most"), [
    (torch.float64, 0.0, 1e-13), (torch.float32, 1e-9, 1e-5), (torch.bfloat16, 1e-5, 0.2),
])
def test_rounding_is_as_large_as_the_precision_of_training_allows(dtype, least, most):
    """T20."""
    x, y = points(dtype=dtype)
    model = network(dtype=dtype)
    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), steps=8, diary=False)
    d = ks.decompose(run, queries())
    assert complete(d) <= 1e-12
    assert least <= share_of(d, "rounding") <= most
    assert not d.channels["unattributed"].any()


def test_low_precision_passes_are_rounding_too():
    """T20: float32 weights, bfloat16 passes."""
    x, y = points(dtype=torch.float32)
    model = network(dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for ids in batches(8, 4):
            recording.batch(ids)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.mse_loss(model(x[ids]), y[ids])
            loss.backward()
            optimizer.step()
    d = ks.decompose(recording.run, queries())
    assert complete(d) <= 1e-12
    assert 1e-5 < share_of(d, "rounding") < 0.05
    assert not d.channels["unattributed"].any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_replayed_run_is_the_run_bit_for_bit(dtype):
    """T24."""
    def once(keep):
        torch.manual_seed(4)
        model = network(dtype=dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return train(model, *points(dtype=dtype), optimizer, steps=10, diary=False, keep=keep)[0]

    whole = once("all").trajectory(0, 10)
    for keep in (3, 5, 100):
        run = once(keep)
        assert sum(run.row(k) is not None for k in range(11)) < 11
        assert all(torch.equal(a, b) for a, b in zip(whole, run.trajectory(0, 10), strict=True))


@pytest.mark.parametrize("lag", [1, 3, 6])
def test_what_a_fixed_lag_leaves_out_is_the_momentum_that_it_cuts(lag):
    """T25: the shares of step s after s + W steps lack exactly mu^W <rho_{s+W}, g_s>."""
    mu, eta, steps = 0.8, 0.1, 10
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=eta, momentum=mu)
    run, notes = train(model, *points(), optimizer, steps=steps)
    whole = ks.decompose(run, queries())
    thetas = [entry.theta for entry in notes.entries] + [notes.last]
    phib = [list(corrected_midpoint(notes, thetas[k], thetas[k + 1], {}, queries())) for k in range(steps)]
    for s in range(steps - lag):
        cut = ks.decompose(run[:s + lag], queries())
        for j in range(4):
            rho = {n: sum(eta * mu ** (k - s - lag) * phib[k][j][n] for k in range(s + lag, steps))
                   for n in notes.names}
            lost = -mu**lag * sum(float((rho[n] * notes.entries[s].gradient[n].total()).sum()) for n in notes.names)
            at = divmod(j, 2)
            assert abs(float(whole.steps[at][s] - cut.steps[at][s]) - lost) <= 1e-12
