"""Plain loops over what ``accelerate`` prepared: one batch is read ahead, and ids follow what the loop receives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope.errors import RecordingError

from .killed import assert_closed

accelerate = pytest.importorskip("accelerate")


@pytest.fixture(autouse=True)
def fresh():
    """Precision is a setting of the process, which other tests are not to inherit."""
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()
    yield
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def prepared(n=30, size=8, workers=0, **options):
    torch.manual_seed(0)
    accelerator = accelerate.Accelerator(cpu=True, **options)
    # Each input names its sample.
    x = torch.cat([torch.arange(n)[:, None] / n, torch.randn(n, 3)], 1)
    data = TensorDataset(x, torch.randint(0, 3, (n,)))
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(data, batch_size=size, shuffle=True, num_workers=workers)
    return accelerator, data, *accelerator.prepare(model, optimizer, loader)


def trained(accelerator, model, optimizer, loader, epochs=2, seen=None):
    for _ in range(epochs):
        for x, y in loader:
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(x), y))
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 0.5)
                optimizer.step()
                optimizer.zero_grad()
            if seen is not None:
                seen.append((x[:, 0] * len(loader.dataset)).round().long().tolist())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("passes", [1, 2])
def test_ids_are_those_of_what_the_loop_received(workers, passes):
    accelerator, data, model, optimizer, loader = prepared(workers=workers, gradient_accumulation_steps=passes)
    plain, seen = type(loader).__iter__, []
    with ks.record(model, loader, loss=F.cross_entropy) as recording:
        trained(accelerator, model, optimizer, loader, seen=seen)
    assert type(loader).__iter__ is plain
    run = recording.run
    assert [batch.columns.tolist() for step in run for batch in step.batches] == seen
    assert len(run) == 8 // passes
    assert torch.equal(torch.cat([p.detach().flatten() for p in model.parameters()]), run.row(len(run)))
    assert_closed(ks.decompose(run, data.tensors[0][:3]), 1e-6)


def test_a_copy_of_the_batches_is_paired_too():
    accelerator, data, model, optimizer, loader = prepared()
    # As on a GPU: what the loop receives lies elsewhere than what was read.
    inner, seen = loader.base_dataloader, []
    collate = inner.collate_fn
    with ks.record(model, loader, loss=F.cross_entropy) as recording:
        for x, y in loader:
            seen.append((x[:, 0] * len(data)).round().long().tolist())
            F.cross_entropy(model(x.clone()), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert inner.collate_fn is collate
    assert [step.batches[0].columns.tolist() for step in recording.run] == seen


def test_a_loop_that_skips_what_it_has_seen_is_recorded(tmp_path):
    accelerator, data, model, optimizer, loader = prepared()
    with ks.record(model, loader, loss=F.cross_entropy, out=tmp_path / "run"):
        trained(accelerator, model, optimizer, loader, epochs=1)
    seen = []
    with ks.record(model, loader, loss=F.cross_entropy, out=tmp_path / "run", resume=True) as recording:
        trained(accelerator, model, optimizer, accelerator.skip_first_batches(loader, 2), epochs=1, seen=seen)
    assert len(recording.run) == 6
    assert [step.batches[0].columns.tolist() for step in recording.run][4:] == seen
    assert_closed(ks.decompose(recording.run, data.tensors[0][:3]), 1e-6)


def test_reduced_precision_is_recorded_as_it_was(tmp_path):
    accelerator, data, model, optimizer, loader = prepared(mixed_precision="bf16")
    with ks.record(model, loader, loss=F.cross_entropy) as recording:
        trained(accelerator, model, optimizer, loader)
    run = recording.run
    assert {batch.autocast for step in run for batch in step.batches} == {"bfloat16"}
    # bfloat16 keeps 4e-3 of each number.
    assert_closed(ks.decompose(run, data.tensors[0][:3]), 1e-2)
    # The function that is explained is computed in the precision that is asked, whatever is built into the forward.
    with torch.no_grad():
        own = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()
        own.load_state_dict({name: p.double() for name, p in run.parameters(len(run)).items()})
        x = data.tensors[0][:3]
        torch.testing.assert_close(ks.decompose(run, x).final, own(x.double()), atol=1e-12, rtol=0)


def test_one_data_set_serves_one_recording():
    _, _, model, _, loader = prepared()
    with pytest.raises(RecordingError, match="listens to the loaders of this data set"):
        with ks.record(model, loader, loss=F.cross_entropy):
            ks.record(model, loader, loss=F.cross_entropy).__enter__()
