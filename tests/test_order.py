"""A share belongs to the sample of its id, or there is no recording: what changes the order of samples is found."""

import random

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, default_collate

import kernelscope as ks
from kernelscope.errors import ModelError, RecordingError
from kernelscope.run.autorecord import AutoRecording
from kernelscope.run.order import moved_row


def stacked(samples):
    return torch.stack([x for x, _ in samples]), torch.stack([y for _, y in samples])


def backwards(samples):
    return stacked(samples[::-1])


def backwards_in_place(samples):
    samples.reverse()
    return stacked(samples)


def by_size(samples):
    return stacked(sorted(samples, key=lambda sample: -float(sample[0].sum())))


def shuffled(samples):
    return stacked([samples[i] for i in torch.randperm(len(samples))])


def without_the_first(samples):
    return stacked([*samples[1:], samples[-1]])


def named(samples):
    return {"x": stacked(samples[::-1])[0], "more": [stacked(samples[::-1])[1]]}


def noisy(samples):
    x, y = stacked(samples)
    return x + numpy.random.standard_normal() + torch.randn(()) + random.random(), y  # noqa: NPY002


def mixed(samples):
    x, y = stacked(samples)
    weight, other = random.betavariate(0.2, 0.2), torch.randperm(len(x))
    return weight * x + (1 - weight) * x[other], y


def swapped_once(samples):
    # As mixing does whose weight came out as 0.
    return backwards(samples) if random.random() < 0.05 else stacked(samples)


def sometimes_flipped(samples):
    x, y = stacked(samples)
    return torch.where(torch.rand(len(x), 1) < 0.3, x.flip(1), x), y


def in_pairs(samples):
    x, y = stacked(samples)
    return x.reshape(-1, 2, 3), y


def only_whole_batches(samples):
    assert len(samples) == 4
    return backwards(samples)


REORDERING = [backwards, backwards_in_place, by_size, shuffled, without_the_first, named]
KEEPING = [stacked, default_collate, noisy, mixed, swapped_once, sometimes_flipped, in_pairs]


def points():
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.randn(12, 3, generator=generator), torch.arange(12) % 3)


def train(model, loader, draws=None):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in loader:
        x, y = batch if isinstance(batch, list | tuple) else (batch["x"], batch["more"][0])
        optimizer.zero_grad()
        F.cross_entropy(model(x.reshape(-1, 3)), y).backward()
        optimizer.step()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("collate", REORDERING)
def test_a_collate_fn_that_changes_the_order_is_refused(collate, workers):
    loader = DataLoader(points(), batch_size=4, shuffle=True, collate_fn=collate, num_workers=workers)
    split = lambda batch: (batch["x"], batch["more"][0]) if isinstance(batch, dict) else (batch[0], batch[1])
    with pytest.raises(RecordingError, match=r"collate_fn changes the order of samples.*ids="), ks.record(
            nn.Linear(3, 3), loader, loss=F.cross_entropy, batch=split):
        train(nn.Linear(3, 3), loader)
    assert loader.collate_fn is collate


@pytest.mark.parametrize("collate", KEEPING)
def test_what_chance_does_to_rows_is_no_other_order(collate):
    samples = [points()[i] for i in range(12)]
    for seed in range(20):
        torch.manual_seed(seed)
        random.seed(seed)
        assert moved_row(collate, samples) is None


def padded(samples):
    return nn.utils.rnn.pad_sequence([x for x, _ in samples], batch_first=True), torch.stack([y for _, y in samples])


def test_padded_rows_are_known_by_what_is_not_padding():
    samples = [(torch.randn(n, 2), torch.tensor(n % 2)) for n in (3, 5, 2, 5)]
    assert moved_row(padded, samples) is None
    assert moved_row(lambda s: padded(sorted(s, key=lambda sample: -len(sample[0]))), samples) == (0, 1)


def test_a_batch_that_cannot_be_looked_at_is_left_alone():
    assert moved_row(only_whole_batches, [points()[i] for i in range(4)]) is None
    assert moved_row(backwards, [points()[0], None]) is None
    assert moved_row(backwards, [points()[0]]) is None


class Counting:
    """A collate_fn with a memory and generators of its own."""

    def __init__(self):
        self.calls, self.torch, self.numpy = 0, torch.Generator().manual_seed(0), numpy.random.default_rng(0)

    def __call__(self, samples):
        self.calls += 1
        x, y = stacked(samples)
        x += torch.randn((), generator=self.torch) + self.numpy.standard_normal() + torch.rand(()) + random.random()
        return x + self.calls, y

    def method(self, samples):
        return self(samples)


@pytest.mark.parametrize("method", [False, True])
def test_looking_changes_no_batch_that_is_trained_on(method):
    batches = []
    for recorded in (False, True):
        torch.manual_seed(0)
        random.seed(0)
        collate = Counting()
        loader = DataLoader(points(), batch_size=4, shuffle=True, collate_fn=collate.method if method else collate)
        model = nn.Linear(3, 3)
        if recorded:
            with ks.record(model, loader, loss=F.cross_entropy) as recording:
                train(model, loader)
            assert len(recording.run) == 3
        else:
            train(model, loader)
        batches.append([*model.parameters(), torch.rand(1), torch.tensor(random.random()), torch.tensor(collate.calls)])
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))


def test_samples_of_a_large_data_set_are_looked_at_in_little_memory():
    table = torch.zeros(2**16, 2**12, dtype=torch.int8)
    most = []
    copied = lambda samples: most.append(max(x.untyped_storage().nbytes() for x in samples)) or torch.stack(samples)
    moved_row(copied, [table[i] for i in range(4)])
    assert most
    assert max(most) == 2**12


def test_a_script_is_refused_for_the_order_of_its_training_set_only():
    with AutoRecording() as recording:
        for x, y in DataLoader(points(), batch_size=4, collate_fn=by_size):
            assert len(x) == len(y)
        train(nn.Linear(3, 3), DataLoader(points(), batch_size=4))
    assert len(recording.run) == 3
    with pytest.raises(RecordingError, match="collate_fn changes the order"), AutoRecording():
        train(nn.Linear(3, 3), DataLoader(points(), batch_size=4, collate_fn=by_size))


class SequenceFirst(nn.Module):
    """A network of sequences whose second axis are the samples."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.GRU(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.inner(x)[0][-1])


class SamplesFirst(nn.Module):
    """The same network as it is recorded."""

    def __init__(self):
        super().__init__()
        self.inner = SequenceFirst()

    def forward(self, x):
        return self.inner(x.transpose(0, 1))


def recorded_sequences(model, form):
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(12, 4, 3, generator=generator), torch.arange(12) % 2
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, loader, loss=F.cross_entropy) as recording:
        for inputs, targets in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(form(inputs)), targets).backward()
            optimizer.step()
    return recording.run, x


@pytest.mark.parametrize("form", [
    lambda x: x.transpose(0, 1), lambda x: x.transpose(0, 1).contiguous(), lambda x: x.double().transpose(0, 1)])
def test_sequences_as_long_as_the_batch_are_not_taken_for_samples(form):
    model = SequenceFirst().to(form(torch.zeros(1, 1)).dtype)
    with pytest.raises(RecordingError, match="first two axes were exchanged.*wrap the network in a module"):
        recorded_sequences(model, form)
    run, x = recorded_sequences(SamplesFirst(), lambda x: x)
    assert ks.decompose(run, x[:4]).completeness() < 1e-12


def test_rows_that_are_no_samples_are_told_when_they_are_asked_about():
    run, x = recorded_sequences(SequenceFirst(), lambda x: (2 * x).transpose(0, 1))
    with pytest.raises(ModelError, match=r"gave 4 rows of outputs for 2 queries.*Samples must stand along the first"):
        ks.decompose(run, x[:4].transpose(0, 1))
