"""Expected outputs against the average over every sequence of batches."""

import math

import pytest
import torch

from kernelscope.expectation.derivatives import along, bend, mean, scaled_sum
from kernelscope.expectation.terms import rows
from tests.enumeration import Small, reshuffled, with_replacement

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
ETAS = (0.02, 0.01)


def batch_mean(gradients, batch):
    return {name: t[list(batch)].mean(0) for name, t in gradients.items()}


def slope(errors):
    return math.log(errors[0] / errors[-1]) / math.log(ETAS[0] / ETAS[-1])


def run(small, batches, eta, mu=0.0):
    """The places of a run, and the change of its outputs."""
    theta, velocity, places = small.theta, None, []
    for batch in batches:
        places.append(theta)
        g = batch_mean(small.gradients(theta), batch)
        velocity = g if velocity is None else scaled_sum((mu, velocity), (1.0, g))
        theta = scaled_sum((1.0, theta), (-eta, velocity))
    return places, small.outputs(theta) - small.outputs(small.theta)


@pytest.mark.parametrize(("batch", "steps"), [(1, 4), (2, 2)])
def test_the_second_order_formula_is_off_by_the_third_power(batch, steps):
    small, first, second = Small(), [], []
    for eta in ETAS:
        sequences = list(with_replacement(4, batch, steps))
        error = [0.0, 0.0]
        for batches in sequences:
            places, change = run(small, batches, eta)
            found = [rows(small.outputs, place, small.gradients(place)) for place in places]
            path = -eta * sum(r.first.mean(0) for r in found)
            more = eta**2 / 2 * sum(r.curvature + r.trace / batch for r in found)
            folded = -eta * sum(r.kernel(eta, batch).mean(0) for r in found)
            assert torch.allclose(path + more, folded, rtol=1e-12, atol=1e-14)
            error = [error[0] + (change - path), error[1] + (change - path - more)]
        first.append(float((error[0] / len(sequences)).norm()))
        second.append(float((error[1] / len(sequences)).norm()))
    assert slope(first) == pytest.approx(2, abs=0.1)
    assert slope(second) == pytest.approx(3, abs=0.15)


def test_rows_are_those_of_the_dense_hessian():
    small = Small()
    theta, gradients = small.theta, small.gradients(small.theta)
    names, shapes = list(theta), [t.shape for t in theta.values()]
    flat = torch.cat([t.reshape(-1) for t in theta.values()])
    def outputs(v):
        parts = v.split([s.numel() for s in shapes])
        return small.outputs({n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)})
    phi = torch.func.jacrev(outputs)(flat)
    hessian = torch.func.hessian(outputs)(flat)
    g = torch.cat([gradients[name].reshape(4, -1) for name in names], 1)
    centered = g - g.mean(0)
    sigma = centered.T @ centered / 4
    found = rows(small.outputs, theta, gradients)
    assert torch.allclose(found.first, g @ phi.T, atol=1e-13)
    assert torch.allclose(found.mixed, torch.einsum("ia,qab,b->iq", g, hessian, g.mean(0)), atol=1e-13)
    assert torch.allclose(found.trace, torch.einsum("qab,ba->q", hessian, sigma), atol=1e-13)
    assert torch.allclose(found.variance, torch.einsum("qa,ab,qb->q", phi, sigma, phi), atol=1e-13)


def test_a_linear_model_has_no_noise_term():
    small = Small(linear=True)
    assert float(rows(small.outputs, small.theta, small.gradients(small.theta)).trace.abs().max()) == 0.0


def test_heavy_ball_is_off_by_the_third_power():
    small, mu, steps, batch = Small(), 0.6, 4, 1
    first, second = [], []
    for eta in ETAS:
        sequences = list(with_replacement(4, batch, steps))
        error = [0.0, 0.0]
        for batches in sequences:
            places, change = run(small, batches, eta, mu)
            total, more, bbar = 0.0, 0.0, None
            for s, place in enumerate(places):
                gradients = small.gradients(place)
                g = mean(gradients)
                bbar = g if bbar is None else scaled_sum((mu, bbar), (1.0, g))
                weight = eta * (1 - mu ** (steps - s)) / (1 - mu)
                total = total - eta * along(small.outputs, place, bbar)
                more = (more + eta**2 / 2 * bend(small.outputs, place, bbar, bbar)
                        + weight**2 / (2 * batch) * rows(small.outputs, place, gradients).trace)
            error = [error[0] + (change - total), error[1] + (change - total - more)]
        first.append(float((error[0] / len(sequences)).norm()))
        second.append(float((error[1] / len(sequences)).norm()))
    assert slope(first) == pytest.approx(2, abs=0.1)
    assert slope(second) == pytest.approx(3, abs=0.2)


def covariance_trace(small, theta, batch):
    """The trace of the covariance of a batch's gradient, for batches of a partition."""
    g = torch.cat([t.reshape(4, -1) for t in small.gradients(theta).values()], 1)
    n = len(g)
    return (g - g.mean(0)).square().sum() / n / batch * (n - batch) / (n - 1)


@pytest.mark.parametrize("batch", [1, 2])
def test_reshuffling_has_a_drift_of_its_own(batch):
    small, m = Small(), 4 // batch
    wrong, right = [], []
    for eta in ETAS:
        sequences = list(reshuffled(4, batch, 1))
        error = [0.0, 0.0]
        for batches in sequences:
            places, change = run(small, batches, eta)
            found = [rows(small.outputs, place, small.gradients(place)) for place in places]
            path = -eta * sum(r.first.mean(0) for r in found) + eta**2 / 2 * sum(r.curvature for r in found)
            spread = (4 - batch) / 3 / batch
            noise = eta**2 / 2 * spread * sum(r.trace for r in found)
            drift = torch.func.grad(lambda t: covariance_trace(small, t, batch))(places[0])
            own = -eta**2 * m / 4 * along(small.outputs, places[0], drift)
            error = [error[0] + (change - path - noise), error[1] + (change - path - own)]
        wrong.append(float((error[0] / len(sequences)).norm()))
        right.append(float((error[1] / len(sequences)).norm()))
    assert slope(wrong) == pytest.approx(2, abs=0.2)
    assert slope(right) == pytest.approx(3, abs=0.2)
