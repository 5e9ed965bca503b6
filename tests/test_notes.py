"""What a ledger says of steps that the rule does not explain: another gradient, or another hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from tests.recordings import batches, complete, network, points, queries, train

ANOTHER, BESIDE = "used another gradient than that of the recorded loss", "something beside the optimizer wrote"


def notes_of(run, **options):
    d = ks.decompose(run, queries(), **options)
    assert complete(d) <= 1e-12
    assert d.channels["unattributed"].any() == bool(d.info["notes"])
    return d.info["notes"]


def optimizer_of(kind, model):
    return getattr(torch.optim, kind)(model.parameters(), lr=0.05, **({"momentum": 0.9} if kind == "SGD" else {}))


def trained(kind, model=None, **options):
    model = network() if model is None else model
    optimizer = optimizer_of(kind, model)
    hooks = {key: (lambda k, hook=hook: hook(model, optimizer, k)) for key, hook in options.items()}
    return train(model, *points(), optimizer, diary=False, **hooks)[0]


def restore(model, optimizer, k):
    if k == 7:
        model.load_state_dict(network().state_dict())


def clamp(model, optimizer, k):
    for p in model.parameters():
        p.data.clamp_(-0.3, 0.3)


def scale_one(model, optimizer, k):
    if k == 2:
        model[0].weight.data.mul_(1.001)


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "Adagrad"])
@pytest.mark.parametrize(("edit", "steps", "first"), [(restore, 1, "7"), (clamp, 8, "0, 1, 2"), (scale_one, 1, "2")])
def test_weights_that_were_set_beside_the_optimizer_are_named(kind, edit, steps, first):
    (note,) = notes_of(trained(kind, after_step=edit))
    assert note.startswith(f"{steps} of 8 steps")
    assert BESIDE in note
    assert f"(first: {first}" in note


def test_states_that_were_edited_out_of_sight_are_named():
    def edit(model, optimizer, k):
        if k == 4:
            for state in optimizer.state.values():
                state["exp_avg_sq"].mul_(0.5)

    (note,) = notes_of(trained("AdamW", before_step=edit))
    assert BESIDE in note
    assert "the optimizer's states" in note


def another_loop(change, model=None, kind="SGD"):
    x, y = points()
    model = network() if model is None else model
    optimizer = optimizer_of(kind, model)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for k, ids in enumerate(batches(8, 4)):
            recording.batch(ids)
            optimizer.zero_grad()
            change(k, model, x[ids], y[ids]).backward()
            optimizer.step()
    return recording.run


def penalised(k, model, x, y):
    return F.mse_loss(model(x), y) + 1e-2 * sum(p.abs().sum() for p in model.parameters())


def other_rows(k, model, x, y):
    return F.mse_loss(model(x), y[[1, 0, *range(2, len(y))]])


def once(k, model, x, y):
    return penalised(k, model, x, y) if k == 3 else F.mse_loss(model(x), y)


@pytest.mark.filterwarnings("ignore:At the first step the gradient differs")
@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
@pytest.mark.parametrize(("change", "steps", "first"),
                         [(penalised, 8, "0, 1"), (other_rows, 8, "0, 1"), (once, 5, "3, 4")])
def test_a_gradient_of_another_loss_is_named_and_so_is_the_momentum_it_leaves(kind, change, steps, first):
    (note,) = notes_of(another_loop(change, kind=kind))
    assert note.startswith(f"{steps} of 8 steps")
    assert ANOTHER in note
    assert f"(first: {first}" in note


@pytest.mark.filterwarnings("ignore:At the first step the gradient differs")
@pytest.mark.parametrize("kind", ["SGD", "AdamW", "RMSprop", "Adagrad"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_loop_that_minimises_the_negative_of_the_loss_is_told_so(kind, dtype):
    model = network().to(dtype)
    x, y = (t.to(dtype) for t in points())
    optimizer = optimizer_of(kind, model)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for ids in batches(8, 4):
            recording.batch(ids)
            optimizer.zero_grad()
            (-F.mse_loss(model(x[ids]), y[ids])).backward()
            optimizer.step()
    (note,) = ks.decompose(recording.run, queries(dtype=dtype)).info["notes"]
    assert note.startswith("8 of 8 steps went exactly the opposite way (first: 0, 1, 2")
    assert "minimised the negative of the recorded loss" in note


def test_a_step_that_was_taken_back_is_not_taken_for_a_negative_loss():
    before = []

    def take_back(model, optimizer, k):
        before.append([p.detach().clone() for p in model.parameters()])
        if k == 4:
            with torch.no_grad():
                for p, q in zip(model.parameters(), before[2], strict=True):
                    p.copy_(q)

    (note,) = notes_of(trained("SGD", after_step=take_back))
    assert BESIDE in note
    assert "had the norms of that of the recorded loss" in note


@pytest.mark.filterwarnings("ignore:At the first step the gradient differs")
def test_a_single_norm_which_any_gradient_has_up_to_a_factor_excuses_no_loss():
    run = another_loop(penalised, nn.Linear(3, 2, bias=False).double())
    (note,) = notes_of(run)
    assert ANOTHER in note


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_in_float64_a_penalty_too_small_to_see_is_no_rounding(kind):
    def slightly(k, model, x, y):
        return F.mse_loss(model(x), y) + 2e-11 * sum((p**2).sum() for p in model.parameters())

    run = another_loop(slightly, kind=kind)
    (note,) = notes_of(run)
    assert ANOTHER in note or BESIDE in note
    assert not ks.decompose(run, queries()).channels["rounding"].abs().max() > 1e-14


@pytest.mark.filterwarnings("ignore:At the first step the gradient differs")
def test_an_edit_before_a_strange_gradient_is_told_apart_from_it():
    def both(k, model, x, y):
        if k == 2:
            model[0].bias.data.add_(0.1)
        return penalised(k, model, x, y) if k == 5 else F.mse_loss(model(x), y)

    other, beside = notes_of(another_loop(both))
    assert other.startswith("3 of 8")
    assert beside.startswith("1 of 8")
    assert ANOTHER in other
    assert BESIDE in beside


def test_steps_that_were_not_to_be_explained_are_not_blamed_on_anything():
    run = trained("SGD")
    assert notes_of(run) == []
    assert notes_of(run, rule="displacement") == [
        'All 8 steps are booked as unattributed, as rule="displacement" asks.']
