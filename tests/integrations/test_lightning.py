"""A Trainer of Lightning, recorded by a callback: what is recorded is what it did."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope.errors import RecordingError, StoreExists
from kernelscope.network import flatten

from .killed import assert_closed, assert_final, final, killed_and_resumed, start

L = pytest.importorskip("lightning.pytorch")

# Lightning warns of workers, of short epochs and of what its dependencies will rename.
pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
              pytest.mark.filterwarnings("ignore::DeprecationWarning"),
              pytest.mark.filterwarnings("ignore::FutureWarning")]


class Digits(L.LightningModule):
    def __init__(self, through=True):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 10))
        self.loss = nn.CrossEntropyLoss()
        self.through = through

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        x, y = batch
        return self.loss(self(x) if self.through else self.net(x), y)

    def validation_step(self, batch, _):
        self.log("loss", self.loss(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]


class OwnLoss(Digits):
    def training_step(self, batch, _):
        return (self(batch[0]) - F.one_hot(batch[1], 10)).square().mean()


@pytest.fixture(scope="module")
def data():
    digits = ks.data.digits("train")
    return TensorDataset(torch.as_tensor(digits.x).float().flatten(1)[:60], torch.as_tensor(digits.y)[:60])


def trained(callback, module, data, checked=None, **options):
    options = {"max_epochs": 2, **options}
    used = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                     enable_checkpointing=False, callbacks=[] if callback is None else [callback], **options)
    used.fit(module, DataLoader(data, batch_size=20, shuffle=True),
             None if checked is None else DataLoader(checked, batch_size=30))
    return used


def fitted(folder, data, module=None, options=None, **trainer):
    torch.manual_seed(0)
    module = module or Digits()
    callback = ks.integrations.LightningCallback(folder / "run", **(options or {}))
    return callback.run if trained(callback, module, data, **trainer) is None else callback.run, module


CASES = {
    "as it is": {},
    "several batches a step, clipped": {"accumulate_grad_batches": 2, "gradient_clip_val": 0.5},
    "clipped by value": {"gradient_clip_val": 0.02, "gradient_clip_algorithm": "value"},
    "some batches": {"limit_train_batches": 2},
    "in float64": {"precision": "64-true"},
}


@pytest.mark.parametrize("name", CASES)
def test_the_trainer_is_booked_to_the_last_digit(tmp_path, data, name):
    run, module = fitted(tmp_path, data, checked=data, **CASES[name])
    assert len(run) == {"several batches a step, clipped": 4, "some batches": 4}.get(name, 6)
    assert_final(run, module.state_dict())
    opened = ks.load(tmp_path / "run", model=Digits().to(next(module.parameters()).dtype))
    d = ks.decompose(opened, data.tensors[0][:2])
    assert_closed(d, 1e-15 if name == "in float64" else 1e-6)


def test_the_callback_changes_nothing_of_the_training(tmp_path, data):
    torch.manual_seed(0)
    module = Digits()
    other = copy.deepcopy(module)
    torch.manual_seed(1)
    trained(None, other, data)
    after = torch.rand(1)
    torch.manual_seed(1)
    trained(ks.integrations.LightningCallback(tmp_path / "run"), module, data)
    assert torch.equal(torch.rand(1), after)
    assert all(torch.equal(p, q) for p, q in zip(module.parameters(), other.parameters(), strict=True))
    assert not module._forward_hooks
    assert "__iter__" in DataLoader.__dict__
    assert DataLoader.__iter__.__module__.startswith("torch")


def test_what_is_found_and_what_is_named_give_the_same(tmp_path, data):
    found, _ = fitted(tmp_path / "found", data)
    named, _ = fitted(tmp_path / "named", data, options={"network": "net", "loss": F.cross_entropy})
    within, _ = fitted(tmp_path / "within", data, module=None, options={"network": lambda module: module.net})
    assert found.loss.name == named.loss.name == within.loss.name == "cross_entropy"
    assert torch.equal(found.row(len(found)), named.row(len(named)))
    # Plain layers are described by the folder itself.
    x = data.tensors[0][:2]
    d = ks.decompose(ks.load(tmp_path / "named" / "run"), x)
    assert torch.equal(d.contributions, ks.decompose(ks.load(tmp_path / "within" / "run"), x).contributions)
    torch.testing.assert_close(d.contributions, ks.decompose(found, x).contributions, atol=1e-13, rtol=1e-10)


def test_a_network_that_the_module_calls_is_found(tmp_path, data):
    torch.manual_seed(0)
    run, module = fitted(tmp_path, data, module=Digits(through=False))
    assert list(run.names) == [name for name, _ in module.net.named_parameters()]


def test_a_fast_run_leaves_no_folder(tmp_path, data):
    callback = ks.integrations.LightningCallback(tmp_path / "run")
    trained(callback, Digits(), data, fast_dev_run=2)
    assert len(callback.run) == 2
    assert not (tmp_path / "run").exists()


def test_weights_that_are_averaged_at_the_end_are_told_of(tmp_path, data, recwarn):
    torch.manual_seed(0)
    module, callback = Digits(), ks.integrations.LightningCallback(tmp_path / "run")
    averages = L.callbacks.StochasticWeightAveraging(swa_lrs=0.05, swa_epoch_start=1)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                        enable_checkpointing=False, callbacks=[callback, averages], max_epochs=3)
    trainer.fit(module, DataLoader(data, batch_size=20, shuffle=True))
    told = "StochasticWeightAveraging puts averaged weights into the module"
    assert any(told in str(warning.message) for warning in recwarn)
    assert len(callback.run) == 9
    used = flatten([p.detach() for p in module.parameters()], torch.float32)
    assert not torch.allclose(callback.run.row(9), used, atol=1e-6)


def test_a_run_that_is_there_is_not_said_to_be_resumable_by_a_word(tmp_path, data):
    fitted(tmp_path, data)
    with pytest.raises(StoreExists, match="Choose another folder, or pass overwrite=True"):
        fitted(tmp_path, data)


def test_a_loss_of_its_own_is_asked_for(tmp_path, data):
    with pytest.raises(RecordingError, match=r"(?s)no loss function.*LightningCallback\(out, network="):
        fitted(tmp_path, data, module=OwnLoss())
    torch.manual_seed(0)
    run, _ = fitted(tmp_path / "told", data, module=OwnLoss(), options={
        "loss": lambda outputs, y: (outputs - F.one_hot(y, 10)).square().mean(1)})
    assert_closed(ks.decompose(run, data.tensors[0][:2]), 1e-6)


def test_a_network_that_is_not_there_is_named(tmp_path, data):
    with pytest.raises(RecordingError, match=r"network='nets' must give .*The Digits has net"):
        fitted(tmp_path, data, options={"network": "nets"})


def test_an_error_in_the_loop_keeps_what_was_recorded(tmp_path, data):
    class Stops(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 4:
                raise ValueError("enough")

    callback = ks.integrations.LightningCallback(tmp_path / "run")
    trainer = L.Trainer(max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False,
                        enable_model_summary=False, enable_checkpointing=False, callbacks=[callback, Stops()])
    with pytest.raises(ValueError, match="enough"):
        trainer.fit(Digits(), DataLoader(data, batch_size=20))
    run = ks.load(tmp_path / "run", model=Digits())
    assert len(run) == 4
    assert not run.meta["complete"]


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
import lightning.pytorch as L
from torch.utils.data import DataLoader, Sampler, TensorDataset
import kernelscope as ks
sys.path.insert(0, {root!r})
from tests.integrations.test_lightning import Digits

folder, word = Path(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.manual_seed(0)
digits = ks.data.digits("train")
data = TensorDataset(torch.as_tensor(digits.x).float().flatten(1)[:200], torch.as_tensor(digits.y)[:200])

class Order(Sampler):
    # Lightning keeps no random state, so the order of an epoch follows from its number.
    epoch = 0
    def set_epoch(self, epoch):
        self.epoch = epoch
    def __iter__(self):
        return iter(torch.randperm(200, generator=torch.Generator().manual_seed(self.epoch)).tolist())
    def __len__(self):
        return 200

class Kill(L.Callback):
    def on_train_batch_end(self, trainer, *args):
        if word == "kill" and trainer.global_step == 27:
            os.kill(os.getpid(), signal.SIGKILL)

saved = L.callbacks.ModelCheckpoint(folder / "checkpoints", save_last=True, every_n_epochs=1,
                                    save_on_train_epoch_end=True)
trainer = L.Trainer(max_epochs=4, accelerator="cpu", logger=False, enable_progress_bar=False,
                    enable_model_summary=False, gradient_clip_val=0.5,
                    callbacks=[Kill(), saved, ks.integrations.LightningCallback(folder / "run")])
module = Digits()
trainer.fit(module, DataLoader(data, batch_size=20, sampler=Order()),
            ckpt_path=str(folder / "checkpoints" / "last.ckpt") if word == "resume" else None)
torch.save(module.state_dict(), folder / "final.pt")
"""


@pytest.mark.slow
def test_a_training_killed_and_resumed_is_the_training(tmp_path):
    from .killed import ROOT

    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(root=str(ROOT)))
    whole, parts = killed_and_resumed(script, tmp_path)
    assert 20 <= len(ks.load(parts, model=Digits())) < 40
    assert start(script, tmp_path / "parts", "resume") == 0
    run, other = (ks.load(folder, model=Digits()) for folder in (parts, whole))
    assert len(run) == len(other) == 40
    assert_final(run, final(tmp_path / "parts"))
    assert all(torch.equal(run.row(k), other.row(k)) for k in range(41))
    x = torch.as_tensor(ks.data.digits("test").x).float().flatten(1)[:3]
    d, e = ks.decompose(run, x), ks.decompose(other, x)
    assert_closed(d, 1e-6)
    torch.testing.assert_close(d.contributions, e.contributions, atol=1e-12, rtol=1e-9)
