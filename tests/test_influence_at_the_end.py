"""Damped Gauss-Newton influence against dense algebra, closed forms, and training to convergence."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian, jacrev

import kernelscope as ks
from kernelscope.decomposition.influence import curved_products, iterated
from kernelscope.decomposition.influence.beside import beside
from kernelscope.errors import DataError, NonFiniteError
from kernelscope.ranks import spearman
from kernelscope.result import Result
from tests.recordings import points, queries, relative, train
from tests.unrolled import tiny

CLASSES = torch.tensor([0, 1, 2, 1, 0, 2, 1, 0])


def of_logits(outputs, targets, reduction="mean"):
    return F.binary_cross_entropy_with_logits(outputs, targets, reduction=reduction)


TASKS = {
    "squares": (F.mse_loss, lambda x, y: y, 2),
    "softmax": (F.cross_entropy, lambda x, y: CLASSES, 3),
    "logits": (F.binary_cross_entropy_with_logits, lambda x, y: (y > 0).double(), 2),
    "own": (of_logits, lambda x, y: (y > 0).double(), 2),
    "huber": (F.smooth_l1_loss, lambda x, y: y, 2),
}


def recorded(name, features=3, hidden=4):
    loss, targets, outputs = TASKS[name]
    x, y = points()
    y = targets(x, y)
    model = tiny(features, hidden, outputs)
    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), loss=loss, diary=False)
    return run, model, x, y, loss


def dense(model, x, y, z, loss, damping):
    """The formula by dense matrices, one sample at a time."""
    theta = {name: p.detach() for name, p in model.named_parameters()}
    flat = lambda found: torch.cat([found[name].reshape(*found[name].shape[:1], -1) for name in theta], 1)
    size, n = sum(p.numel() for p in theta.values()), len(x)
    matrix, slopes = torch.zeros(size, size, dtype=torch.float64), []
    for i in range(n):
        jacobian = flat(jacrev(lambda p, i=i: functional_call(model, p, (x[i:i + 1],))[0])(theta))
        out = model(x[i:i + 1]).detach()[0]
        of = lambda f, i=i: loss(f[None], y[i:i + 1], reduction="none").mean()
        matrix += jacobian.T @ hessian(of)(out) @ jacobian / n
        slopes.append(jacobian.T @ jacrev(of)(out))
    asked = torch.stack([flat(jacrev(lambda p, q=q: functional_call(model, p, (z[q:q + 1],))[0])(theta))
                         for q in range(len(z))])
    solved = torch.linalg.solve(matrix + damping * torch.eye(size, dtype=torch.float64), torch.stack(slopes, 1))
    return -(asked @ solved) / n


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("way", ["parameters", "outputs", "products", "products of rows", "products of roots"])
def test_every_way_to_solve_is_the_dense_one(task, way, monkeypatch):
    run, model, x, y, loss = recorded(task, hidden=1 if way == "parameters" else 6)
    memory = 2**29
    if "products" in way:
        # No room for a square of anything.
        memory = 10_000
    if way == "products of rows":
        monkeypatch.setattr(curved_products, "AGREEMENT", {torch.float64: -1.0})
    if way == "products of roots":
        # One query at one damping already takes more than there is, so that the fewer unknowns are taken.
        monkeypatch.setattr(iterated, "HELD", 10**6)
    found = ks.influence(run, queries(), method="gauss-newton", damping=1e-2, memory=memory)
    truth = dense(model, x, y, queries(), loss, 1e-2)
    assert way.split()[0] in found.info["solver"]
    assert "outputs" in found.info["solver"] or way not in ("outputs", "products of roots")
    assert relative(found.influences, truth) <= 1e-8
    assert found.info["residual"] <= 1e-8
    assert found.check().ok


def test_at_an_optimum_all_three_are_one():
    """Training a linear model to convergence: the metagradient, Gauss-Newton, and the classical closed form."""
    x, y = points(outputs=1)
    z, n, decay = queries(), len(x), 0.05
    torch.manual_seed(0)
    model = nn.Linear(3, 1, bias=False).double()
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.25, weight_decay=decay)
        for _ in range(400):
            recording.batch(torch.arange(n))
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    theta = model.weight.detach()[0]
    matrix = 2 * x.T @ x / n + decay * torch.eye(3, dtype=torch.float64)
    slopes = 2 * (x @ theta - y[:, 0])[:, None] * x
    truth = -(z @ torch.linalg.solve(matrix, slopes.T) / n)[:, None]
    assert relative(ks.influence(recording.run, z).influences, truth) <= 1e-9
    end = ks.influence(recording.run, z, method="gauss-newton", damping=decay)
    assert relative(end.influences, truth) <= 1e-9
    # Leaving one out of few moves the output as told, to first order.
    told = end.removed(3) - end.values
    keep = torch.tensor([i for i in range(n) if i != 3])
    without = torch.linalg.solve(2 * x[keep].T @ x[keep] / n + decay * torch.eye(3, dtype=torch.float64),
                                 2 * x[keep].T @ y[keep, 0] / n)
    moved = z @ (without - theta)
    assert bool((told[:, 0] * moved > 0).all())


def test_the_damping_is_what_the_length_of_the_run_stands_for():
    run, *_ = recorded("squares")
    found = ks.influence(run, queries(), method="gauss-newton")
    assert found.info["damping"] == pytest.approx(1 / (8 * 0.1 / (1 - 0.9)))
    x, y = points()
    model = tiny()
    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.02), diary=False)
    assert ks.influence(run, queries(), method="gauss-newton").info["damping"] == pytest.approx(1 / 0.8 + 0.02)
    model = tiny()
    run, _ = train(model, x, y, torch.optim.Adam(model.parameters(), lr=0.05), diary=False)
    assert 0 < ks.influence(run, queries(), method="gauss-newton").info["damping"] < 100


def test_the_result_says_what_it_is(tmp_path):
    run, model, x, y, _ = recorded("softmax")
    for method in ("metagradient", "gauss-newton"):
        found = ks.influence(run, queries(), "loss", targets=torch.tensor([0, 2]), method=method)
        assert "counterfactual" in repr(found)
        assert "first order" in repr(found)
        most = int(found.influences[0, 0].abs().argmax())
        assert f"without sample {int(found.sample_ids[most])}" in repr(found)
        assert "without sample" not in repr(ks.influence(run, queries(), method=method))
        assert found.influences.shape == (2, 1, 8)
        assert torch.equal(found.removed([2, 5, 5]), found.values - found.influences[:, :, [2, 5]].sum(-1))
        top = found.top(3, query=1)
        assert top["influence"].abs().is_monotonic_decreasing
        assert float(top["influence"].abs().iloc[0]) == float(found.influences[1, 0].abs().max())
        frame = found.to_frame()
        assert len(frame) == 16
        assert float(frame.loc[(frame["query"] == 1) & (frame["sample"] == 4), "influence"].iloc[0]) == float(
            found.influences[1, 0, 4])
        found.save(tmp_path / method)
        again = Result.load(tmp_path / method)
        assert torch.equal(again.influences, found.influences)
        assert repr(again) == repr(found)
        assert len(found[1]) == 1
    with pytest.raises(DataError, match="none of the 8"):
        found.removed([9])
    with pytest.raises(DataError, match="metagradient has none"):
        ks.influence(run, queries(), damping=0.1)
    with pytest.raises(DataError, match="method"):
        ks.influence(run, queries(), method="hessian")


def test_the_network_is_left_as_it_was():
    run, model, *_ = recorded("softmax")
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.train()
    for method in ("metagradient", "gauss-newton"):
        ks.influence(run, queries(), method=method)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_drawings_say_what_they_show(tmp_path):
    run, _, x, _, _ = recorded("softmax")
    found, ledger = ks.influence(run, queries(), 0), ks.decompose(run, queries(), 0)
    row = found.influences[1, 0]
    strong = int(row.abs().argmax())
    title = found.plot(query=1).get_title(loc="left") or found.plot(query=1).get_title()
    assert f"(sample {strong})" in title
    assert ("lower" if float(row[strong]) > 0 else "higher") in title
    both = found.beside(ledger, ["one", "two"])
    ranks = spearman(ledger.contributions[1, 0], row)
    assert float(both.agreement[1]) == float(ranks)
    assert f"{float(ranks):.2f}" in "".join(both.plot(query=1).get_title(loc=loc) for loc in ("left", "center"))
    assert list(both.to_frame().columns[-2:]) == ["contribution", "influence"]
    page = ks.Report("Both", [found, both], {}).save(tmp_path / "page.html").read_text(encoding="utf-8")
    for words in ("What leaving samples out would do", "Contribution, and influence beside it", "counterfactual",
                  "Contribution: what training on it added", "Influence: what its weight would do"):
        assert words in page
    both.save(tmp_path / "both")
    assert repr(Result.load(tmp_path / "both")) == repr(both)
    with pytest.raises(DataError, match="side by side"):
        beside(ks.decompose(run, queries()), found)


class Rooted(nn.Module):
    def forward(self, x):
        return x.abs().sqrt()


def wide(make):
    torch.manual_seed(0)
    model, x, y = make(), torch.randn(40, 6), torch.arange(40) % 3
    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), loss=F.cross_entropy, diary=False)
    return run, x


@pytest.mark.parametrize("memory", ["512MB", "150KB"])
def test_a_gradient_of_a_query_that_is_infinite_is_refused(memory):
    run, x = wide(lambda: nn.Sequential(nn.Linear(6, 24, bias=False), Rooted(), nn.Linear(24, 3)))
    asked = x[:3].clone()
    asked[1] = 0
    with pytest.raises(NonFiniteError, match="at a query"):
        ks.influence(run, asked, method="gauss-newton", damping=1e-2, memory=memory)


def test_the_residual_of_outputs_is_no_less_than_what_is_lost_on_the_way_to_the_parameters():
    run, x = wide(lambda: nn.Sequential(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 3)))
    asked = {"method": "gauss-newton", "damping": 1e-6}
    true, single = ks.influence(run, x[:4], **asked), ks.influence(run, x[:4], dtype=torch.float32, **asked)
    assert "outputs" in single.info["solver"]
    lost = relative(single.influences, true.influences)
    assert lost > 1e-3
    assert single.info["residual"] > lost / 2
    assert next(row for row in single.check().rows if row.name == "solved").status == "fail"


def test_a_damping_that_is_lost_in_rounding_is_refused_by_name():
    run, x = wide(lambda: nn.Linear(6, 3))
    with pytest.raises(DataError, match="is lost in the rounding of float32"):
        ks.influence(run, x[:4], method="gauss-newton", damping=1e-12, dtype=torch.float32)


def test_a_loss_of_infinite_curvature_is_refused_in_a_sentence():
    def pointed(outputs, targets, reduction="mean"):
        losses = outputs.abs().pow(1.5).sum(1)
        return losses.mean() if reduction == "mean" else losses

    torch.manual_seed(0)
    model, x, y = nn.Linear(6, 3, bias=False), torch.randn(20, 6), torch.arange(20) % 3
    x[4] = 0
    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), loss=pointed, diary=False)
    with pytest.raises(NonFiniteError, match="by the outputs that is NaN or infinite at 1 of"):
        ks.influence(run, x[:2], method="gauss-newton")
