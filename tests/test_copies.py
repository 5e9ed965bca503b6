"""What a loop copies, saves or sends elsewhere while it is recorded is its own: nobody listens to it."""

import copy
import io
import pickle
import subprocess
import sys
import warnings
from multiprocessing.reduction import ForkingPickler

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope.architecture import describe
from kernelscope.network import hooked_modules
from kernelscope.run.autorecord import AutoRecording
from tests.recordings import complete, network, points

#: Reads a checkpoint where this package cannot be imported, hooks it where hooks are counted from the number that each
#: of those in the checkpoint has, and says what the module gives.
ELSEWHERE = """
import sys
sys.modules["kernelscope"] = None
import torch
from torch.utils.hooks import RemovableHandle
model = torch.load(sys.argv[1], weights_only=False)
for number in [*model._forward_pre_hooks, *model._forward_hooks]:
    RemovableHandle.next_id = max(number, 0)
    model.register_forward_pre_hook(lambda module, args: None)
    RemovableHandle.next_id = max(number, 0)
    model.register_forward_hook(lambda module, args, outputs: None)
print(model(torch.ones(1, 3, dtype=torch.float64)).sum().item())
"""


def unpickled(value):
    return pickle.loads(pickle.dumps(value))


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)


def sent(value):
    return ForkingPickler.loads(bytes(ForkingPickler.dumps(value)))


def recorded(each=lambda model, loader, optimizer: None, **options):
    """Trains, with something done after each step; returns the run and the trained model."""
    torch.manual_seed(0)
    model, (x, y) = network(), points()
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with ks.record(model, loader, loss=F.mse_loss, **options) as recording:
        for a, b in loader:
            optimizer.zero_grad()
            F.mse_loss(model(a), b).backward()
            optimizer.step()
            each(model, loader, optimizer)
    return recording.run, model


@pytest.mark.parametrize("copied", [copy.deepcopy, unpickled, saved, sent])
def test_a_copy_of_the_model_is_not_heard(copied):
    copies = []

    def stray(model, loader, optimizer):
        copies.append(copied(model))
        # Rows of another number would end the recording, and others would be booked as unattributed.
        F.mse_loss(copies[-1](torch.ones(2, 3, dtype=torch.float64)), torch.zeros(2, 2, dtype=torch.float64)).backward()

    run, model = recorded(stray)
    plain, _ = recorded()
    x = points()[0][:2]
    d, truth = ks.decompose(run, x), ks.decompose(plain, x)
    assert torch.equal(d.contributions, truth.contributions)
    assert not d.channels["unattributed"].any()
    assert complete(d) <= 1e-12
    best = copies[-1]
    assert torch.equal(best(x), model(x))
    # After the block both are plain modules, and so are their copies.
    for kept in (model, best):
        assert not hooked_modules(kept)
        assert describe(kept) is not None
        assert torch.equal(saved(copy.deepcopy(kept))(x), model(x))
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not model._forward_hooks_with_kwargs
    assert not model._forward_pre_hooks_with_kwargs


def test_a_copy_is_recorded_like_any_model():
    copies = []
    run, _ = recorded(lambda model, loader, optimizer: copies.append(copy.deepcopy(model)))
    best, (x, y) = copies[0], points()
    optimizer = torch.optim.SGD(best.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ks.record(best, (x, y), loss=F.mse_loss) as recording:
            F.mse_loss(best(x), y).backward()
            optimizer.step()
    d = ks.decompose(recording.run, x[:2])
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()
    assert recording.run.meta["architecture"] == run.meta["architecture"] is not None


def test_a_hook_of_the_users_own_stays_on_the_copies():
    heard, copies = [], []
    model = network()
    model.register_forward_hook(lambda module, args, outputs: heard.append(module))
    x, y = points()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.mse_loss):
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        copies.append(copy.deepcopy(model))
    copies[0](x)
    assert heard[-1] is copies[0]
    assert [module for _, module in hooked_modules(copies[0])] == [copies[0]]


def test_a_checkpoint_is_read_where_this_package_is_not(tmp_path):
    path = tmp_path / "model.pt"
    _, model = recorded(lambda model, loader, optimizer: torch.save(model, path))
    found = subprocess.run([sys.executable, "-c", ELSEWHERE, str(path)], capture_output=True, text=True, cwd=tmp_path)
    assert not found.stderr
    assert float(found.stdout) == pytest.approx(model(torch.ones(1, 3, dtype=torch.float64)).sum().item(), rel=1e-12)


def test_a_state_dictionary_holds_what_it_holds_without_a_recording():
    states = []
    recorded(lambda model, loader, optimizer: states.append(saved(model.state_dict())))
    assert list(states[-1]) == list(network().state_dict())


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, unpickled, saved])
def test_a_copy_of_the_loader_is_a_loader(copied):
    copies = []

    def take(model, loader, optimizer):
        copies.append((copied(loader), copied(optimizer), copied(nn.MSELoss()), copied(F.mse_loss)))
        # What it gives is not the batch of the loop.
        assert len(next(iter(copies[-1][0]))[0]) == 4

    run, _ = recorded(take)
    plain, _ = recorded()
    assert len(run) == len(plain)
    for loader, optimizer, _, loss in copies:
        assert type(loader) is DataLoader
        assert type(optimizer) is torch.optim.SGD
        assert loss is F.mse_loss
        assert [len(b[0]) for b in loader]
    assert torch.equal(run.row(run.stop), plain.row(plain.stop))


def test_a_script_may_save_its_model_where_it_is_recorded_by_itself():
    torch.manual_seed(0)
    model, (x, y), copies = network(), points(), []
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with AutoRecording() as recording:
        for a, b in loader:
            optimizer.zero_grad()
            F.mse_loss(model(a), b).backward()
            optimizer.step()
            copies.append(saved(model))
        copies.append((saved(loader), saved(optimizer), copy.deepcopy(model)))
    assert complete(ks.decompose(recording.run, x[:2])) <= 1e-12
    assert torch.equal(copies[-1][2](x), model(x))
