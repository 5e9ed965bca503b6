"""The kernels of a run against Jacobians by hand, closed forms, and averages over every batch there is."""

import itertools
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, jacrev

import kernelscope as ks
from kernelscope import plots
from kernelscope.decomposition.query_side import QuerySide
from kernelscope.errors import DataError, ModelError, OutOfBudget, OutOfRange, RuleError
from tests.recordings import network, points, queries, relative, train


def recorded(batches, eta=0.1, model=None, data=None, loss=F.mse_loss, make=None, seed=1):
    """A run over the batches given, and its model."""
    torch.manual_seed(seed)
    model = network() if model is None else model
    x, y = points() if data is None else data
    make = make or (lambda parameters: torch.optim.SGD(parameters, lr=eta))
    optimizer = make(model.parameters())
    with ks.record(model, (x, y), loss=loss) as recording:
        for ids in batches:
            recording.batch(torch.as_tensor(ids))
            optimizer.zero_grad()
            loss(model(x[list(ids)]), y[list(ids)]).backward()
            optimizer.step()
    return recording.run, model


def flat(parameters):
    return torch.cat([p.reshape(-1) for p in parameters.values()])


def shaped(vector, like):
    pieces = vector.split([p.numel() for p in like.values()])
    return {name: piece.view(p.shape) for (name, p), piece in zip(like.items(), pieces, strict=True)}


def jacobian(model, parameters, x):
    """The gradients of all outputs, with shape (n, c, P)."""
    return jacrev(lambda v: functional_call(model, shaped(v, parameters), (x,)))(flat(parameters))


def loss_gradients(model, parameters, x, y, loss=F.mse_loss):
    """The gradient of each sample's loss, with shape (n, P)."""
    each = lambda v, i: loss(functional_call(model, shaped(v, parameters), (x[[i]],)), y[[i]])
    return torch.stack([torch.func.grad(each)(flat(parameters), i) for i in range(len(x))])


def slopes(errors):
    """The orders of an error whose step is halved from each entry to the next."""
    return [math.log2(a / b) for a, b in itertools.pairwise(errors)]


BATCHES = [(0, 1, 2), (3, 4, 5), (6, 7, 0), (2, 4, 6)]
NODES = {5: [(0.5 * (1 + t), 0.5 * w) for t, w in (
    (0.0, 128 / 225),
    *((s * math.sqrt(5 - 2 * math.sqrt(10 / 7)) / 3, (322 + 13 * math.sqrt(70)) / 900) for s in (-1, 1)),
    *((s * math.sqrt(5 + 2 * math.sqrt(10 / 7)) / 3, (322 - 13 * math.sqrt(70)) / 900) for s in (-1, 1)))]}


# -- each kind is its formula ------------------------------------------------------------------------------------------


def test_the_path_kernel_is_the_sum_of_tangent_kernels_times_learning_rates():
    run, model = recorded(BATCHES)
    x, z = queries(), points()[0]
    places = [(jacobian(model, run.parameters(k), x), jacobian(model, run.parameters(k), z)) for k in range(5)]
    full = [torch.einsum("icp,jdp->icjd", a, b) for a, b in places]
    for outputs, form in (("full", lambda k: k), ("trace", lambda k: torch.einsum("icjc->ij", k))):
        left = ks.path_kernel(run, x, z, outputs=outputs)
        assert relative(left.matrix, form(0.1 * sum(full[:4]))) <= 1e-12
        ends = ks.path_kernel(run, x, z, outputs=outputs, quadrature="trapezoid")
        assert relative(ends.matrix, form(0.1 * (full[0] / 2 + sum(full[1:4]) + full[4] / 2))) <= 1e-12
    assert left.info["time"] == pytest.approx(0.4)
    assert relative(ks.path_kernel(run, x, z, outputs="full").traced(), left.matrix) <= 1e-12


def test_the_step_kernel_averages_one_side_along_the_step():
    run, model = recorded(BATCHES, eta=0.5)
    x, z = queries(), points()[0]
    here, there = run.parameters(2), run.parameters(3)
    at = lambda s: {name: here[name] + s * (there[name] - here[name]) for name in here}
    averaged = sum(w * jacobian(model, at(s), x) for s, w in NODES[5])
    truth = torch.einsum("icp,jdp->icjd", averaged, jacobian(model, here, z))
    found = ks.path_kernel(run, x, z, kind="step", step=2, outputs="full")
    assert relative(found.matrix, truth) <= 1e-12
    assert relative(ks.path_kernel(run, x, z, kind="step", step=-2).matrix, found.traced()) <= 1e-12


@pytest.mark.parametrize("k", [0, 3])
def test_the_step_kernel_is_the_two_sided_one_of_the_exact_ledger(k):
    run, model = recorded(BATCHES, eta=0.4)
    data, ids = points(), list(BATCHES[k])
    kernel = ks.path_kernel(run, queries(), data[0][ids], kind="step", step=k, outputs="full").matrix
    with torch.no_grad():
        residual = functional_call(model, run.parameters(k), (data[0][ids],)) - data[1][ids]
    # The loss of a sample is the mean over two outputs of squares.
    booked = -0.4 / 3 * torch.einsum("icjd,jd->ic", kernel, residual)
    assert relative(booked, ks.decompose(run, queries()).by_step()[..., k]) <= 1e-10


def test_the_loss_path_kernel_is_the_sum_over_products_of_loss_gradients():
    run, model = recorded(BATCHES)
    x, y = points()
    z, t = queries(), torch.ones(2, 2, dtype=torch.float64)
    at = lambda k, a, b: loss_gradients(model, run.parameters(k), a, b)
    truth = 0.1 * sum(at(k, x, y) @ at(k, z, t).T for k in range(4))
    assert relative(ks.path_kernel(run, x, (z, t), kind="loss", targets=y).matrix, truth) <= 1e-12
    own = 0.1 * sum(at(k, x, y) @ at(k, x, y).T for k in range(4))
    trained = ks.path_kernel(run, kind="loss")
    assert trained.ids == list(range(8))
    assert relative(trained.matrix, own) <= 1e-12


def test_the_second_order_kernel_is_that_of_the_dense_hessian():
    run, model = recorded(BATCHES[:3], eta=0.3)
    x, y = points()
    parts = []
    for k in range(3):
        theta = run.parameters(k)
        g = loss_gradients(model, theta, x, y)
        phi = jacobian(model, theta, queries())
        h = jacrev(jacrev(lambda v, theta=theta: functional_call(model, shaped(v, theta), (queries(),))))(flat(theta))
        first = torch.einsum("qcp,ip->qci", phi, g)
        mixed = torch.einsum("ip,qcpr,r->qci", g, h, g.mean(0))
        own = torch.einsum("ip,qcpr,ir->qci", g, h, g)
        parts.append(first - 0.15 * ((1 - 1 / 3) * mixed + own / 3))
    for k in range(3):
        found = ks.path_kernel(run, queries(), kind="second", step=k)
        assert found.matrix.shape == (2, 2, 8)
        assert relative(found.matrix, parts[k]) <= 1e-12
    whole = ks.path_kernel(run, queries(), kind="second")
    assert relative(whole.matrix, sum(parts) / 3) <= 1e-12
    tight = ks.path_kernel(run, queries(), kind="second", memory=3000)
    assert relative(tight.matrix, whole.matrix) <= 1e-12
    with pytest.raises(OutOfBudget, match="2 queries with 2 outputs and 8 samples needs about .* Raise memory"):
        ks.path_kernel(run, queries(), kind="second", memory=2000)


def test_parameters_count_with_the_rates_of_their_groups_at_the_steps_that_move_them():
    torch.manual_seed(1)
    model = network()
    make = lambda _: torch.optim.Adam([{"params": list(model[0].parameters()), "lr": 0.01},
                                       {"params": [model[2].weight], "lr": 0.3}])
    run, _ = recorded(BATCHES[:2], model=model, make=make)
    rates = torch.cat([torch.full((p.numel(),), {"0": 0.01, "2": 0.3}[name[0]] * (name != "2.bias"),
                                  dtype=torch.float64) for name, p in model.named_parameters()])
    truth = 0
    for k in range(2):
        frozen = {name: p.detach() for name, p in model.named_parameters()}
        j = jacobian(model, frozen | run.parameters(k), queries())
        truth = truth + torch.einsum("icp,p,jcp->ij", j, rates, j)
    found = ks.path_kernel(run, queries())
    assert relative(found.matrix, truth) <= 1e-12
    assert any("Adam moves parameters otherwise" in note for note in found.info["notes"])


# -- blocks and memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"outputs": "full"}, {"kind": "step", "step": 1}, {"kind": "loss"}])
def test_blocks_of_any_size_give_the_same_kernel(options):
    run, _ = recorded(BATCHES)
    x, y = points()
    z, t = queries(), torch.ones(2, 2, dtype=torch.float64)
    for other in (None, (z, t)):
        whole = ks.path_kernel(run, x, other, targets=y, **options)
        # The matrix, one pair of points at a time, and one step.
        tight = ks.path_kernel(run, x, other, targets=y, memory=5500, **options)
        assert tight.info["bytes"] < whole.info["bytes"]
        assert relative(tight.matrix, whole.matrix) <= 1e-12
        with pytest.raises(OutOfBudget, match=r"needs about .* memory=1 KB was given. Raise memory"):
            ks.path_kernel(run, x, other, targets=y, memory=1000, **options)


@pytest.mark.parametrize("outputs", ["trace", "full"])
def test_factors_and_rows_of_gradients_give_the_same_kernel(outputs, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 2)).double()
    x, y = points()
    x, z = x.unsqueeze(1), queries().unsqueeze(1)
    run, _ = recorded(BATCHES, model=model, data=(x, y), make=lambda p: torch.optim.SGD([
        {"params": list(model[0].parameters()), "lr": 0.1}, {"params": model[3].weight, "lr": 0.3}]))
    by_factors = [ks.path_kernel(run, x, other, outputs=outputs) for other in (None, z)]
    assert by_factors[0].info["engine"] == "layers"
    monkeypatch.setattr(QuerySide, "tile", lambda *given: None)
    for found, other in zip(by_factors, (None, z), strict=True):
        assert relative(ks.path_kernel(run, x, other, outputs=outputs).matrix, found.matrix) <= 1e-12


def test_a_thinned_run_and_a_slice_give_the_same_kernel(tmp_path):
    x, y = points()
    for keep in (1, 3):
        torch.manual_seed(1)
        model = network()
        run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), steps=8, diary=False, keep=keep)
        if keep == 1:
            whole = ks.path_kernel(run, queries())
            parts = [ks.path_kernel(run[a:b], queries()).matrix for a, b in ((0, 3), (3, 8))]
            assert relative(sum(parts), whole.matrix) <= 1e-12
        else:
            assert relative(ks.path_kernel(run, queries()).matrix, whole.matrix) <= 1e-12


# -- T6: the laws of each kind -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"outputs": "full"}, {"quadrature": "trapezoid"}, {"kind": "loss"}])
def test_path_kernels_are_symmetric_and_positive(options):
    """T6."""
    run, _ = recorded(BATCHES)
    kernel = ks.path_kernel(run, **options)
    assert kernel.symmetric
    assert kernel.definite
    assert kernel.asymmetry() <= 1e-14
    assert kernel.least() >= -1e-14
    assert [row.status for row in kernel.check().rows] == ["pass"] * 3


def test_the_asymmetry_of_the_step_kernel_vanishes_at_the_rate_of_the_step():
    """T6."""
    found = []
    for eta in (0.08, 0.04, 0.02):
        run, _ = recorded(BATCHES[:1], eta=eta)
        kernel = ks.path_kernel(run, kind="step", step=0)
        assert not kernel.symmetric
        assert kernel.check().rows[1].value == kernel.asymmetry()
        assert "none is claimed" in kernel.check().rows[1].sentence
        found.append(kernel.asymmetry())
    assert all(abs(order - 1) < 0.1 for order in slopes(found))


def test_a_kernel_that_breaks_its_law_fails_its_check():
    run, _ = recorded(BATCHES)
    kernel = ks.path_kernel(run)
    kernel.matrix[0, 1] += 1.0
    assert not kernel.check().ok
    kernel.matrix[1, 0] += 1.0
    kernel.matrix[2, 2] = -1.0
    assert [row.status for row in kernel.check().rows] == ["pass", "pass", "fail"]


# -- T8 and the loss path kernel: known answers ------------------------------------------------------------------------


class Product(nn.Module):
    """f = u v."""

    def __init__(self, start):
        super().__init__()
        self.u, self.v = (nn.Parameter(torch.tensor(start, dtype=torch.float64)) for _ in range(2))

    def forward(self, x):
        return self.u * self.v * x


def half_square(outputs, targets, reduction="mean"):
    each = 0.5 * ((outputs - targets) ** 2).flatten(1).sum(1)
    return each if reduction == "none" else each.mean()


def test_the_path_kernel_of_a_product_of_two_parameters_is_a_logarithm():
    """T8: the path kernel is ln((y - p0 + p0 e^(2yT)) / y) in the limit of small steps."""
    start, y, time = 0.4, 1.3, 0.8
    one = torch.ones(1, 1, dtype=torch.float64)
    p0 = start**2
    truth = math.log((y - p0 + p0 * math.exp(2 * y * time)) / y)
    found = []
    for steps in (20, 40, 80, 160):
        run, _ = recorded([(0,)] * steps, time / steps, Product(start), (one, y * one), half_square)
        found.append(float(ks.path_kernel(run, one).matrix))
    errors = [abs(value - truth) for value in found]
    assert all(abs(order - 1) < 0.1 for order in slopes(errors))
    once = [2 * b - a for a, b in itertools.pairwise(found)]
    twice = [(4 * b - a) / 3 for a, b in itertools.pairwise(once)]
    assert abs(twice[-1] - truth) <= 1e-6


def full_batch_run(eta, time=0.8):
    return recorded([tuple(range(8))] * round(time / eta), eta)


def test_the_loss_path_kernel_interpolates_the_loss_with_constant_weights():
    """l(z; theta_T) = l(z; theta_0) - (1/n) sum_i K(z, z_i) + O(eta)."""
    x, y = points()
    z, t = queries(), torch.ones(2, 2, dtype=torch.float64)
    each = lambda model, theta: (functional_call(model, theta, (z,)) - t).square().mean(1)
    errors = []
    for eta in (0.1, 0.05, 0.025):
        run, model = full_batch_run(eta)
        kernel = ks.path_kernel(run, z, (x, y), kind="loss", targets=t).matrix
        change = each(model, run.parameters()) - each(model, run.parameters(0))
        errors.append(float((change + kernel.mean(1)).norm()))
    assert all(abs(order - 1) < 0.1 for order in slopes(errors))


def test_what_the_losses_lose_is_the_sum_of_the_kernel():
    """n (L_0 - L_T) = 1^T K 1 / n.

    Descent goes by the gradient at the start of a step, so both rules are of first order in its length; they err to
    opposite sides by as much, and their mean is of second order.
    """
    x, y = points()
    errors = {"left": [], "trapezoid": [], "mean": []}
    for eta in (0.1, 0.05, 0.025):
        run, model = full_batch_run(eta)
        before, after = (float((functional_call(model, run.parameters(k), (x,)) - y).square().mean(1).sum())
                         for k in (0, None))
        both = {rule: float(ks.path_kernel(run, kind="loss", quadrature=rule).matrix.sum()) / 8 - (before - after)
                for rule in ("left", "trapezoid")}
        for rule, value in (*both.items(), ("mean", sum(both.values()) / 2)):
            errors[rule].append(value)
    assert all(a > 0 > b for a, b in zip(errors["left"], errors["trapezoid"], strict=True))
    for rule, order in (("left", 1), ("trapezoid", 1), ("mean", 2)):
        assert all(abs(found - order) < 0.25 for found in slopes(list(map(abs, errors[rule])))), rule


def test_the_trapezoid_is_of_second_order_to_the_integral_along_the_path_and_the_left_sum_of_first():
    errors = {"left": [], "trapezoid": []}
    for eta in (0.1, 0.05, 0.025):
        run, model = full_batch_run(eta)
        truth = 0
        for k in range(len(run)):
            here, there = run.parameters(k), run.parameters(k + 1)
            for s, w in NODES[5]:
                at = {name: here[name] + s * (there[name] - here[name]) for name in here}
                j = jacobian(model, at, queries()).flatten(1)
                truth = truth + eta * w * j @ j.T
        for rule, found in errors.items():
            found.append(float((ks.path_kernel(run, queries(), quadrature=rule).matrix - truth).norm()))
    for rule, order in (("left", 1), ("trapezoid", 2)):
        assert all(abs(found - order) < 0.15 for found in slopes(errors[rule])), rule


# -- expectations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["replacement", "independent"])
def test_the_second_order_kernel_is_the_mean_step_kernel_over_the_batches_that_hold_a_sample(sampling):
    """E[Kbar | i in S] l'_i by all batches of two that there are; what is left is O(eta^2)."""
    x, y = points(n=4)
    first, second = [], []
    for eta in (0.2, 0.1, 0.05):
        rows = []
        for i in range(4):
            run_of = lambda j, i=i, eta=eta: recorded([(i, j), (0, 1), (2, 3)], eta, data=(x, y))
            kernels = [ks.path_kernel(run_of(j)[0], queries(), x[[i]], kind="step", step=0, outputs="full").matrix
                       for j in range(4) if sampling == "replacement" or j != i]
            run, model = run_of(0)
            with torch.no_grad():
                slope = functional_call(model, run.parameters(0), (x[[i]],)) - y[[i]]
            rows.append(torch.einsum("icjd,jd->ic", torch.stack(kernels).mean(0), slope))
        truth = torch.stack(rows, -1)
        found = ks.path_kernel(run, queries(), kind="second", step=0, sampling=sampling)
        linear = torch.einsum("qcp,ip->qci", jacobian(model, run.parameters(0), queries()),
                              loss_gradients(model, run.parameters(0), x, y))
        first.append(float((truth - linear).norm()))
        second.append(float((truth - found.matrix).norm()))
        assert found.info["correction"] == pytest.approx(
            float((found.matrix - linear).norm() / found.matrix.norm()), rel=1e-9)
    assert all(abs(order - 1) < 0.1 for order in slopes(first))
    assert all(abs(order - 2) < 0.15 for order in slopes(second))


def test_a_second_order_kernel_says_where_batches_were_drawn_otherwise():
    run, _ = recorded([(0, 1), (2, 3), (3, 0), (1, 2)], data=points(n=4))
    found = ks.path_kernel(run, kind="second")
    assert found.info["notes"] == ["The kernel is that of batches drawn with replacement; those of this run look as if "
                                   "drawn with random reshuffling."]
    assert ks.path_kernel(run, kind="second", sampling="reshuffling").info["notes"] == []


def test_the_second_order_kernel_predicts_the_mean_output_over_all_batches():
    """-eta / n times its sum over samples is the mean change by one step, up to the third order."""
    data = points(n=4)
    errors = []
    for eta in (0.2, 0.1, 0.05):
        ends = []
        for i, j in itertools.product(range(4), repeat=2):
            run, model = recorded([(i, j), (0, 1), (2, 3)], eta, data=data)
            ends.append(functional_call(model, run.parameters(1), (queries(),)).detach())
        start = functional_call(model, run.parameters(0), (queries(),)).detach()
        kernel = ks.path_kernel(run, queries(), kind="second", step=0).matrix
        errors.append(float((torch.stack(ends).mean(0) - start + eta * kernel.mean(-1)).norm()))
    assert all(abs(order - 3) < 0.2 for order in slopes(errors))


def test_the_mean_over_seeds_has_the_standard_error_of_each_entry():
    kernels = []
    for seed in range(5):
        g = torch.Generator().manual_seed(seed)
        kernels.append(ks.path_kernel(recorded([torch.randint(8, (2,), generator=g).tolist() for _ in range(6)])[0],
                                      queries()))
    mean = ks.PathKernel.mean_of(kernels)
    values = torch.stack([kernel.matrix for kernel in kernels]).numpy()
    assert relative(mean.matrix, torch.tensor(values.mean(0))) <= 1e-14
    assert relative(mean.error, torch.tensor(values.std(0, ddof=1) / math.sqrt(5))) <= 1e-12
    assert mean.symmetric
    assert mean.check().ok
    assert "mean of 5 runs" in repr(mean)
    for wrong, what in ((kernels[:1], "two runs or more"), ("ab", "two runs or more"),
                        ([kernels[0], ks.path_kernel(recorded(BATCHES)[0])], "kernel 1 is path kernel, 8 by 8")):
        with pytest.raises(DataError, match=what):
            ks.PathKernel.mean_of(wrong)


# -- what comes in -----------------------------------------------------------------------------------------------------


def test_nothing_of_the_users_changes():
    run, model = recorded(BATCHES)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()
    for options in ({}, {"kind": "step", "step": 0}, {"kind": "second"}, {"kind": "loss"}):
        ks.path_kernel(run, **options)
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("options", "error", "what"), [
    ({"kind": "paths"}, DataError, 'kind must be "path" or'),
    ({"outputs": "sum"}, DataError, 'outputs must be "trace" or "full"'),
    ({"kind": "step"}, DataError, "Pass step=0"),
    ({"kind": "step", "step": 9}, OutOfRange, "there are 4 steps"),
    ({"step": 1}, DataError, "Pass a slice of the run"),
    ({"kind": "step", "step": 1, "quadrature": "gonzalez"}, DataError, "gauss5"),
    ({"quadrature": "gauss3"}, DataError, 'quadrature must be "left" or "trapezoid"'),
    ({"kind": "second", "quadrature": "left"}, DataError, "has no quadrature"),
    ({"kind": "second", "sampling": "random"}, DataError, 'sampling must be "replacement" or'),
    ({"kind": "second", "z": queries()}, DataError, "Leave z out"),
    ({"kind": "loss", "output": 0}, DataError, "Leave output out"),
    ({"kind": "loss", "x": queries()}, DataError, "needs a target for each of the 2 queries"),
    ({"kind": "loss", "z": queries()}, DataError, "Pass z as a pair"),
    ({"targets": torch.ones(2)}, DataError, "Targets came without points"),
    ({"x": torch.ones(2, 5)}, DataError, "The network cannot take these queries"),
    ({"dtype": torch.float16}, DataError, "float64 or torch.float32"),
])
def test_what_does_not_fit_is_refused_in_a_sentence(options, error, what):
    run, _ = recorded(BATCHES)
    with pytest.raises(error, match=what):
        ks.path_kernel(run, **options)


@pytest.mark.parametrize(("make", "what"), [
    (lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9), "SGD made it with momentum"),
    (lambda p: torch.optim.Adam(p), "Adam made it"),
    (lambda p: torch.optim.SGD([{"params": [q], "lr": 0.1 * (i + 1)} for i, q in enumerate(p)]), "several learning"),
])
def test_a_second_order_kernel_is_for_plain_sgd_alone(make, what):
    run, _ = recorded(BATCHES, make=make)
    with pytest.raises(RuleError, match=what):
        ks.path_kernel(run, kind="second")


def test_a_second_order_kernel_refuses_clipped_steps_and_samples_that_meet():
    x, y = points()
    model = network()
    clipped, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), steps=2, norm=1e-2)
    with pytest.raises(RuleError, match="clipped or scaled"):
        ks.path_kernel(clipped, kind="second")
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    run, _ = recorded(BATCHES, model=model)
    with pytest.raises(ModelError, match="mixed the samples of a batch"):
        ks.path_kernel(run, kind="second")
    assert ks.path_kernel(run, x).check().ok


def test_an_empty_question_has_an_empty_answer():
    run, _ = recorded(BATCHES)
    for options in ({}, {"kind": "step", "step": 0}):
        kernel = ks.path_kernel(run, torch.zeros(0, 3, dtype=torch.float64), **options)
        assert kernel.matrix.shape == (0, 0)
        assert kernel.check().ok
        assert "no entries" in repr(kernel)
    with pytest.raises(DataError, match="has no steps"):
        ks.path_kernel(run[:0], queries())


# -- the result --------------------------------------------------------------------------------------------------------


def classes():
    """A classifier of three classes, and its data."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(12) % 3
    x = torch.randn(12, 4, generator=g, dtype=torch.float64) + 2 * F.one_hot(y, 4)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    run, _ = recorded([tuple(range(12))] * 6, 0.5, model, (x, y), F.cross_entropy)
    return run, x, y


def test_samples_and_classes_keep_their_names():
    run, x, y = classes()
    kernel = ks.path_kernel(run)
    assert kernel.labels == [str(i % 3) for i in range(12)]
    assert ks.path_kernel(run, x[:2], targets=y[:2]).labels == ["0", "1"]
    assert ks.path_kernel(run, x[:2]).labels is None
    assert ks.path_kernel(run, x[:2], output="margin").output_names == ["margin"]
    assert ks.path_kernel(run, x[:2], kind="second").column_labels == kernel.labels


@pytest.mark.parametrize("options", [
    {}, {"outputs": "full"}, {"kind": "step", "step": 0}, {"kind": "second"}, {"kind": "loss"},
])
def test_a_kernel_becomes_a_table_a_folder_and_a_sentence(options, tmp_path):
    run, x, y = classes()
    kernel = ks.path_kernel(run, x[:3], targets=y[:3], **options)
    table = kernel.to_frame()
    assert torch.equal(torch.tensor(table["value"].to_numpy()).reshape(kernel.matrix.shape), kernel.matrix)
    row = table.iloc[len(table) - 1]
    assert (row["row"], row["column"]) == (kernel.ids[-1], kernel.column_ids[-1])
    assert (row["row label"], row["column label"]) == (kernel.labels[-1], kernel.column_labels[-1])
    loaded = ks.PathKernel.load(kernel.save(tmp_path / "kernel"))
    assert torch.equal(loaded.matrix, kernel.matrix)
    assert repr(loaded) == repr(kernel)
    assert kernel.check().ok
    assert "by" in kernel._repr_html_()


@pytest.mark.parametrize(("options", "drawn", "said"), [
    ({}, {}, r"Path kernel: mean cosine 0.\d\d within a class, −?0.\d\d between"),
    ({"outputs": "full"}, {"output": 2, "by_label": False}, "Path kernel: mean cosine"),
    ({"kind": "loss"}, {}, "Loss path kernel: mean cosine"),
    ({"kind": "step", "step": 1}, {}, r"The kernel of step 1 differs from its transpose by \d+.\d% of its norm"),
    ({"kind": "second"}, {"output": 1}, r"Second order makes up \d+.\d\d% of the second-order kernel’s norm"),
])
def test_a_kernel_is_drawn_with_what_it_shows_as_title(options, drawn, said):
    run, x, _ = classes()
    kernel = ks.path_kernel(run, **options)
    for theme in ("light", "dark"):
        ax = kernel.plot(theme=theme, **drawn)
        assert re.match(said, ax.get_title(loc="left")), ax.get_title(loc="left")
        assert ax.patches
    page = plots.svg(kernel, **drawn)
    assert page == plots.svg(kernel, **drawn)
    assert "var(--up)" in page
    assert len(page) < 60_000
    said = kernel.summary().partition("(")[2][1:-1]
    assert said in ks.Report("Kernels", [kernel]).html().replace("&#x27;", "'")


def test_points_are_drawn_in_the_order_of_their_classes_and_many_share_cells():
    run, x, y = classes()
    kernel = ks.path_kernel(run)
    ax = kernel.plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "1", "2"]
    assert ax.get_yticks().tolist() == [2, 6, 10]
    many = ks.path_kernel(run, x.repeat(5, 1)).plot()
    assert many.get_xlabel() == "point, 3 to a cell"
    assert re.match(r"One direction holds \d+% of the path kernel of 60 points", many.get_title(loc="left"))
    apart = ks.path_kernel(run, x[:2], x).plot()
    assert re.match(r"The path kernel is positive for \d+% of the pairs", apart.get_title(loc="left"))
    for wrong, what in ((kernel, "Outputs were summed over"), (ks.path_kernel(run, outputs="full"), "has 3 outputs")):
        with pytest.raises(DataError, match=what):
            wrong.plot(output=3)
    with pytest.raises(DataError, match="nothing to draw"):
        ks.path_kernel(run, x[:0]).plot()


def test_a_single_precision_run_has_a_kernel_in_double_precision():
    x, y = (t.float() for t in points())
    run, _ = recorded(BATCHES, model=network(dtype=torch.float32), data=(x, y))
    double, single = (ks.path_kernel(run, dtype=dtype) for dtype in (None, torch.float32))
    assert double.info["dtype"] == "float64"
    assert relative(single.matrix, double.matrix) <= 1e-5
    assert double.asymmetry() <= 1e-14


# -- the same as kernels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", ["trace", "full"])
@pytest.mark.parametrize("options", [{}, {"kind": "step", "step": 1}])
def test_a_kernel_of_a_run_is_multiplied_without_its_matrix(outputs, options):
    run, _ = recorded(BATCHES, eta=0.4)
    x, z = points()[0], queries()
    kernel = ks.kernel_of_run(run, outputs=outputs, **options)
    for other in (None, z):
        truth = ks.path_kernel(run, x, other, outputs=outputs, **options).matrix
        operator = ks.KernelOperator(kernel, x, other)
        assert relative(operator.dense(), truth) <= 1e-12
        axes = truth.ndim // 2
        v = torch.randn(*truth.shape[axes:], 3, dtype=torch.float64)
        assert relative(operator @ v, torch.tensordot(truth, v, axes)) <= 1e-12
        assert relative(operator.T.dense(), truth.permute(*range(axes, 2 * axes), *range(axes))) <= 1e-12
    square = ks.KernelOperator(kernel, x)
    assert square.symmetric == (not options)
    whole = square.dense().reshape(16 if outputs == "full" else 8, -1)
    assert relative(square.diagonal().flatten(), whole.diagonal()) <= 1e-12


def test_a_machine_is_fitted_with_the_path_kernel():
    run, _ = recorded(BATCHES)
    x, y = points()
    machine = ks.fit(ks.kernel_of_run(run), x, y, ridge=1e-9, progress=False)
    assert relative(machine(x), y) <= 1e-4


@pytest.mark.parametrize(("options", "what"), [
    ({"kind": "second"}, 'kind must be "path" or "step"'), ({"kind": "step"}, "step= where"),
    ({"step": 1}, "step= where"),
    ({"kind": "step", "step": 1, "quadrature": "gonzalez"}, "gauss5"),
])
def test_a_kernel_that_a_run_does_not_have_is_refused(options, what):
    run, _ = recorded(BATCHES)
    with pytest.raises(DataError, match=what):
        ks.kernel_of_run(run, **options)
