"""Loops as people write them: each is recorded unchanged, and its ledger is that of explicit unrolling."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope.errors import RecordingError
from tests.oracles import Diary, displacements, explicit_shares
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


def assert_exact(run, notes, x=None, *, momentum=None, **options):
    """The ledger closes, nothing is unattributed or lost to rounding, and the shares are the explicit ones."""
    d = ks.decompose(run, queries() if x is None else x, **options)
    truth = assert_the_explicit_shares(d, notes, queries() if x is None else x, momentum=momentum)
    assert truth.moved <= 1e-12
    assert complete(d) <= 1e-12
    assert share_of(d, "rounding") <= 1e-12
    assert not d.channels["unattributed"].any()
    return d


def momentum_sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, "momentum": 0.9, **options})


# -- groups and schedules ----------------------------------------------------------------------------------------------


def test_parameter_groups_have_their_own_numbers():
    model = network()
    groups = [{"params": model[0].parameters(), "lr": 0.3, "momentum": 0.5},
              {"params": [model[2].weight], "weight_decay": 0.2}, {"params": [model[2].bias], "nesterov": True}]
    assert_exact(*train(model, *points(), torch.optim.SGD(groups, lr=0.1, momentum=0.9)))


def test_adamw_spares_the_biases_from_decay():
    model = network()
    groups = [{"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": 0.3},
              {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0, "lr": 0.01}]
    d = assert_exact(*train(model, *points(), torch.optim.AdamW(groups, lr=0.05)))
    assert d.channels["decay"].any()


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_a_schedule_may_warm_up_from_zero(kind):
    model = network()
    options = {"momentum": 0.9} if kind == "SGD" else {}
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1, weight_decay=0.1, **options)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: min(k / 3, 1.0) * 0.9**k)
    d = assert_exact(*train(model, *points(), optimizer, scheduler=scheduler))
    assert torch.equal(d.path[..., 0], d.path[..., 1])


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_a_schedule_may_move_the_momentum_too(kind):
    model = network()
    options = {"momentum": 0.9} if kind == "SGD" else {}
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1, **options)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.2, total_steps=12)
    assert_exact(*train(model, *points(), optimizer, scheduler=scheduler, steps=10))


# -- losses and clipping -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_clipping_by_norm_scales_the_shares_of_the_steps_it_clips(kind):
    model = network()
    optimizer = momentum_sgd(model) if kind == "SGD" else torch.optim.Adam(model.parameters(), lr=0.05)
    norms = []
    see = lambda k: norms.append(float(torch.cat([p.grad.flatten() for p in model.parameters()]).norm()))
    run, notes = train(model, *points(), optimizer, norm=0.6, before_step=see)
    # Gradients that were cut have the limit's norm; some must have been cut and some not.
    cut = [norm > 0.6 * (1 - 1e-3) for norm in norms]
    assert any(cut)
    assert not all(cut)
    assert_exact(run, notes)


def test_clipping_by_value_is_booked_entry_by_entry():
    model = network()
    largest = []
    see = lambda k: largest.append(max(float(p.grad.abs().max()) for p in model.parameters()))
    run, notes = train(model, *points(), momentum_sgd(model), value=0.2, before_step=see)
    assert max(largest) == 0.2
    assert_exact(run, notes)


def test_a_summed_loss_weighs_each_sample_fully():
    x, y = points()
    model = network()
    optimizer = momentum_sgd(model, lr=0.02)
    notes = Diary(model, x, y, F.mse_loss)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for ids in batches(8, 3):
            notes.forward(ids, 1.0)
            recording.batch(ids)
            optimizer.zero_grad()
            F.mse_loss(model(x[ids]), y[ids], reduction="none").mean(1).sum().backward()
            notes.step(optimizer)
            optimizer.step()
    notes.close()
    assert_exact(recording.run, notes)


def test_a_sample_may_come_twice_in_a_batch():
    x, y = points()
    model = network()
    optimizer = momentum_sgd(model)
    notes = Diary(model, x, y, F.mse_loss)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for ids in ([0, 0, 1], [2, 3, 2], [1, 1, 1]):
            notes.forward(ids, 1 / 3)
            recording.batch(ids)
            optimizer.zero_grad()
            F.mse_loss(model(x[ids]), y[ids]).backward()
            notes.step(optimizer)
            optimizer.step()
    notes.close()
    assert_exact(recording.run, notes)


def test_a_loader_that_shuffles_and_leaves_a_short_batch():
    x, y = points()
    model = network()
    loader = DataLoader(TensorDataset(x, y, torch.arange(len(y))), batch_size=3, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    notes = Diary(model, x, y, F.mse_loss)
    with ks.record(model, loader, loss=F.mse_loss, batch=lambda b: (b[0], b[1])) as recording:
        for _ in range(3):
            for inputs, targets, ids in loader:
                notes.forward(ids, 1 / len(ids))
                optimizer.zero_grad()
                F.mse_loss(model(inputs), targets).backward()
                notes.step(optimizer)
                optimizer.step()
    notes.close()
    assert len(recording.run) == 9
    assert_exact(recording.run, notes)


# -- accumulation ------------------------------------------------------------------------------------------------------


def accumulate(cuts, weigh, *, norm=None, kind="SGD", steps=6):
    """Updates that each gather passes over the parts of a batch, a part of size m weighed by weigh(m)."""
    x, y = points()
    model = network()
    optimizer = momentum_sgd(model, lr=0.05) if kind == "SGD" else torch.optim.Adam(model.parameters(), lr=0.05)
    notes = Diary(model, x, y, F.mse_loss)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for whole in batches(steps, sum(cuts)):
            optimizer.zero_grad()
            for ids in whole.split(cuts):
                notes.forward(ids, weigh(len(ids)) / len(ids))
                recording.batch(ids)
                (F.mse_loss(model(x[ids]), y[ids]) * weigh(len(ids))).backward()
            if norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), norm)
            notes.step(optimizer, norm)
            optimizer.step()
    notes.close()
    return recording.run, notes


@pytest.mark.parametrize("norm", [None, 0.6])
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize(("cuts", "weigh"), [
    ([2, 2, 2], lambda m: 1 / 3), ([2, 2], lambda m: 1.0), ([4, 1, 2], lambda m: m / 7), ([3, 1], lambda m: 1 / 2),
], ids=["mean", "sum of means", "unequal by size", "unequal evenly"])
def test_accumulated_gradients_are_the_union_of_their_passes(cuts, weigh, kind, norm):
    assert_exact(*accumulate(cuts, weigh, norm=norm, kind=kind))


# -- which parameters move ---------------------------------------------------------------------------------------------


def test_frozen_parameters_stay_and_count_in_the_output():
    model = network()
    model[0].weight.requires_grad_(False)
    run, notes = train(model, *points(), torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05))
    assert "0.weight" not in run.names
    assert_exact(run, notes)


def test_parameters_that_no_optimizer_holds_stay():
    model = network()
    assert_exact(*train(model, *points(), torch.optim.SGD(model[2].parameters(), lr=0.1, momentum=0.9)))


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "RMSprop"])
def test_a_parameter_without_gradient_is_passed_over(kind):
    model = network()
    options = {"momentum": 0.9} if kind != "AdamW" else {}
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.02, weight_decay=0.1, **options)

    def forget(k):
        if k % 3 != 1:
            model[2].weight.grad = None
        if k < 2:
            model[0].bias.grad = None

    assert_exact(*train(model, *points(), optimizer, before_step=forget))


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_a_parameter_with_a_zero_gradient_still_moves_by_momentum_and_decay(kind):
    class Switch(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = network(), network()

        def forward(self, x):
            # Only points on the right use the second network.
            return self.first(x) + self.second(x) * (x[:, :1] > 0)

    x, y = points()
    x[:, 0] = torch.tensor([1.0, -1.0]).repeat(4)
    model = Switch()
    options = {"momentum": 0.9} if kind == "SGD" else {}
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.05, weight_decay=0.1, **options)
    assert_exact(*train(model, x, y, optimizer, size=1))


def test_tied_parameters_are_one_parameter():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 3)
            self.last.weight = self.first.weight

        def forward(self, x):
            return self.last(torch.tanh(self.first(x)))[:, :2]

    model = Tied().double()
    run, notes = train(model, *points(), torch.optim.Adam(model.parameters(), lr=0.05))
    assert run.parameter_count == 9 + 3 + 3
    assert_exact(run, notes)


# -- several optimizers ------------------------------------------------------------------------------------------------


def test_two_optimizers_each_move_their_own_part():
    model = network()
    optimizers = [torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9, nesterov=True),
                  torch.optim.AdamW(model[2].parameters(), lr=0.05)]
    run, notes = train(model, *points(), optimizers, steps=6)
    assert len(run) == 12
    assert_exact(run, notes)


def continued(first, second, steps=4):
    """A loop in two phases, the second with a new optimizer over the same parameters."""
    x, y = points()
    model = network()
    notes = Diary(model, x, y, F.mse_loss)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for make in (first, second):
            optimizer = make(model)
            for ids in batches(steps, 3):
                notes.forward(ids, 1 / 3)
                recording.batch(ids)
                optimizer.zero_grad()
                F.mse_loss(model(x[ids]), y[ids]).backward()
                notes.step(optimizer)
                optimizer.step()
    notes.close()
    return recording.run, notes


@pytest.mark.parametrize("second", ["SGD", "Adam", "plain"])
@pytest.mark.parametrize("first", ["SGD", "Adam"])
def test_a_second_phase_begins_with_a_new_optimizer(first, second):
    make = {"SGD": momentum_sgd, "Adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.05),
            "plain": lambda model: torch.optim.SGD(model.parameters(), lr=0.1)}
    run, notes = continued(make[first], make[second])
    assert_exact(run, notes)


def test_two_optimizers_may_take_turns_over_the_same_parameters():
    x, y = points()
    model = network()
    optimizers = [momentum_sgd(model, lr=0.05), torch.optim.Adam(model.parameters(), lr=0.02)]
    notes = Diary(model, x, y, F.mse_loss)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for k, ids in enumerate(batches(9, 3)):
            optimizer = optimizers[k // 2 % 2]
            notes.forward(ids, 1 / 3)
            recording.batch(ids)
            optimizer.zero_grad()
            F.mse_loss(model(x[ids]), y[ids]).backward()
            notes.step(optimizer)
            optimizer.step()
    notes.close()
    assert_exact(recording.run, notes)
    # What lies before a cut and is carried over it is found for each optimizer by itself.
    late, whole = ks.decompose(recording.run[4:], queries()), ks.decompose(recording.run, queries())
    assert complete(late) <= 1e-12
    assert torch.allclose(late.steps, whole.steps[..., 4:], rtol=1e-10, atol=1e-13)
    assert late.channels["momentum"].any()


def test_a_step_without_any_gradient_moves_nothing():
    x, y = points()
    model = network()
    optimizer = momentum_sgd(model, weight_decay=0.1)
    notes = Diary(model, x, y, F.mse_loss)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for ids in batches(4, 3):
            notes.forward(ids, 1 / 3)
            recording.batch(ids)
            F.mse_loss(model(x[ids]), y[ids]).backward()
            notes.step(optimizer)
            optimizer.step()
            optimizer.zero_grad()
            notes.step(optimizer)
            optimizer.step()
    notes.close()
    assert_exact(recording.run, notes)


# -- what was there before, and slices ---------------------------------------------------------------------------------


def warmed(kind, **options):
    """A network, an optimizer over it that has made three steps, and its states by parameter."""
    x, y = points()
    model = network()
    optimizer = getattr(torch.optim, kind)(model.parameters(), **options)
    for ids in batches(3, 3, seed=9):
        optimizer.zero_grad()
        F.mse_loss(model(x[ids]), y[ids]).backward()
        optimizer.step()
    states = {name: {key: int(v) if key == "step" else v.clone() for key, v in optimizer.state[p].items()}
              for name, p in model.named_parameters()}
    return model, optimizer, states


@pytest.mark.parametrize(("kind", "options"), [
    ("SGD", {"lr": 0.1, "momentum": 0.9}), ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "dampening": 0}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "dampening": 0.4, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "amsgrad": True}), ("AdamW", {"lr": 0.05}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.9, "centered": True}), ("Adamax", {"lr": 0.05}), ("RAdam", {"lr": 0.05}),
    ("Adagrad", {"lr": 0.1}), ("Adadelta", {"eps": 1e-3}),
], ids=lambda v: v if isinstance(v, str) else "-".join(v))
def test_momentum_from_before_the_recording_has_a_channel(kind, options):
    model, optimizer, states = warmed(kind, **options)
    d = assert_exact(*train(model, *points(), optimizer), momentum=states)
    assert bool(d.channels["momentum"].any()) == (kind not in ("Adagrad", "Adadelta"))


def test_nadam_carries_its_product_over_from_before_the_recording():
    model, optimizer, states = warmed("NAdam", lr=0.05)
    states = {name: {**s, "mu_product": float(s["mu_product"])} for name, s in states.items()}
    d = assert_exact(*train(model, *points(), optimizer), momentum=states)
    assert d.channels["momentum"].any()


def test_momentum_from_before_counts_from_the_first_step_that_uses_it():
    model, optimizer, states = warmed("Adam", lr=0.05)

    def forget(k):
        if k < 3:
            model[0].weight.grad = None

    d = assert_exact(*train(model, *points(), optimizer, before_step=forget), momentum=states)
    assert d.channels["momentum"].any()


def test_blocks_of_plain_steps_add_up():
    run, _ = train(model := network(), *points(), torch.optim.SGD(model.parameters(), lr=0.2, weight_decay=0.1))
    whole = ks.decompose(run, queries())
    for cut in (0, 1, 4, 8):
        parts = [ks.decompose(part, queries()) for part in (run[:cut], run[cut:])]
        assert torch.equal(parts[0].final, parts[1].initial)
        assert torch.allclose(sum(p.contributions for p in parts), whole.contributions, rtol=1e-12, atol=1e-15)
        assert torch.allclose(sum(p.channels["decay"] for p in parts), whole.channels["decay"], rtol=1e-12, atol=1e-15)
        assert torch.allclose(torch.cat([p.steps for p in parts], -1), whole.steps, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_what_momentum_carries_over_a_cut_is_the_later_blocks_momentum(kind):
    model = network()
    optimizer = momentum_sgd(model) if kind == "SGD" else torch.optim.Adam(model.parameters(), lr=0.05)
    run, _ = train(model, *points(), optimizer)
    whole = ks.decompose(run, queries())
    early, late = ks.decompose(run[:5], queries()), ks.decompose(run[5:], queries())
    assert complete(early) <= 1e-12
    assert complete(late) <= 1e-12
    # Later samples do not know of the cut.
    assert torch.allclose(late.steps, whole.steps[..., 5:], rtol=1e-10, atol=1e-13)
    # What the earlier ones still do after it is the momentum that the later block starts with.
    carried = whole.contributions - early.contributions - late.contributions
    assert float(carried.sum(-1).abs().max()) > 1e-3
    assert relative(late.channels["momentum"], carried.sum(-1)) <= 1e-10


def test_a_slice_of_a_slice_is_a_slice():
    run, _ = train(model := network(), *points(), momentum_sgd(model))
    a, b = ks.decompose(run[2:7][1:4], queries()), ks.decompose(run[3:6], queries())
    assert torch.equal(a.contributions, b.contributions)
    assert torch.equal(a.channels["momentum"], b.channels["momentum"])


# -- averaged weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize("how", ["ema", "swa"])
def test_averaged_weights_are_explained_by_the_recursion_of_the_average(how, kind):
    model = network()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.7)) if how == "ema" else AveragedModel(model)
    optimizer = (momentum_sgd(model, weight_decay=0.1) if kind == "SGD" else
                 torch.optim.AdamW(model.parameters(), lr=0.05, weight_decay=0.1))
    # An averaged model takes over the first weights it is given.
    factors = [0.0] + ([0.7] * 7 if how == "ema" else [k / (k + 1) for k in range(1, 8)])
    update = lambda k: average.update_parameters(model)
    run, notes = train(model, *points(), optimizer, average=average, after_step=update)
    notes.average_start, notes.averages = notes.entries[0].theta, factors
    d = ks.decompose(run, queries(), weights="average")
    truth = explicit_shares(notes, queries())
    assert relative(d.contributions, truth.contributions) <= 1e-10
    assert relative(d.steps, truth.steps) <= 1e-10
    assert relative(d.channels["decay"], truth.decay) <= 1e-10
    assert float(d.channels["momentum"].abs().max()) <= 1e-14
    assert complete(d) <= 1e-12
    assert share_of(d, "rounding") <= 1e-11
    assert not d.channels["unattributed"].any()
    assert torch.allclose(d.final, average.module(queries()).detach(), rtol=1e-12)
    # The trained weights of the same run are explained as ever.
    trained = ks.decompose(run, queries())
    assert torch.allclose(trained.final, model(queries()).detach(), rtol=1e-12)
    assert complete(trained) <= 1e-12


@pytest.mark.parametrize(("other", "sentence"), [
    (lambda: network(hidden=5), r"its '0.weight' has the shape \(5, 3\) in place of \(4, 3\)"),
    (lambda: nn.Sequential(*network()[:2]), "it lacks '2.weight'"),
])
def test_an_average_of_another_network_is_refused_before_the_loop(other, sentence):
    with pytest.raises(RecordingError, match=sentence):
        ks.record(network(), points(), loss=F.mse_loss, average=other())


def test_an_average_that_began_elsewhere_books_its_start_as_momentum():
    model, average = network(), network()
    held = {name: p.detach().clone() for name, p in average.named_parameters()}

    def update(k):
        with torch.no_grad():
            for p, q in zip(average.parameters(), model.parameters(), strict=True):
                p.mul_(0.8).add_(q, alpha=0.2)

    run, notes = train(model, *points(), momentum_sgd(model), average=average, after_step=update)
    notes.average_start, notes.averages = held, [0.8] * 8
    d = ks.decompose(run, queries(), weights="average")
    truth = assert_the_explicit_shares(d, notes, queries())
    assert float(truth.momentum.abs().max()) > 1e-2
    assert complete(d) <= 1e-12


# -- what the rule does not explain ------------------------------------------------------------------------------------


def test_weights_edited_by_hand_are_unattributed_by_the_effect_of_the_edit():
    model = network()
    x = queries()
    effects = []

    def edit(k):
        if k == 3:
            before = model(x).detach()
            with torch.no_grad():
                model[0].weight.add_(0.3)
            effects.append(model(x).detach() - before)

    # A step of length nought before the edit leaves the edit alone in its step.
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: 0.0 if k == 3 else 1.0)
    run, _ = train(model, *points(), optimizer, scheduler=scheduler, after_step=edit)
    d = ks.decompose(run, x)
    assert complete(d) <= 1e-12
    assert relative(d.channels["unattributed"], effects[0]) <= 1e-12
    assert any("1 of 8 steps" in note for note in d.info["notes"])


def test_an_edit_after_a_step_leaves_the_shares_of_the_samples_as_they_are():
    model = network()

    def edit(k):
        if k in (2, 5):
            with torch.no_grad():
                model[2].bias.mul_(1.5)

    run, notes = train(model, *points(), momentum_sgd(model), after_step=edit)
    d = ks.decompose(run, queries())
    truth = assert_the_explicit_shares(d, notes, queries())
    assert relative(d.channels["unattributed"], truth.unexplained) <= 1e-10
    assert complete(d) <= 1e-12


@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_noise_in_the_gradients_is_unattributed_and_the_ledger_still_closes(kind):
    model = network()
    optimizer = momentum_sgd(model) if kind == "SGD" else torch.optim.Adam(model.parameters(), lr=0.05)

    def disturb(k):
        for p in model.parameters():
            p.grad.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(k), dtype=p.dtype))

    with pytest.warns(UserWarning, match="first step the gradient differs"):
        run, notes = train(model, *points(), optimizer, before_step=disturb)
    d = ks.decompose(run, queries())
    assert complete(d) <= 1e-12
    assert share_of(d, "unattributed") > 1e-3
    truth = assert_the_explicit_shares(d, notes, queries())
    assert relative(d.channels["unattributed"] + d.channels["rounding"], truth.unexplained) <= 1e-10


def test_a_loss_that_was_not_told_is_warned_of_and_unattributed():
    x, y = points()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as heard, ks.record(model, (x, y), loss=F.l1_loss) as recording:
        warnings.simplefilter("always")
        for _ in range(4):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    assert any("first step the gradient differs" in str(w.message) for w in heard)
    d = ks.decompose(recording.run, queries())
    assert complete(d) <= 1e-12
    assert share_of(d, "unattributed") > 1e-2


def test_a_penalty_in_the_loss_that_was_not_told_is_unattributed():
    x, y = points()
    model = network()
    optimizer = momentum_sgd(model)
    notes = Diary(model, x, y, F.mse_loss)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for ids in batches(6, 4):
            notes.forward(ids, 1 / 4)
            recording.batch(ids)
            optimizer.zero_grad()
            penalty = sum((p**2).sum() for p in model.parameters())
            (F.mse_loss(model(x[ids]), y[ids]) + 1e-3 * penalty).backward()
            notes.step(optimizer)
            optimizer.step()
    notes.close()
    d = ks.decompose(recording.run, queries())
    truth = assert_the_explicit_shares(d, notes, queries())
    assert complete(d) <= 1e-12
    assert relative(d.channels["unattributed"], truth.unexplained) <= 1e-10


def lbfgs_run(**options):
    x, y = points()
    model = network()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)

    def closure():
        optimizer.zero_grad()
        value = F.mse_loss(model(x), y)
        value.backward()
        return value

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with ks.record(model, (x, y), loss=F.mse_loss) as recording:
            for _ in range(4):
                optimizer.step(closure)
    return recording.run


def test_lbfgs_is_refused_by_name():
    run = lbfgs_run()
    with pytest.raises(ks.errors.RuleError, match="LBFGS"):
        ks.decompose(run, queries())


def test_the_steps_of_lbfgs_are_unattributed_if_asked():
    d = ks.decompose(lbfgs_run(), queries(), rule="displacement")
    assert complete(d) <= 1e-12
    assert not d.contributions.any()
    assert relative(d.channels["unattributed"], d.final - d.initial) <= 1e-12


def test_a_step_may_take_its_gradient_from_a_closure():
    x, y = points()
    model = network()
    optimizer = momentum_sgd(model)
    notes = Diary(model, x, y, F.mse_loss)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for ids in batches(5, 3):
            def closure(ids=ids):
                optimizer.zero_grad()
                recording.batch(ids)
                value = F.mse_loss(model(x[ids]), y[ids])
                value.backward()
                notes.forward(ids, 1 / 3)
                notes.step(optimizer)
                return value

            optimizer.step(closure)
    notes.close()
    assert_exact(recording.run, notes)


# -- storing less ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "NAdam", "RMSprop"])
def test_a_run_that_keeps_some_steps_replays_the_others_bit_for_bit(kind):
    """T24."""
    def once(keep):
        torch.manual_seed(5)
        model = network()
        options = {"momentum": 0.9} if kind in ("SGD", "RMSprop") else {}
        optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.02, weight_decay=0.01, **options)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        return train(model, *points(), optimizer, steps=11, scheduler=scheduler, diary=False, keep=keep)[0]

    whole, some = once("all"), once(4)
    assert some.row(2) is None
    for a, b in zip(whole.trajectory(0, 11), some.trajectory(0, 11), strict=True):
        assert torch.equal(a, b)
    a, b = ks.decompose(whole, queries()), ks.decompose(some, queries())
    assert torch.equal(a.contributions, b.contributions)


@pytest.mark.parametrize("keep", [3, 4])
def test_two_optimizers_and_a_second_phase_are_replayed_bit_for_bit(keep):
    def once(keep):
        torch.manual_seed(5)
        x, y = points()
        model = network()
        with ks.record(model, (x, y), loss=F.mse_loss, keep=keep) as recording:
            for lr in (0.1, 0.05):
                optimizers = [momentum_sgd(model[0], lr=lr), torch.optim.AdamW(model[2].parameters(), lr=lr)]
                for ids in batches(3, 3):
                    recording.batch(ids)
                    model.zero_grad()
                    F.mse_loss(model(x[ids]), y[ids]).backward()
                    for optimizer in optimizers:
                        optimizer.step()
        return recording.run

    whole, some = once("all"), once(keep)
    assert [some.row(k) is None for k in range(12)] == [k % keep != 0 for k in range(12)]
    for a, b in zip(whole.trajectory(0, 12), some.trajectory(0, 12), strict=True):
        assert torch.equal(a, b)
    a, b = ks.decompose(whole, queries()), ks.decompose(some, queries())
    assert torch.equal(a.contributions, b.contributions)
    assert not a.channels["unattributed"].any()


def test_a_saved_run_gives_the_same_ledger(tmp_path):
    model = network()
    run, _ = train(model, *points(), torch.optim.Adam(model.parameters(), lr=0.05), out=tmp_path / "run", diary=False)
    other = ks.load(tmp_path / "run", model=copy.deepcopy(model))
    a, b = ks.decompose(run, queries()), ks.decompose(other, queries())
    assert torch.equal(a.contributions, b.contributions)
    assert torch.equal(a.final, b.final)


def test_pieces_of_the_diary_make_up_each_step():
    model = network()
    _, notes = train(model, *points(), momentum_sgd(model, weight_decay=0.1))
    points_ = [entry.theta for entry in notes.entries] + [notes.last]
    for k, pieces in enumerate(displacements(notes)):
        for name, piece in pieces.items():
            assert torch.allclose(piece.total(), points_[k + 1][name] - points_[k][name], rtol=1e-10, atol=1e-14)
