"""Activation checkpointing saves memory while training, and the ledger is that of the network without it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import checkpoint
from torch.utils.checkpoint import checkpoint as imported

import kernelscope as ks
from kernelscope.checkpointing import STAND_INS, without_checkpoints
from tests.recordings import complete, points, queries, relative, train


class Checkpointed(nn.Module):
    """``how`` is ``None`` for no checkpoint, or ``use_reentrant``."""

    def __init__(self, how, dropout=0.0):
        super().__init__()
        self.how = how
        self.first, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
        self.inner = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Dropout(dropout), nn.Linear(5, 4))

    def forward(self, x):
        h = torch.tanh(self.first(x))
        inner = self.inner(h) if self.how is None else imported(self.inner, h, use_reentrant=self.how)
        return self.head(inner + h)


def trained(how, dropout=0.0, **options):
    torch.manual_seed(3)
    x, y = points()
    model = Checkpointed(how, dropout).double()
    return train(model, x, y, torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9), diary=False, **options)[0]


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("reentrant", [False, True])
def test_shares_through_a_checkpoint_are_those_without_it(reentrant, dropout):
    x = queries()
    plain, run = trained(None, dropout), trained(reentrant, dropout)
    assert torch.equal(plain.trajectory(8, 8)[0], run.trajectory(8, 8)[0])
    truth, d = ks.decompose(plain, x), ks.decompose(run, x)
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()
    assert relative(d.contributions, truth.contributions) <= 1e-12
    # The part that is checkpointed is an ordinary one, so it is read in the same way.
    assert d.info["engine"] == truth.info["engine"]


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_replay_through_a_checkpoint_gives_the_same_bits(reentrant):
    run, thin = trained(reentrant, 0.4), trained(reentrant, 0.4, keep=3)
    assert all(torch.equal(a, b) for a, b in zip(run.trajectory(0, 8), thin.trajectory(0, 8), strict=True))


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_whole_network_may_be_checkpointed_by_the_loop(reentrant):
    x, y = points()
    model = Checkpointed(None, 0.4).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for k in range(6):
            ids = torch.tensor([k, (k + 2) % 8, (k + 5) % 8])
            recording.batch(ids)
            optimizer.zero_grad()
            outputs = checkpoint.checkpoint(model, x[ids].requires_grad_(), use_reentrant=reentrant)
            F.mse_loss(outputs, y[ids]).backward()
            optimizer.step()
    assert [len(step.batches) for step in recording.run] == [1] * 6
    d = ks.decompose(recording.run, queries())
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()


def test_checkpointing_is_as_it_was_after_a_look_and_after_an_error():
    before = {name: getattr(checkpoint, name) for name in STAND_INS}
    assert len(before) == 2
    with without_checkpoints():
        assert all(getattr(checkpoint, name) is not held for name, held in before.items())
    with pytest.raises(ZeroDivisionError), without_checkpoints():
        1 / 0  # noqa: B018
    ks.decompose(trained(False), queries())
    assert all(getattr(checkpoint, name) is held for name, held in before.items())
