"""Residuals carried through a run, against propagators written out, and the identities of their Gramian."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError, OutOfBudget, RuleError
from tests.recordings import network, points, queries, train
from tests.small_runs import drawn_run
from tests.test_path_kernels import jacobian

MAKES = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.2),
    "heavy ball": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8),
    "Nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.02),
}


def recorded(make="SGD", steps=6, size=5, outputs=2, seed=1, model=None, **options):
    torch.manual_seed(seed)
    model = network(outputs=outputs) if model is None else model
    x, y = points(outputs=outputs)
    return train(model, x, y, MAKES[make](model.parameters()), steps=steps, size=size, diary=False, **options), model


def flat(parameters):
    return torch.cat([p.reshape(-1) for p in parameters.values()])


def values(model, parameters, x):
    return torch.func.functional_call(model, parameters, (x,)).detach()


def averaged(model, here, there, x):
    """Gonzalez' discrete gradient, with shape (n, c, P)."""
    d = flat(there) - flat(here)
    p = jacobian(model, {name: (here[name] + there[name]) / 2 for name in here}, x).detach()
    e = values(model, there, x) - values(model, here, x) - p @ d
    return p + e[..., None] * d / d.square().sum()


def propagators(run, model, batches, rate, mu=0.0, nesterov=False):
    """The product of the steps on residuals and momentum, and of those on queries, as dense matrices."""
    (x, _), z = points(), queries()
    n, c = len(x), values(model, run.parameters(0), x).shape[1]
    size = run.parameter_count
    psi, transfer = torch.eye(n * c, dtype=torch.float64), torch.zeros(len(z) * c, n * c, dtype=torch.float64)
    momentum = torch.zeros(size, n * c, dtype=torch.float64)
    each = [psi]
    for k, ids in enumerate(batches):
        here, there = run.parameters(k), run.parameters(k + 1)
        start = jacobian(model, here, x).detach()
        gradient = torch.zeros(size, n * c, dtype=torch.float64)
        for i in ids.tolist():
            gradient += 2 / (len(ids) * c) * start[i].T @ psi.reshape(n, c, -1)[i]
        momentum = mu * momentum + gradient
        move = -rate * (gradient + mu * momentum if nesterov else momentum)
        psi = psi + averaged(model, here, there, x).reshape(n * c, size) @ move
        transfer = transfer + averaged(model, here, there, z).reshape(-1, size) @ move
        each.append(psi)
    return psi, transfer, each


def ids_of(run):
    return [run[k].batches[0].columns for k in range(len(run))]


@pytest.mark.parametrize(("make", "rate", "mu", "nesterov"), [
    ("SGD", 0.2, 0.0, False), ("heavy ball", 0.05, 0.8, False), ("Nesterov", 0.05, 0.8, True)])
def test_all_directions_carried_are_the_dense_propagator(make, rate, mu, nesterov):
    (run, _), model = recorded(make)
    found = ks.reservoir(run, queries(), progress=False)
    psi, transfer, _ = propagators(run, model, ids_of(run), rate, mu, nesterov)
    dense = torch.eye(len(psi), dtype=torch.float64) - psi.T @ psi
    v = found.directions.reshape(len(psi), -1)
    assert float((v @ torch.diag(found.values) @ v.T - dense).abs().max()) <= 1e-10
    moved = transfer @ v
    assert float((found.moved.reshape(moved.shape) - moved).abs().max()) <= 1e-10
    start = found.initial.flatten()
    assert float((psi @ start - found.carried.flatten()).abs().max()) <= 1e-10


@pytest.mark.parametrize("make", MAKES)
def test_the_first_residual_carried_is_the_last_one(make):
    (run, _), _ = recorded(make, steps=12)
    found = ks.reservoir(run, queries(), progress=False)
    assert float((found.carried - found.final).abs().max()) <= 1e-10
    assert float((found.foretold - found.change).abs().max()) <= 1e-10
    check = found.check()
    assert check.ok, check
    assert found.plain == (make == "SGD")


def test_some_directions_are_carried_as_among_all():
    (run, _), _ = recorded()
    whole = ks.reservoir(run, queries(), progress=False)
    top = whole.directions[..., :3]
    some = ks.reservoir(run, queries(), directions=top * torch.tensor([1.0, -2.0, 3.0]), progress=False)
    assert float((some.values - whole.values[:3]).abs().max()) <= 1e-12
    assert float((some.moved.abs() - whole.moved[..., :3].abs()).abs().max()) <= 1e-10


def test_the_gramian_of_full_batch_descent_is_the_sum_of_its_steps():
    r"""W = sum Psi_k^T (eta sym(K) - eta^2/(2n) K^T K) Psi_k, written out with dense kernels."""
    (run, _), model = recorded(steps=8, size=8, outputs=1)
    x, _ = points(outputs=1)
    found = ks.reservoir(run, progress=False)
    n, eta = len(x), 0.2 * 2                       # the curvature of a squared error is 2
    psi, _, each = propagators(run, model, ids_of(run), 0.2)
    gramian = torch.zeros(n, n, dtype=torch.float64)
    for k in range(len(run)):
        here, there = run.parameters(k), run.parameters(k + 1)
        kernel = averaged(model, here, there, x)[:, 0] @ jacobian(model, here, x)[:, 0].detach().T
        gramian += each[k].T @ (eta * (kernel + kernel.T) / 2 - eta**2 / (2 * n) * kernel.T @ kernel) @ each[k]
    mine = found.directions[:, 0] @ torch.diag(found.values) @ found.directions[:, 0].T * n / 2
    assert float((mine - gramian).abs().max()) <= 1e-8
    assert float((mine - gramian).abs().max()) <= 1e-12 * n


def test_the_gramian_of_gradient_flow_is_the_integral_of_what_it_dissipates():
    r"""int Psi^T K Psi dt = n/2 (I - Psi^T Psi), and the fall of the loss is int r^T K r dt / n^2, by Runge-Kutta."""
    torch.manual_seed(0)
    n, model = 5, nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x, y = torch.randn(n, 2, dtype=torch.float64), torch.randn(n, dtype=torch.float64)
    shapes = dict(model.named_parameters())
    unpack = lambda t: {k: part.reshape(p.shape) for (k, p), part in zip(
        shapes.items(), t.split([p.numel() for p in shapes.values()]), strict=True)}
    size = sum(p.numel() for p in shapes.values())

    def slope(state):
        theta, psi = state[:size], state[size:size + n * n].reshape(n, n)
        phi = jacobian(model, unpack(theta), x).detach()[:, 0]
        kernel, u = phi @ phi.T, values(model, unpack(theta), x)[:, 0] - y
        return torch.cat([-phi.T @ u / n, (-kernel @ psi / n).flatten(), (psi.T @ kernel @ psi).flatten(),
                          (u @ kernel @ u / n**2).reshape(1)])

    state = torch.cat([flat(shapes).detach(), torch.eye(n, dtype=torch.float64).flatten(),
                       torch.zeros(n * n + 1, dtype=torch.float64)])
    start, h = state, 0.02
    for _ in range(150):
        a = slope(state)
        b = slope(state + h / 2 * a)
        c = slope(state + h / 2 * b)
        state = state + h / 6 * (a + 2 * b + 2 * c + slope(state + h * c))
    psi, gramian = (state[size + i * n * n:size + (i + 1) * n * n].reshape(n, n) for i in range(2))
    assert float((gramian - n / 2 * (torch.eye(n) - psi.T @ psi)).abs().max()) <= 1e-8
    loss = lambda s: float((values(model, unpack(s[:size]), x)[:, 0] - y).square().sum()) / (2 * n)
    assert abs(loss(start) - loss(state) - float(state[-1])) <= 1e-8
    assert float((psi @ (values(model, unpack(start[:size]), x)[:, 0] - y)
                  - (values(model, unpack(state[:size]), x)[:, 0] - y)).abs().max()) <= 1e-7


def test_directions_that_moved_nothing_are_invisible_to_every_query():
    """Two samples that are one: their difference is a residual no step hears of."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, dtype=torch.float64)[[0, 0, 1, 2]]
    y = torch.tensor([[1.0], [-1.0], [0.5], [0.0]], dtype=torch.float64)
    model = network(outputs=1)
    run = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), steps=60, size=4, diary=False)[0]
    found = ks.reservoir(run, queries(), progress=False)
    # In the mean over both, the two pull the same way and in the difference against each other.
    odd = torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=torch.float64) / 2**0.5
    assert abs(abs(float(odd @ found.directions[:, 0, -1])) - 1) <= 1e-10
    assert abs(float(found.values[-1])) <= 1e-12
    assert float(found.energies[-1]) <= 1e-15
    assert float(found.moved[..., -1].abs().max()) <= 1e-13
    assert "kept more than half" in repr(found)


def test_no_direction_moves_a_query_further_than_its_energy_allows():
    for seed in range(6):
        (run, _), _ = recorded(list(MAKES)[seed % 4], steps=5, seed=seed)
        found = ks.reservoir(run, queries(), progress=False)
        allowed = found.lengths[..., None] * found.energies
        assert bool((found.moved.square() <= allowed * (1 + 1e-10) + 1e-20).all())


def held_in_random_runs(seeds):
    """The seeds at which a direction moved a query further than N3 allows, or the steps are not those recorded."""
    broken = []
    for seed in seeds:
        run, z, _ = drawn_run(seed, residuals=True)
        rows = {row.name: row for row in ks.reservoir(run, z, progress=False).check().rows}
        if "fail" in (rows["N3"].status, rows["residual"].status, rows["transfer"].status):
            broken.append((seed, rows))
    return broken


def test_no_direction_of_any_small_run_moves_a_query_further_than_its_energy_allows():
    assert not held_in_random_runs(range(40))


@pytest.mark.slow
def test_no_direction_of_a_thousand_small_runs_moves_a_query_further_than_its_energy_allows():
    assert not held_in_random_runs(range(1000, 2000))


def test_clipping_and_gathered_passes_are_carried_too():
    torch.manual_seed(0)
    (x, y), model = points(), network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for _ in range(4):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
    assert ks.reservoir(recording.run, queries(), progress=False).check().ok
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for _ in range(4):
            optimizer.zero_grad()
            for ids in (torch.tensor([0, 1, 2]), torch.tensor([3, 4])):
                recording.batch(ids)
                (F.mse_loss(model(x[ids]), y[ids]) / 2).backward()
            optimizer.step()
    assert ks.reservoir(recording.run, queries(), progress=False).check().ok


@pytest.mark.parametrize("make", MAKES)
def test_a_run_trained_in_single_precision_is_known_to_its_own_digits(make):
    torch.manual_seed(0)
    (x, y), model = points(dtype=torch.float32), network(dtype=torch.float32)
    run = train(model, x, y, MAKES[make](model.parameters()), steps=30, size=8, diary=False)[0]
    found = ks.reservoir(run, queries(dtype=torch.float32), progress=False)
    check = found.check()
    assert check.ok, check
    assert found.info["dtype"] == "float64"
    # What does not belong to the steps is still told of.
    assert not replace(found, carried=found.carried * 1.01).check().ok


def test_runs_whose_steps_are_not_linear_are_refused():
    (run, _), _ = recorded()
    z = queries()
    for problem, args, options in (("The network cannot take these queries", (run, z[:, :2]), {}),
                                   ("No query came", (run, z[:0]), {}),
                                   ("span 0 of 16 dimensions", (run,), {"directions": torch.zeros(8, 2, 1)}),
                                   ("2 came that span 1 of 16", (run,), {"directions": torch.ones(8, 2, 2)}),
                                   ("17 came that span 16 of 16", (run,), {"directions": torch.randn(8, 2, 17)})):
        with pytest.raises(DataError, match=problem):
            ks.reservoir(*args, **options, progress=False)
    with pytest.raises(DataError, match=r"directions must be a tensor with shape \(8, 2, r\)"):
        ks.reservoir(run, directions=torch.ones(8, 2), progress=False)
    with pytest.raises(OutOfBudget, match="17 directions of the residual need about"):
        ks.reservoir(run, memory=1000, progress=False)
    torch.manual_seed(0)
    model = network()
    decayed = train(model, *points(), torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1), diary=False)[0]
    heavy = recorded("heavy ball")[0][0][2:]
    for odd, problem in ((decayed, "weight decay"), (recorded(loss=F.l1_loss)[0][0], "its loss is l1_loss"),
                         (heavy, "had momentum before")):
        with pytest.raises(RuleError, match=problem):
            ks.reservoir(odd, progress=False)


def test_it_is_kept_and_drawn(tmp_path):
    (run, _), _ = recorded()
    found = ks.reservoir(run, queries(), progress=False)
    found.save(tmp_path / "found")
    again = ks.Reservoir.load(tmp_path / "found")
    assert repr(again) == repr(found)
    assert torch.equal(again.moved, found.moved)
    assert len(found.to_frame()) == 16
    assert "reservoir" in found.plot().get_title(loc="left")
