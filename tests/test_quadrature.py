"""How closely each quadrature meets the change of the output along a step, in orders of the step length."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.decomposition.quadrature import Quadrature
from tests.oracles import Diary
from tests.recordings import complete, network, points, queries, relative


def descent(model, eta, time, decay=0.0, notes=None):
    """Gradient descent on all points from the model's parameters for a given time, recorded."""
    x, y = points()
    notes = notes or (lambda: None)
    optimizer = torch.optim.SGD(model.parameters(), lr=eta, weight_decay=decay)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for _ in range(round(time / eta)):
            optimizer.zero_grad()
            F.mse_loss(model(x), y[:, :model(x[:1]).shape[1]]).backward()
            notes()
            optimizer.step()
    return recording.run


def deep_linear(depth):
    layers = [nn.Linear(3, 3, bias=False) for _ in range(depth - 1)]
    return nn.Sequential(*layers, nn.Linear(3, 2, bias=False)).double()


def slope(errors):
    """The order of an error whose step is halved from each entry to the next."""
    return [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]


def runs(etas, time=1.6):
    found = []
    for eta in etas:
        torch.manual_seed(1)
        found.append(descent(network(), eta, time))
    return found


@pytest.mark.parametrize(("rule", "order", "etas"), [
    ("left", 1, (0.2, 0.1, 0.05)), ("midpoint", 2, (0.2, 0.1, 0.05)), ("gauss1", 2, (0.2, 0.1, 0.05)),
    ("gauss2", 4, (0.4, 0.2, 0.1)), ("gauss3", 6, (0.8, 0.4, 0.2)),
])
def test_the_error_along_a_run_falls_with_the_order_of_the_rule(rule, order, etas):
    """T3: 1, 2, 2m."""
    errors = []
    for run in runs(etas):
        d = ks.decompose(run, queries(), quadrature=rule)
        # The residual of an uncorrected rule is what its quadrature missed, and nothing else.
        assert torch.allclose(d.residual, d.quadrature_error.sum(-1), rtol=0, atol=1e-13)
        errors.append(float(d.quadrature_error.abs().sum(-1).mean()))
    assert errors[-1] > 1e-13
    for found in slope(errors):
        assert abs(found - order) < 0.35 + 0.1 * order


def test_gonzalez_is_complete_and_its_shares_are_of_second_order():
    """T4."""
    errors = []
    for run in runs((0.2, 0.1, 0.05)):
        d = ks.decompose(run, queries())
        assert complete(d) <= 1e-14
        exact = ks.decompose(run, queries(), quadrature="gauss9")
        assert float(exact.quadrature_error.abs().max()) < 1e-15
        errors.append(float((d.contributions - exact.contributions).abs().mean()))
    for found in slope(errors):
        assert 1.6 < found < 2.8


def test_the_correction_only_moves_what_the_midpoint_missed():
    run, = runs((0.2,))
    plain, corrected = (ks.decompose(run, queries(), quadrature=rule) for rule in ("midpoint", "gonzalez"))
    assert torch.equal(plain.quadrature_error, corrected.quadrature_error)
    # One plain step after the other: what a step's shares gain is what its quadrature missed.
    assert torch.allclose(corrected.steps - plain.steps, plain.quadrature_error, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_a_deep_linear_network_needs_half_its_depth_of_nodes(depth):
    torch.manual_seed(1)
    run = descent(deep_linear(depth), 0.2, 1.0)
    m = math.ceil(depth / 2)
    enough = ks.decompose(run, queries(), quadrature=f"gauss{m}")
    assert complete(enough) <= 1e-14
    if m > 1:
        few = ks.decompose(run, queries(), quadrature=f"gauss{m - 1}")
        assert complete(few) > 1e-12
    else:
        left = ks.decompose(run, queries(), quadrature="left")
        assert (complete(left) > 1e-9) == (depth == 2)


def test_the_left_rule_misses_half_the_curvature_along_the_step():
    """T2: an output that is quadratic in the parameters."""
    torch.manual_seed(1)
    model = deep_linear(2)
    x, y = points()
    diary = Diary(model, x, y, F.mse_loss)
    run = descent(model, 0.2, 1.0, notes=lambda: diary.step(torch.optim.SGD(model.parameters(), lr=0.2)))
    diary.close()
    d = ks.decompose(run, queries(), quadrature="left")
    thetas = [entry.theta for entry in diary.entries] + [diary.last]
    names = list(thetas[0])
    for k in range(len(run)):
        for q in range(2):
            for c in range(2):
                def output(w0, w1, q=q, c=c):
                    return (w1 @ w0 @ queries()[q])[c]

                here = tuple(thetas[k][name] for name in names)
                step = [thetas[k + 1][name] - thetas[k][name] for name in names]
                hessian = torch.autograd.functional.hessian(output, here)
                curved = sum(float(step[a].flatten() @ hessian[a][b].reshape(step[a].numel(), -1) @ step[b].flatten())
                             for a in range(2) for b in range(2))
                assert abs(float(d.quadrature_error[q, c, k]) - curved / 2) <= 1e-13
    assert complete(ks.decompose(run, queries(), quadrature="midpoint")) <= 1e-14


def test_kinks_slow_every_rule_but_gonzalez_closes():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 2)).double()
    run = descent(model, 0.4, 4.0)
    assert complete(ks.decompose(run, queries())) <= 1e-14
    missed = [float(ks.decompose(run, queries(), quadrature=f"gauss{m}").quadrature_error.abs().sum()) for m in (2, 8)]
    assert missed[1] > 1e-3 * missed[0] > 0


@pytest.mark.parametrize("m", [1, 2, 3, 5, 9])
def test_m_nodes_integrate_polynomials_below_the_degree_two_m(m):
    rule = Quadrature.parse(f"gauss{m}")
    for degree in range(2 * m):
        assert math.isclose(sum(w * s**degree for w, s in zip(rule.weights, rule.nodes, strict=True)), 1 / (degree + 1),
                            rel_tol=1e-13)
    degree = 2 * m
    missed = 1 / (degree + 1) - sum(w * s**degree for w, s in zip(rule.weights, rule.nodes, strict=True))
    # The classical constant of the error.
    constant = math.factorial(m) ** 4 / ((2 * m + 1) * math.factorial(2 * m) ** 3) * math.factorial(2 * m)
    assert math.isclose(missed, constant, rel_tol=1e-2) if m < 6 else missed < 1e-9


def test_the_error_of_a_step_is_what_its_nodes_missed():
    torch.manual_seed(1)
    model = network()
    x, y = points()
    diary = Diary(model, x, y, F.mse_loss)
    run = descent(model, 0.2, 0.8, notes=lambda: diary.step(torch.optim.SGD(model.parameters(), lr=0.2)))
    diary.close()
    d = ks.decompose(run, queries(), quadrature="left")
    thetas = [entry.theta for entry in diary.entries] + [diary.last]
    for k in range(len(run)):
        before, rows = diary.gradients(thetas[k], {}, queries())
        after = diary.outputs(thetas[k + 1], {}, queries()).detach()
        linear = torch.tensor([sum(float((row[n] * (thetas[k + 1][n] - thetas[k][n])).sum()) for n in row)
                               for row in rows], dtype=torch.float64).view(2, 2)
        assert relative(d.quadrature_error[..., k], after - before - linear) <= 1e-10


@pytest.mark.parametrize("name", ["gauss0", "gauss", "gauss100", "simpson", "", None, 3])
def test_another_quadrature_is_refused_with_those_that_there_are(name):
    with pytest.raises(ks.errors.DataError, match="gonzalez"):
        Quadrature.parse(name)
