"""What a ledger is: complete, made of shares that add up in every direction, for every loss and every output."""

import copy
import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.decomposition.result import CHANNELS
from tests.oracles import Diary, corrected_midpoint
from tests.recordings import (
    assert_the_explicit_shares,
    batches,
    complete,
    network,
    points,
    queries,
    relative,
    share_of,
    train,
)


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1)


def classes(n=8, count=2):
    return torch.arange(n) % count


@pytest.fixture
def recorded():
    """A run with shares, decay and momentum from before, its model and its data."""
    x, y = points()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    F.mse_loss(model(x), y).backward()
    optimizer.step()
    start = copy.deepcopy(model)
    run, _ = train(model, x, y, optimizer, diary=False)
    return run, start, model


# -- the sums ----------------------------------------------------------------------------------------------------------


def test_the_ledger_begins_and_ends_at_the_networks_outputs(recorded):
    run, start, model = recorded
    d = ks.decompose(run, queries())
    assert torch.allclose(d.initial, start(queries()).detach(), rtol=1e-14, atol=1e-15)
    assert torch.allclose(d.final, model(queries()).detach(), rtol=1e-14, atol=1e-15)
    assert torch.equal(d.path[..., 0], d.initial)
    assert torch.equal(d.path[..., -1], d.final)
    for k in range(len(run)):
        at = torch.func.functional_call(start, run.parameters(k), (queries(),)).detach()
        assert torch.allclose(d.path[..., k], at, rtol=1e-13, atol=1e-15)


def test_shares_add_up_by_sample_by_step_by_group_and_by_channel(recorded):
    run, _, _ = recorded
    words = ["a", "b", "c", "a", "b", "c", "a", "a"]
    d = ks.decompose(run, queries(), groups=words)
    assert set(d.channels) == set(CHANNELS)
    data = d.channels["data"]
    assert relative(d.contributions.sum(-1), data) <= 1e-13
    assert relative(d.by_step().sum(-1), data) <= 1e-13
    assert relative(d.group_steps.sum(2), d.by_step()) <= 1e-13
    for g, word in enumerate(d.groups):
        members = torch.tensor([w == word for w in words])
        assert relative(d.group_steps[:, :, g].sum(-1), d.contributions[..., members].sum(-1)) <= 1e-13
    for channel in ("decay", "momentum"):
        assert d.channels[channel].abs().min() > 0
    assert complete(d) <= 1e-13
    assert torch.allclose(d.residual, d.final - d.initial - sum(d.channels.values()), rtol=0, atol=1e-15)


def test_the_scale_of_the_residual_is_no_smaller_than_any_sum_of_terms(recorded):
    run, _, _ = recorded
    d = ks.decompose(run, queries())
    assert bool((d.magnitude >= d.initial.abs() + d.contributions.abs().sum(-1)).all())


def test_one_plain_step_is_written_down_by_hand():
    x, y = points()
    model = network()
    notes = Diary(model, x, y, F.mse_loss)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        notes.forward(range(8), 1 / 8)
        F.mse_loss(model(x), y).backward()
        notes.step(optimizer)
        optimizer.step()
    notes.close()
    d = ks.decompose(recording.run, queries())
    before = notes.entries[0].theta
    for j, phi in enumerate(corrected_midpoint(notes, before, notes.last, {}, queries())):
        for i in range(8):
            leaves = {name: p.clone().requires_grad_() for name, p in before.items()}
            out = torch.func.functional_call(model, leaves, (x[[i]],))
            g = torch.autograd.grad(((out - y[[i]]) ** 2).mean(), list(leaves.values()))
            share = -0.3 / 8 * sum(float((phi[name] * part).sum()) for name, part in zip(leaves, g, strict=True))
            assert abs(float(d.contributions[divmod(j, 2)][i]) - share) <= 1e-14


def test_steps_of_displacement_alone_hold_the_same_outputs(recorded):
    run, _, _ = recorded
    a, b = ks.decompose(run, queries()), ks.decompose(run, queries(), rule="displacement")
    assert torch.equal(a.path, b.path)
    assert not b.contributions.any()
    assert complete(b) <= 1e-13
    assert relative(b.channels["unattributed"], a.final - a.initial) <= 1e-12


def test_the_same_call_gives_the_same_bits(recorded):
    run, _, _ = recorded
    a, b = ks.decompose(run, queries()), ks.decompose(run, queries())
    for name in ("contributions", "steps", "path", "quadrature_error", "magnitude"):
        assert torch.equal(getattr(a, name), getattr(b, name))


def test_a_run_without_steps_and_a_call_without_queries_hold_nothing(recorded):
    run, _, _ = recorded
    d = ks.decompose(run[3:3], queries())
    assert torch.equal(d.initial, d.final)
    assert d.steps.shape == (2, 2, 0)
    assert not d.contributions.any()
    none = ks.decompose(run, queries()[:0])
    assert none.contributions.shape == (0, 2, 8)
    assert complete(d) == 0


# -- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trained", [torch.float64, torch.float32])
def test_a_float32_ledger_closes_to_float32_and_agrees_with_the_float64_one(trained):
    x, y = points(dtype=trained)
    model = network(hidden=16, dtype=trained)
    run, _ = train(model, x, y, adamw(model), steps=20, diary=False)
    exact, fast = (ks.decompose(run, queries(), dtype=dtype) for dtype in (torch.float64, torch.float32))
    assert complete(exact) <= 1e-12
    assert complete(fast) <= 1e-5
    assert fast.contributions.dtype == torch.float64
    assert relative(fast.contributions, exact.contributions) <= 1e-3
    for d in (exact, fast):
        assert not d.channels["unattributed"].any()


# -- outputs -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def classified():
    x, _ = points()
    model = network(outputs=3)
    run, notes = train(model, x, classes(count=3), adamw(model), loss=F.cross_entropy)
    return run, notes, model


def test_a_margin_is_the_difference_of_two_logits(classified):
    run, notes, model = classified
    margin, logits = ks.decompose(run, queries(), output="margin"), ks.decompose(run, queries())
    first, second = model(queries()).topk(2).indices.T
    for q in range(2):
        for field in ("contributions", "steps", "path"):
            difference = getattr(logits, field)[q, first[q]] - getattr(logits, field)[q, second[q]]
            assert relative(getattr(margin, field)[q, 0], difference) <= 1e-11
    assert complete(margin) <= 1e-12


OUTPUTS = {
    "all outputs": None,
    "probabilities": lambda out: out.softmax(-1),
    "one output": lambda out: out[:, 1],
    "log of the sum": lambda out: out.logsumexp(-1, keepdim=True),
    "square of the outputs": lambda out: out**2,
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_any_function_of_the_outputs_has_exact_shares(classified, name):
    """The gradient is that of the function along the path, not the function's slope at the end times the change."""
    run, notes, _ = classified
    output = OUTPUTS[name]
    d = ks.decompose(run, queries(), output=output)
    assert complete(d) <= 1e-12
    assert_the_explicit_shares(d, notes, queries(), output=output and (lambda out: rows(output(out))))


def rows(values):
    return values[:, None] if values.ndim == 1 else values


def test_the_loss_of_a_query_has_exact_shares(classified):
    run, notes, model = classified
    x, y = queries(), torch.tensor([2, 0])
    d = ks.decompose(run, x, output="loss", targets=y)
    given = lambda out, targets: F.cross_entropy(out, targets, reduction="none")
    by_hand = ks.decompose(run, x, output=given, targets=y)
    assert torch.allclose(d.final[:, 0], F.cross_entropy(model(x), y, reduction="none").detach(), rtol=1e-13)
    assert relative(d.contributions, by_hand.contributions) <= 1e-12
    assert_the_explicit_shares(d, notes, x, output=lambda out: given(out, y)[:, None])
    assert complete(d) <= 1e-12


def test_training_on_a_sample_lowers_its_own_loss_in_the_first_small_step():
    x, y = points()
    model = network()
    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=1e-3), steps=1, size=8, diary=False)
    d = ks.decompose(run, x, output="loss", targets=y)
    assert bool((d.contributions[:, 0].diagonal() < 0).all())


# -- losses ------------------------------------------------------------------------------------------------------------


def signs(n=8):
    return (torch.arange(n) % 2).double()[:, None]


LOSSES = {
    "mse": (F.mse_loss, 2, points()[1]),
    "mse module": (nn.MSELoss(), 2, points()[1]),
    "cross entropy": (F.cross_entropy, 3, classes(count=3)),
    "cross entropy with smoothing": (nn.CrossEntropyLoss(label_smoothing=0.2), 3, classes(count=3)),
    "cross entropy of soft targets": (F.cross_entropy, 2, points()[1].softmax(1)),
    "binary cross entropy": (F.binary_cross_entropy_with_logits, 1, signs()),
    "l1": (F.l1_loss, 2, points()[1]),
    "huber": (nn.HuberLoss(delta=0.3), 2, points()[1]),
    "smooth l1": (F.smooth_l1_loss, 2, points()[1]),
    "soft margin": (F.soft_margin_loss, 1, 2 * signs() - 1),
    "multi margin": (F.multi_margin_loss, 3, classes(count=3)),
    "poisson": (F.poisson_nll_loss, 1, signs()),
}


class Reduced:
    """A loss module as a function that takes a reduction, for the diary."""

    def __init__(self, loss):
        self.loss = loss

    def __call__(self, outputs, targets, reduction="mean"):
        if not isinstance(self.loss, nn.Module):
            return self.loss(outputs, targets, reduction=reduction)
        one = copy.deepcopy(self.loss)
        one.reduction = reduction
        return one(outputs, targets)


@pytest.mark.parametrize("name", LOSSES)
def test_any_loss_of_single_samples_has_exact_shares(name):
    loss, outputs, y = LOSSES[name]
    x, _ = points()
    model = network(outputs=outputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    notes = Diary(model, x, y, Reduced(loss))
    with ks.record(model, (x, y), loss=loss) as recording:
        for ids in batches(6, 3):
            notes.forward(ids, 1 / 3)
            recording.batch(ids)
            optimizer.zero_grad()
            loss(model(x[ids]), y[ids]).backward()
            notes.step(optimizer)
            optimizer.step()
    notes.close()
    d = ks.decompose(recording.run, queries())
    truth = assert_the_explicit_shares(d, notes, queries())
    assert truth.moved <= 1e-12
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()


def test_class_weights_and_ignored_samples_scale_the_mean():
    """torch divides by the weights of the batch, so the mean of the terms is met up to a factor, which is recorded."""
    x, _ = points()
    y = torch.tensor([0, 1, 2, -100, 1, 0, -100, 2])
    model = network(outputs=3)
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    notes = Diary(model, x, y, Reduced(loss))
    with ks.record(model, (x, y), loss=loss) as recording:
        for ids in batches(6, 4):
            weight = float(loss.weight[y[ids].clamp(min=0)][y[ids] >= 0].sum())
            notes.forward(ids, 1 / weight)
            recording.batch(ids)
            optimizer.zero_grad()
            loss(model(x[ids]), y[ids]).backward()
            notes.step(optimizer)
            optimizer.step()
    notes.close()
    d = ks.decompose(recording.run, queries())
    assert_the_explicit_shares(d, notes, queries())
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()
    assert not d.contributions[..., y < 0].any()


def test_losses_of_many_positions_are_averaged_over_them():
    class PerToken(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5)

        def forward(self, t):
            return self.head(torch.tanh(self.embed(t))).transpose(1, 2)

    x = torch.randint(0, 5, (8, 4), generator=torch.Generator().manual_seed(1))
    model = PerToken().double()
    run, notes = train(model, x, x.roll(1, 1), adamw(model), loss=F.cross_entropy, steps=5)
    d = ks.decompose(run, x[:2], output=lambda out: out[:, :, -1])
    assert_the_explicit_shares(d, notes, x[:2], output=lambda out: out[:, :, -1])
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()


# -- inputs ------------------------------------------------------------------------------------------------------------


def test_a_network_may_take_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(2, 2)

        def forward(self, x, z):
            return torch.tanh(self.a(x)) * self.b(z)

    x, y = points()
    z = points(seed=5)[1]
    model = Two().double()
    optimizer = adamw(model)
    with ks.record(model, (x, z, y), loss=F.mse_loss) as recording:
        for ids in batches(5, 3):
            recording.batch(ids)
            optimizer.zero_grad()
            F.mse_loss(model(x[ids], z[ids]), y[ids]).backward()
            optimizer.step()
    d = ks.decompose(recording.run, (x[:2], z[:2]))
    assert torch.allclose(d.final, model(x[:2], z[:2]).detach(), rtol=1e-13)
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()
    # The shares themselves: one input that holds both is the same network.
    both = torch.cat([x, z], 1)

    class One(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, xz):
            return self.inner(xz[:, :3], xz[:, 3:])

    start = Two().double()
    other = One(copy.deepcopy(start))
    optimizer = adamw(start)
    with ks.record(start, (x, z, y), loss=F.mse_loss) as recording:
        for ids in batches(5, 3):
            recording.batch(ids)
            optimizer.zero_grad()
            F.mse_loss(start(x[ids], z[ids]), y[ids]).backward()
            optimizer.step()
    run, notes = train(other, both, y, adamw(other), steps=5)
    a, b = ks.decompose(recording.run, (x[:2], z[:2])), ks.decompose(run, both[:2])
    assert relative(a.contributions, b.contributions) <= 1e-12
    assert_the_explicit_shares(b, notes, both[:2])


def test_inputs_that_change_between_visits_are_kept_with_their_step():
    x, y = points()
    model = network()
    optimizer = adamw(model)
    notes = Diary(model, x, y, F.mse_loss)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for k, ids in enumerate(batches(5, 3)):
            noisy = x[ids] + 0.1 * k
            notes.x = x + 0.1 * k
            notes.forward(ids, 1 / 3)
            recording.batch(ids)
            optimizer.zero_grad()
            F.mse_loss(model(noisy), y[ids]).backward()
            notes.step(optimizer)
            optimizer.step()
    notes.close()
    d = ks.decompose(recording.run, queries())
    assert_the_explicit_shares(d, notes, queries())
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()


def test_scalar_parameters_have_shares():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.scale = network(), nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, x):
            return self.scale.exp() * self.inner(x)

    model = Scaled()
    run, notes = train(model, *points(), adamw(model))
    d = ks.decompose(run, queries())
    assert_the_explicit_shares(d, notes, queries())
    assert complete(d) <= 1e-12


def test_the_oracles_share_no_code_with_the_package():
    from tests import oracles

    source = inspect.getsource(oracles)
    assert "kernelscope" not in source
    assert "torch.func" not in source.replace("``torch.func``", "")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_a_long_run_of_a_larger_network_still_closes(kind):
    x, y = points(n=200, features=20)
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)).double()
    options = {"lr": 0.02, "momentum": 0.9} if kind == "SGD" else {"lr": 3e-3}
    optimizer = getattr(torch.optim, kind)(model.parameters(), weight_decay=1e-3, **options)
    run, _ = train(model, x, y, optimizer, steps=600, size=20, diary=False)
    d = ks.decompose(run, queries(features=20))
    assert complete(d) <= 1e-12
    assert share_of(d, "rounding") <= 1e-12
    assert not d.channels["unattributed"].any()
