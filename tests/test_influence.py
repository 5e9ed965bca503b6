"""The metagradient is the derivative of training itself, through everything that each optimizer does."""

import copy
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.errors import ModelError, OutOfBudget, RuleError
from tests.recordings import batches, points, queries, relative, train
from tests.unrolled import adam, metagradient, muon, sgd, tiny, weighted_training

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.1}),
    "decay": (torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.05}),
    "momentum": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "dampened": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    "nesterov": (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    "maximize": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "maximize": True}),
    "adam": (torch.optim.Adam, {"lr": 0.05}),
    "adam decay": (torch.optim.Adam, {"lr": 0.05, "weight_decay": 0.05, "amsgrad": True}),
    "adamw": (torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.1}),
    "rmsprop": (torch.optim.RMSprop, {"lr": 0.02}),
    "rmsprop centered": (torch.optim.RMSprop, {"lr": 0.02, "centered": True, "momentum": 0.8, "alpha": 0.9}),
    "adagrad": (torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.05}),
    "adadelta": (torch.optim.Adadelta, {"lr": 1.0, "eps": 1e-3}),
    "nadam": (torch.optim.NAdam, {"lr": 0.05, "weight_decay": 0.02}),
    "radam": (torch.optim.RAdam, {"lr": 0.05}),
    "adamax": (torch.optim.Adamax, {"lr": 0.05}),
}


def by_hand(kind, options):
    """The step written out, where torch has none that can be differentiated to the last digit."""
    if kind is torch.optim.SGD:
        return sgd(**options)
    if kind in (torch.optim.Adam, torch.optim.AdamW):
        return adam(**options, decoupled=kind is torch.optim.AdamW)
    return None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_metagradient_is_that_of_automatic_differentiation_through_training(name):
    kind, options = OPTIMIZERS[name]
    (x, y), z, model = points(), queries(), tiny()
    truth, values = metagradient(copy.deepcopy(model), x, y, z, lambda p: kind(p, **options, differentiable=True),
                                 own=by_hand(kind, options), loss=F.mse_loss)
    run, _ = train(model, x, y, kind(model.parameters(), **options), diary=False)
    found = ks.influence(run, z)
    assert float(truth.abs().max()) > 1e-4
    # NAdam keeps the product of its momenta in float32.
    assert relative(found.influences, truth) <= (1e-6 if name == "nadam" else 1e-9)
    assert relative(found.values, values) <= 1e-6
    assert found.check().ok


@pytest.mark.parametrize(("name", "options"), [
    ("sgd", {"norm": 0.5}), ("adam", {"norm": 0.3}), ("momentum", {"norm": 0.2, "kind": float("inf")}),
    ("momentum", {"norm": 0.8, "kind": 1.0}), ("momentum", {"value": 0.1}), ("adam", {"value": 0.05})])
def test_clipping_is_part_of_the_derivative(name, options):
    kind, numbers = OPTIMIZERS[name]
    (x, y), z, model = points(), queries(), tiny()
    own = sgd(**numbers) if kind is torch.optim.SGD else adam(**numbers)
    truth, _ = metagradient(copy.deepcopy(model), x, y, z, None, own=own, loss=F.mse_loss, **options)
    plain, _ = metagradient(copy.deepcopy(model), x, y, z, None, loss=F.mse_loss,
                            own=sgd(**numbers) if kind is torch.optim.SGD else adam(**numbers))
    assert relative(plain, truth) > 1e-2
    optimizer, parameters = kind(model.parameters(), **numbers), list(model.parameters())
    cut = (lambda k: nn.utils.clip_grad_value_(parameters, options["value"])) if "value" in options else (
        lambda k: nn.utils.clip_grad_norm_(parameters, options["norm"], options.get("kind", 2.0)))
    run, _ = train(model, x, y, optimizer, before_step=cut, diary=False)
    found = ks.influence(run, z)
    assert relative(found.influences, truth) <= 1e-9
    assert found.info["clipped_steps"] > 0 or "value" in options


def test_a_single_step_that_was_clipped_is_told_from_one_that_was_scaled():
    (x, y), z = points(), queries()
    start = tiny()
    for norm in (0.5, None):
        model = copy.deepcopy(start)

        def cut(k, model=model, norm=norm):
            if norm is None:
                for p in model.parameters():
                    p.grad.mul_(0.25)
            else:
                nn.utils.clip_grad_norm_(model.parameters(), norm)

        run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), steps=1, before_step=cut, diary=False)
        truth, _ = metagradient(copy.deepcopy(start), x, y, z, None, own=sgd(lr=0.1 if norm else 0.025),
                                loss=F.mse_loss, steps=1, norm=norm)
        found = ks.influence(run, z)
        assert found.info["clipped_steps"] == (1 if norm else 0)
        assert relative(found.influences, truth) <= 1e-9


def test_summed_losses_of_batches_of_different_sizes():
    (x, y), z, model = points(), queries(), tiny()
    plan = [ids[:3 if k % 2 else 2] for k, ids in enumerate(batches(6, 3))]
    way, h, ends = torch.randn(8, generator=torch.Generator().manual_seed(3), dtype=torch.float64), 3e-4, []
    for s in (1, -1, 0):
        again, weights = copy.deepcopy(model), 1 + s * h * way
        optimizer = torch.optim.SGD(again.parameters(), lr=0.05, momentum=0.9)
        with ks.record(again, (x, y), loss=F.mse_loss) if s == 0 else nullcontext() as recording:
            for ids in plan:
                if s == 0:
                    recording.batch(ids)
                optimizer.zero_grad()
                (weights[ids] * F.mse_loss(again(x[ids]), y[ids], reduction="none").mean(1)).sum().backward()
                optimizer.step()
        ends.append(again(z).detach())
    found = ks.influence(recording.run, z)
    assert found.info["clipped_steps"] == 0
    assert relative(found.influences @ way, (ends[0] - ends[1]) / (2 * h)) <= 1e-5


class Logits(nn.Module):
    """The logits of each place of a sequence, with shape (n, C, T)."""

    def __init__(self):
        super().__init__()
        self.body = tiny(3, 4, 3)

    def forward(self, x):
        return self.body(x).transpose(1, 2)


def weighed(kind):
    """A network, samples, a loss module whose mean divides by its own weights, and queries."""
    source = torch.Generator().manual_seed(5)
    if kind == "classes":
        x, z = (torch.randn(n, 3, generator=source, dtype=torch.float64) for n in (8, 2))
        weight = torch.tensor([1.0, 4.0, 0.3], dtype=torch.float64)
        return tiny(3, 4, 3), x, torch.arange(8) % 3, nn.CrossEntropyLoss(weight=weight), z
    x, z = (torch.randn(n, 4, 3, generator=source, dtype=torch.float64) for n in (8, 2))
    y = torch.randint(3, (8, 4), generator=source)
    y[torch.arange(4) >= torch.tensor([4, 1, 3, 2, 4, 2, 1, 3]).unsqueeze(1)] = -100
    return Logits(), x, y, nn.CrossEntropyLoss(), z


@pytest.mark.parametrize(("kind", "norm"), [("classes", None), ("classes", 0.8), ("padded", None), ("padded", 0.4)])
def test_a_weighted_mean_keeps_its_divisor(kind, norm):
    model, x, y, loss, z = weighed(kind)
    each = copy.deepcopy(loss)
    each.reduction = "none"
    plan, h = batches(8, 3), 1e-5
    way = torch.randn(8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def trained(s):
        again = copy.deepcopy(model)
        optimizer = torch.optim.SGD(again.parameters(), lr=0.2, momentum=0.9)
        for ids in plan:
            optimizer.zero_grad()
            losses = each(again(x[ids]), y[ids]).reshape(len(ids), -1)
            divisor = loss.weight[y[ids]].sum() if kind == "classes" else (y[ids] != -100).sum()
            (((1 + s * h * way[ids]) * losses.sum(1)).sum() / divisor).backward()
            if norm is not None:
                nn.utils.clip_grad_norm_(again.parameters(), norm)
            optimizer.step()
        return again(z).detach()

    truth, plain = (trained(1) - trained(-1)).flatten(1) / (2 * h), trained(0)
    cut = None if norm is None else lambda k: nn.utils.clip_grad_norm_(model.parameters(), norm) and None
    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9), loss=loss, before_step=cut,
                   diary=False)
    assert torch.allclose(model(z), plain, rtol=1e-12, atol=1e-12)
    found = ks.influence(run, z)
    # Central differences of second order leave h^2, and 1e-16 / h of round-off.
    assert relative(found.influences @ way, truth) <= 1e-8
    assert (0 < found.info["clipped_steps"] < 8) if norm else found.info["clipped_steps"] == 0
    assert found.check().ok


def test_a_loop_that_takes_the_mean_over_samples_of_a_weighted_loss_by_itself():
    model, x, y, loss, z = weighed("classes")
    each = copy.deepcopy(loss)
    each.reduction = "none"
    start = copy.deepcopy(model)
    with ks.record(model, (x, y), loss=loss) as recording:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        for ids in batches(8, 3):
            recording.batch(ids)
            optimizer.zero_grad()
            each(model(x[ids]), y[ids]).mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.6)
            optimizer.step()

    def alike(outputs, targets, reduction="mean"):
        losses = each(outputs, targets)
        return losses if reduction == "none" else losses.mean()

    truth, _ = metagradient(start, x, y, z, None, own=sgd(lr=0.2), loss=alike, norm=0.6)
    found = ks.influence(recording.run, z)
    assert 0 < found.info["clipped_steps"] < 8
    assert relative(found.influences, truth) <= 1e-9


def test_a_mean_that_depends_on_the_parameters_is_no_weighted_mean():
    (x, y), z, model = points(), queries(), tiny()

    def root(outputs, targets, reduction="mean"):
        return F.mse_loss(outputs, targets, reduction=reduction).sqrt() if reduction == "mean" else F.mse_loss(
            outputs, targets, reduction="none")

    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), loss=root, diary=False)
    with pytest.raises(RuleError, match="scaled by factors that change"):
        ks.influence(run, z)


def test_a_question_of_nothing_is_answered_with_nothing():
    (x, y), z, model = points(), queries(), tiny()
    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), diary=False)
    for method in ("metagradient", "gauss-newton"):
        assert ks.influence(run, z[:0], method=method).influences.shape == (0, 2, 8)
    assert not ks.influence(run[:0], z).influences.any()


def test_a_factor_that_stays_is_no_clipping():
    (x, y), z, model = points(), queries(), tiny()

    def halved(outputs, targets, reduction="mean"):
        return F.mse_loss(outputs, targets, reduction=reduction) / 2

    truth, _ = metagradient(copy.deepcopy(model), x, y, z, None, own=sgd(lr=0.1, momentum=0.9), loss=halved)
    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), diary=False,
                   before_step=lambda k: [p.grad.mul_(0.5) for p in model.parameters()] and None)
    found = ks.influence(run, z)
    assert relative(found.influences, truth) <= 1e-9
    assert found.info["clipped_steps"] == 0


def test_factors_that_change_for_no_known_reason_are_refused():
    (x, y), z, model = points(), queries(), tiny()
    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), diary=False,
                   before_step=lambda k: [p.grad.mul_(0.5 + 0.1 * k) for p in model.parameters()] and None)
    with pytest.raises(RuleError, match="scaled by factors that change"):
        ks.influence(run, z)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_passes_that_are_gathered_and_a_schedule(name):
    kind, numbers = OPTIMIZERS[name]
    (x, y), z, model = points(), queries(), tiny()
    plan = batches(12, 3)
    rates = [numbers["lr"] / (1 + k) for k in range(6)]
    mine = adam_scheduled(numbers, rates) if name == "adam" else sgd(**numbers, schedule=lambda k: rates[k])
    truth, _ = metagradient(copy.deepcopy(model), x, y, z, None, own=mine, loss=F.mse_loss, steps=6, passes=2,
                            plan=plan)
    optimizer = kind(model.parameters(), **numbers)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for k in range(6):
            optimizer.param_groups[0]["lr"] = rates[k]
            optimizer.zero_grad()
            for ids in plan[2 * k:2 * k + 2]:
                recording.batch(ids)
                (F.mse_loss(model(x[ids]), y[ids]) / 2).backward()
            optimizer.step()
    assert relative(ks.influence(recording.run, z).influences, truth) <= 1e-9


def adam_scheduled(numbers, rates):
    """Adam, whose learning rate changes: steps of rate 1, scaled."""
    one = adam(**{**numbers, "lr": 1.0})

    def step(theta, gradients, k):
        there = one(theta, gradients, k)
        return {name: p + rates[k] * (there[name] - p) for name, p in theta.items()}

    return step


def test_muon_goes_through_its_polynomial():
    x, y = points()
    z, model = queries(), tiny()
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 2, bias=False)).double()
    numbers = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1}
    start = copy.deepcopy(model)
    run, _ = train(model, x, y, torch.optim.Muon(model.parameters(), **numbers), diary=False)
    own = muon(**numbers, coefficients=(3.4445, -4.775, 2.0315), steps=5, follow=lambda k: run.parameters(k + 1))
    truth, _ = metagradient(start, x, y, z, None, own=own, loss=F.mse_loss)
    found = ks.influence(run, z)
    assert relative(found.influences, truth) <= 1e-8
    assert any("bfloat16" in note for note in found.info["notes"])


def test_a_slice_holds_what_came_before_it():
    (x, y), z, model = points(), queries(), tiny()
    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), diary=False)
    whole, late = ks.influence(run, z), ks.influence(run[5:], z)
    later = {int(i) for k in range(5, 8) for batch in run[k].batches for i in batch.columns}
    never = [i for i in range(8) if i not in later]
    assert never
    assert not late.influences[:, :, never].any()
    assert relative(late.influences, whole.influences) > 1e-3
    # The last step alone: one gradient of one batch.
    last = ks.influence(run[7:], z).influences
    model.eval()
    end = {name: p.requires_grad_() for name, p in run.parameters(8).items()}
    here = {name: p.requires_grad_() for name, p in run.parameters(7).items()}
    out = torch.func.functional_call(model, end, (z,))[0, 0]
    slope = torch.autograd.grad(out, list(end.values()))
    ids = run[7].batches[0].columns
    for i in ids.tolist():
        own = torch.autograd.grad(F.mse_loss(torch.func.functional_call(model, here, (x[[i]],)), y[[i]]),
                                  list(here.values()))
        product = sum(float((a * b).sum()) for a, b in zip(slope, own, strict=True))
        assert float(last[0, 0, i]) == pytest.approx(-0.1 * product / len(ids), rel=1e-9)


def test_memory_divides_queries_and_steps_and_changes_nothing():
    (x, y), z, model = points(), torch.randn(7, 3, dtype=torch.float64), tiny()
    run, _ = train(model, x, y, torch.optim.Adam(model.parameters(), lr=0.05), diary=False)
    whole = ks.influence(run, z)
    small = ks.influence(run, z, memory=16_000)
    assert small.info["bytes"] < whole.info["bytes"] / 3
    assert relative(small.influences, whole.influences) <= 1e-12
    with pytest.raises(OutOfBudget, match="One query"):
        ks.influence(run, z, memory=1000)


def retrained(weights, x, y, ids, kind, options, start):
    model = copy.deepcopy(start)
    optimizer = kind(model.parameters(), **options)
    for some in ids:
        optimizer.zero_grad()
        each = F.mse_loss(model(x[some]), y[some], reduction="none").mean(1)
        (weights[some] * each).mean().backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("name", ["momentum", "adam", "rmsprop centered", "nadam"])
def test_training_again_with_other_weights_moves_outputs_as_told(name):
    kind, options = OPTIMIZERS[name]
    (x, y), z, model = points(), queries(), tiny()
    start = copy.deepcopy(model)
    run, _ = train(model, x, y, kind(model.parameters(), **options), diary=False)
    found = ks.influence(run, z).influences
    g = torch.Generator().manual_seed(3)
    way = torch.randn(len(y), generator=g, dtype=torch.float64)
    told, errors = found @ way, []
    for h in (1e-3, 5e-4):
        ends = [retrained(1 + s * h * way, x, y, batches(8, 3), kind, options, start)(z).detach() for s in (1, -1)]
        errors.append(relative((ends[0] - ends[1]) / (2 * h), told))
    # The error of a central difference is of the order of the square of its step, and falls with it.
    assert errors[1] <= 1e-4
    assert errors[1] <= errors[0] / 3


@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_all_weights_together_are_the_learning_rate(name):
    kind, options = OPTIMIZERS[name]
    (x, y), z, model = points(), queries(), tiny()
    start = copy.deepcopy(model)
    run, _ = train(model, x, y, kind(model.parameters(), **options), diary=False)
    h, ones = 1e-4, torch.ones(len(y), dtype=torch.float64)
    ends = [retrained(ones, x, y, batches(8, 3), kind, {**options, "lr": options["lr"] * (1 + s * h)}, start)(z)
            for s in (1, -1)]
    assert relative(ks.influence(run, z).influences.sum(-1), ((ends[0] - ends[1]) / (2 * h)).detach()) <= 1e-5


def test_copies_of_a_sample_have_the_same_influence_that_of_their_weight():
    (x, y), z = points(), queries()
    twice = torch.cat([x, x[:1]]), torch.cat([y, y[:1]])
    ids = torch.arange(9)
    model = tiny()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    with ks.record(model, twice, loss=F.mse_loss) as recording:
        for _ in range(6):
            recording.batch(ids)
            optimizer.zero_grad()
            F.mse_loss(model(twice[0]), twice[1]).backward()
            optimizer.step()
    found = ks.influence(recording.run, z).influences
    assert relative(found[:, :, 8], found[:, :, 0]) <= 1e-12
    weights = torch.ones(8, dtype=torch.float64)
    weights[0] = 2.0

    def both(outputs, targets, reduction):
        return F.mse_loss(outputs, targets, reduction=reduction) * 8 / 9

    w = weights.requires_grad_()
    theta = weighted_training(tiny(), x, y, None, w, own=adam(lr=0.05), loss=both, steps=6, plan=[torch.arange(8)] * 6)
    out = torch.func.functional_call(tiny(), theta, (z,))
    truth = torch.stack([torch.autograd.grad(v, w, retain_graph=True)[0] for v in out.flatten()]).view(2, 2, 8)
    # The derivative by the weight of the pair is that by either copy.
    assert relative(found[:, :, 0], truth[:, :, 0]) <= 1e-9
    assert relative(found[:, :, 1:8], truth[:, :, 1:]) <= 1e-9


def normalised():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()


@pytest.mark.parametrize("momentum", [0.3, None])
def test_running_statistics_are_part_of_the_derivative(momentum):
    (x, y), z, model = points(), queries(), normalised()
    model[1].momentum = momentum
    start, options = copy.deepcopy(model), {"lr": 0.1, "momentum": 0.9}
    run, _ = train(model.train(), x, y, torch.optim.SGD(model.parameters(), **options), diary=False, size=4)
    found = ks.influence(run, z).influences
    way = torch.randn(len(y), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    h, ends = 3e-4, []
    for s in (1, -1):
        again = retrained(1 + s * h * way, x, y, batches(8, 4), torch.optim.SGD, options, start)
        ends.append(again.eval()(z).detach())
    slope = (ends[0] - ends[1]) / (2 * h)
    # The bias before the normalisation has no gradient; what is left is the square of the step.
    assert relative(found @ way, slope) <= 1e-4


def test_state_that_is_no_running_statistic_is_refused():
    class Counting(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)
            self.register_buffer("mean", torch.zeros(3, dtype=torch.float64))

        def forward(self, x):
            out = super().forward(x - self.mean)
            if self.training:
                self.mean = 0.9 * self.mean + 0.1 * x.mean(0).detach()
            return out

    (x, y), z, model = points(), queries(), Counting().double()
    with pytest.warns(UserWarning, match="differ"):
        run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), diary=False)
    with pytest.raises(ModelError, match="buffer 'mean'"):
        ks.influence(run, z)


def test_dropout_keeps_its_masks():
    (x, y), z = points(), queries()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.4), nn.Tanh(), nn.Linear(6, 2)).double()
    start, options = copy.deepcopy(model), {"lr": 0.1, "momentum": 0.9}
    torch.manual_seed(5)
    run, _ = train(model.train(), x, y, torch.optim.SGD(model.parameters(), **options), diary=False, size=4)
    found = ks.influence(run, z).influences
    way = torch.randn(len(y), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    h, ends = 3e-4, []
    for s in (1, -1):
        torch.manual_seed(5)
        ends.append(retrained(1 + s * h * way, x, y, batches(8, 4), torch.optim.SGD, options, start).eval()(z).detach())
    assert relative(found @ way, (ends[0] - ends[1]) / (2 * h)) <= 1e-5


def test_two_optimizers_that_step_from_one_backward_pass():
    (x, y), z, model = points(), queries(), tiny()
    start = copy.deepcopy(model)
    makers = [lambda m: torch.optim.Adam(m[0].parameters(), lr=0.05),
              lambda m: torch.optim.SGD(m[2].parameters(), lr=0.1, momentum=0.9)]
    run, _ = train(model, x, y, [make(model) for make in makers], diary=False)
    found = ks.influence(run, z).influences
    way = torch.randn(len(y), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    h, ends = 3e-4, []
    for s in (1, -1):
        again = copy.deepcopy(start)
        optimizers = [make(again) for make in makers]
        for ids in batches(8, 3):
            for optimizer in optimizers:
                optimizer.zero_grad()
            each = F.mse_loss(again(x[ids]), y[ids], reduction="none").mean(1)
            ((1 + s * h * way)[ids] * each).mean().backward()
            for optimizer in optimizers:
                optimizer.step()
        ends.append(again(z).detach())
    assert relative(found @ way, (ends[0] - ends[1]) / (2 * h)) <= 1e-5


def test_a_gradient_of_nought_under_adam_is_no_nan():
    (x, y), z = points(), queries()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    with torch.no_grad():
        model[0].bias[:3] = -100.0
    run, _ = train(model, x, y, torch.optim.Adam(model.parameters(), lr=0.05), diary=False)
    found = ks.influence(run, z)
    assert bool(found.influences.isfinite().all())
    assert float(found.influences.abs().max()) > 1e-3


def test_steps_that_no_rule_explains_are_told():
    (x, y), z, model = points(), queries(), tiny()

    def beside(k):
        if k == 3:
            with torch.no_grad():
                model[0].weight.mul_(0.5)

    run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), diary=False, after_step=beside)
    found = ks.influence(run, z)
    assert found.info["first_unexplained"] == [3]
    assert found.info["unexplained"] > 0.01
    assert not found.check().ok


@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_normalisation_has_its_true_second_derivative(dim):
    torch.manual_seed(0)
    (x, y), z = points(), queries()
    start = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(x.shape[1], 4), dim=dim), nn.Tanh(),
                          nn.Linear(4, y.shape[1])).to(x.dtype)

    def trained(weights, recorded=False):
        model = copy.deepcopy(start)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
        with ks.record(model, (x, y), loss=F.mse_loss) if recorded else nullcontext() as recording:
            for _ in range(4):
                optimizer.zero_grad()
                loss = F.mse_loss(model(x), y) if recorded else (
                    weights * (model(x) - y).square().mean(1)).mean()
                loss.backward()
                optimizer.step()
        return recording.run if recorded else model(z).detach()

    found = ks.influence(trained(None, recorded=True), z).influences
    for i in range(3):
        bump = torch.zeros(len(x), dtype=x.dtype)
        bump[i] = 1e-4
        truth = (trained(1 + bump) - trained(1 - bump)) / 2e-4
        # Central differences of a smooth function, by a step of 1e-4.
        assert relative(found[:, :, i], truth) <= 1e-6


class Cut(nn.Module):
    """A layer whose gradient leaves out what it divides by."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(3, 4), nn.Linear(4, 1)

    def forward(self, x):
        """The outputs."""
        hidden = self.inner(x)
        return self.outer(torch.tanh(hidden / (hidden.detach().norm(dim=1, keepdim=True) + 0.1)))


def test_a_run_that_is_mostly_unexplained_is_refused():
    (x, y), z, model = points(), queries(), tiny()
    with pytest.warns(UserWarning, match="the gradient differs"):
        run, _ = train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.1), diary=False, before_step=lambda k: [
            nn.utils.clip_grad_norm_(p, 0.02) for p in model.parameters()] and None)
    with pytest.raises(RuleError, match="clipping each layer"):
        ks.influence(run, z)
    assert ks.influence(run, z, method="gauss-newton").influences.any()


def test_gradients_that_were_cut_off_are_refused():
    torch.manual_seed(0)
    x, y = torch.randn(9, 3), torch.randn(9, 1)
    model = Cut()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for _ in range(3):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    with pytest.raises(ModelError, match="detach"):
        ks.influence(recording.run, x[:1])
    assert ks.influence(recording.run, x[:1], method="gauss-newton").influences.shape == (1, 1, 9)
