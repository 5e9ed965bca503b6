"""States that no recorded step left, and gradients that are kept at nought: the ledger still says who moved what."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from tests.oracles import Diary, Pieces
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

OPTIMIZERS = {"SGD": {"lr": 0.1, "momentum": 0.9}, "Adam": {"lr": 0.05}, "NAdam": {"lr": 0.05},
              "RMSprop": {"lr": 0.02}, "Adagrad": {"lr": 0.1}}


def assert_exact(run, notes, momentum=None):
    d = ks.decompose(run, queries())
    assert_the_explicit_shares(d, notes, queries(), momentum=momentum)
    assert complete(d) <= 1e-12
    assert share_of(d, "rounding") <= 1e-12
    assert not d.channels["unattributed"].any()
    return d


def trained(kind, at, change, **options):
    """A run in which the optimizer's states are changed before step ``at``; for the oracle it is then another one."""
    torch.manual_seed(0)
    model = network()
    optimizer = getattr(torch.optim, kind)(model.parameters(), **OPTIMIZERS[kind])
    run, notes = train(model, *points(), optimizer, before_step=lambda k: change(model, optimizer, k), **options)
    for entry in notes.entries[at:]:
        entry.owner = "another"
    return run, notes


def forget_at(at, *names):
    def change(model, optimizer, k):
        if k == at:
            for name in names or dict(model.named_parameters()):
                optimizer.state.pop(model.get_parameter(name), None)
    return change


@pytest.mark.parametrize("keep", ["all", 3])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_states_that_were_cleared_count_no_longer(kind, keep):
    run, notes = trained(kind, 4, forget_at(4), keep=keep)
    assert [step.owner for step in run] == [0] * 4 + [4] * 4
    d = assert_exact(run, notes)
    assert not d.channels["momentum"].any()
    assert d.info["notes"] == []


WAYS = {
    "clear": lambda optimizer: optimizer.state.clear(),
    "load": lambda optimizer: optimizer.load_state_dict({**optimizer.state_dict(), "state": {}}),
    "zero": lambda optimizer: [s["momentum_buffer"].zero_() for s in optimizer.state.values()],
    "pop": lambda optimizer: [s.pop("momentum_buffer") for s in optimizer.state.values()],
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_every_way_to_clear_a_momentum_is_seen(way):
    run, notes = trained("SGD", 4, lambda model, optimizer, k: way(optimizer) if k == 4 else None)
    assert_exact(run, notes)


def test_one_parameter_may_lose_its_state_and_the_others_go_on():
    run, _ = trained("Adam", 8, forget_at(4, "0.weight"))
    d = ks.decompose(run, queries())
    assert complete(d) <= 1e-12
    assert share_of(d, "rounding") <= 1e-12
    assert not d.channels["unattributed"].any()
    # What the others carried over the cut is that of the samples still.
    assert not d.channels["momentum"].any()


def plain(key, value):
    return int(value) if key == "step" else float(value) if value.ndim == 0 else value.clone()


# Loading makes NAdam's product of momenta a float64, and the oracle keeps it as a float32.
@pytest.mark.parametrize("keep", ["all", 3])
@pytest.mark.parametrize("kind", sorted({*OPTIMIZERS} - {"NAdam"}))
def test_states_that_were_restored_bring_their_momentum(kind, keep):
    held = {}

    def change(model, optimizer, k):
        if k == 2:
            held["dict"] = copy.deepcopy(optimizer.state_dict())
            held["states"] = {name: {key: plain(key, v) for key, v in optimizer.state[p].items()}
                              for name, p in model.named_parameters()}
        if k == 5:
            optimizer.load_state_dict(held["dict"])

    run, notes = trained(kind, 5, change, keep=keep)
    whole = ks.decompose(run, queries())
    assert complete(whole) <= 1e-12
    assert share_of(whole, "rounding") <= 1e-12
    assert not whole.channels["unattributed"].any()
    brings = kind in ("SGD", "Adam")
    assert bool(whole.channels["momentum"].any()) == brings
    assert any("restored states at step 5;" in note for note in whole.info["notes"]) == brings
    assert_exact(run[5:], cut(notes, 5), momentum=held["states"])


def cut(notes, start):
    """The diary of the steps from ``start`` on, as if they were all."""
    notes.entries = notes.entries[start:]
    for k, entry in enumerate(notes.entries):
        entry.gradient = {name: Pieces({("data", i, k): piece for (_, i, _), piece in pieces.items()})
                          for name, pieces in entry.gradient.items()}
    return notes


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_states_that_were_loaded_as_they_were_change_nothing(kind):
    def reload(model, optimizer, k):
        if k == 4:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))

    truth = ks.decompose(trained(kind, 8, lambda *_: None)[0], queries())
    d = ks.decompose(trained(kind, 8, reload)[0], queries())
    assert relative(d.contributions, truth.contributions) <= 1e-10
    assert not d.channels["momentum"].any()
    assert not d.channels["unattributed"].any()


def test_a_look_at_states_that_are_not_there_is_no_new_beginning():
    def look(model, optimizer, k):
        assert all(isinstance(optimizer.state[p], dict) for p in model.parameters())

    run, notes = trained("SGD", 8, look)
    assert {step.owner for step in run} == {0}
    assert_exact(run, notes)


# -- gradients that are kept at nought ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cuts", [1, 2])
@pytest.mark.parametrize("norm", [None, 0.05])
@pytest.mark.parametrize("keep", ["all", 3])
@pytest.mark.parametrize(("kind", "options"), [("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
                                               ("Adam", {"lr": 0.05}), ("RMSprop", {"lr": 0.01, "momentum": 0.9})])
def test_a_frozen_parameter_whose_gradient_is_cleared_to_nought_runs_on_with_its_momentum(kind, options, keep, norm,
                                                                                          cuts):
    x, y = points()
    model = network()
    optimizer = getattr(torch.optim, kind)(model.parameters(), **options)
    notes = Diary(model, x, y, F.mse_loss)
    with ks.record(model, (x, y), loss=F.mse_loss, keep=keep) as recording:
        for k, ids in enumerate(batches(8, 4)):
            model[0].weight.requires_grad_(k < 3)
            optimizer.zero_grad(set_to_none=False)
            for part in ids.chunk(cuts):
                notes.forward(part, 1 / len(ids))
                recording.batch(part)
                (F.mse_loss(model(x[part]), y[part]) * len(part) / len(ids)).backward()
            if k >= 3:
                notes.passes = [(i, w, [0 * g[0], *g[1:]]) for i, w, g in notes.passes]
            if norm is not None:
                nn.utils.clip_grad_norm_(model.parameters(), norm)
            notes.step(optimizer, norm)
            optimizer.step()
    notes.close()
    assert notes.names[0] == "0.weight"
    assert_exact(recording.run, notes)


def test_a_step_whose_whole_gradient_is_nought_moves_by_momentum():
    x, y = points()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    notes = Diary(model, x, y, F.mse_loss)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for k, ids in enumerate(batches(6, 3)):
            recording.batch(ids)
            optimizer.zero_grad(set_to_none=False)
            if k != 3:
                notes.forward(ids, 1 / 3)
                F.mse_loss(model(x[ids]), y[ids]).backward()
            notes.step(optimizer)
            optimizer.step()
    notes.close()
    assert_exact(recording.run, notes)
