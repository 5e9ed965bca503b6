"""The weight of each step in the final parameters."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from tests.recordings import network, points, train


def weights_of(optimizer_of, steps=6, **options):
    torch.manual_seed(0)
    x, y = points()
    model = network()
    run, _ = train(model, x, y, optimizer_of(model.parameters()), steps=steps, diary=False, **options)
    return run, ks.memory_weights(run)


def test_heavy_ball_has_its_closed_form():
    lr, mu, steps = 0.1, 0.8, 7
    _, found = weights_of(lambda p: torch.optim.SGD(p, lr=lr, momentum=mu), steps)
    wanted = torch.tensor([lr * (1 - mu ** (steps - s)) / (1 - mu) for s in range(steps)], dtype=torch.float64)
    assert torch.allclose(found.weights["SGD"], wanted, rtol=1e-14)
    assert torch.equal(found.low["SGD"], found.high["SGD"])
    assert found.last("SGD") == pytest.approx(lr / float(wanted.median()))


def test_nesterov_is_one_step_ahead():
    lr, mu, steps = 0.1, 0.8, 7
    _, found = weights_of(lambda p: torch.optim.SGD(p, lr=lr, momentum=mu, nesterov=True), steps)
    wanted = torch.tensor([lr * (1 + mu * (1 - mu ** (steps - s)) / (1 - mu)) for s in range(steps)],
                          dtype=torch.float64)
    assert torch.allclose(found.weights["SGD"], wanted, rtol=1e-14)


@pytest.mark.parametrize("make", [
    lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.7, dampening=0.2, maximize=True),
    lambda p: torch.optim.Adam(p, lr=0.01), lambda p: torch.optim.NAdam(p, lr=0.01),
    lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5), lambda p: torch.optim.Adadelta(p, lr=0.5)])
def test_weighted_gradients_make_the_whole_way(make):
    from kernelscope.decomposition.adjoint import Adjoint
    from kernelscope.decomposition.segments import cut
    from kernelscope.decomposition.training_side import TrainingSide
    from kernelscope.decomposition.trajectory import Trajectory
    from kernelscope.decomposition.unrolling import Unroller

    run, _ = weights_of(make)
    place = torch.device("cpu")
    trajectory, side = Trajectory(run, torch.float64, place), TrainingSide(run, torch.float64, place, 2**20)
    unroller = Unroller(run, side, False)
    (segment,) = cut(run, unroller, trajectory, len(run))
    rows, steps = segment.unroll(unroller, trajectory)
    adjoint, way = Adjoint(), {name: torch.zeros_like(t) for name, t in rows[0].items()}
    for k in reversed(range(len(run))):
        batch = run.step(k).batches[0]
        gradients = side.mean_gradient(batch, k, rows[k], list(steps[k].linear))
        for (name, rule), g in zip(steps[k].linear.items(), gradients, strict=True):
            weight = rule.sign * adjoint.direction(name, torch.ones((), dtype=torch.float64), steps[k])
            way[name] -= weight * g
    for name, moved in way.items():
        assert torch.allclose(rows[0][name] + moved, rows[len(run)][name], rtol=1e-11, atol=1e-13)


def test_a_schedule_shows():
    run, found = weights_of(lambda p: torch.optim.SGD(p, lr=0.1), steps=4)
    assert found.weights["SGD"].tolist() == pytest.approx([0.1] * 4)
    x, y = points()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    run, _ = train(model, x, y, optimizer, steps=4, scheduler=scheduler, diary=False)
    assert ks.memory_weights(run).weights["SGD"].tolist() == pytest.approx([0.4, 0.2, 0.1, 0.05])


def test_several_runs_are_told_by_name_and_drawn(tmp_path):
    plain, _ = weights_of(lambda p: torch.optim.SGD(p, lr=0.1))
    heavy, _ = weights_of(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9))
    adam, _ = weights_of(lambda p: torch.optim.Adam(p, lr=0.01))
    found = ks.memory_weights({"plain": plain, "heavy ball": heavy, "Adam": adam})
    assert found.horizon("plain") == 0
    assert found.horizon("heavy ball") > 0
    assert "100%" in found.plot().get_title(loc="left")
    assert len(found.to_frame()) == 18
    assert found.check().ok
    loaded = type(found).load(found.save(tmp_path / "memory"))
    assert torch.equal(loaded.weights["Adam"], found.weights["Adam"])


def test_what_is_no_run_and_what_turns_matrices_is_refused():
    with pytest.raises(ks.errors.DataError, match="dictionary"):
        ks.memory_weights({})
    torch.manual_seed(0)
    x, y = points()
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False)).double()
    run, _ = train(model, x, y, torch.optim.Muon(model.parameters(), lr=0.1), loss=F.mse_loss, steps=2, diary=False)
    with pytest.raises(ks.errors.RuleError, match="Muon"):
        ks.memory_weights(run)
