"""Passes in reduced precision are recorded with that precision, and computed again in it."""

import json
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.errors import StoreCorrupt
from kernelscope.network import exact_arithmetic
from kernelscope.run.autorecord import AutoRecording
from kernelscope.run.precision import current, reduced
from kernelscope.run.segments import decode, encode
from tests.recordings import complete, share_of

CPU = torch.device("cpu")


class Twice(nn.Module):
    """A layer used twice: autocast casts its weight once, which changes the bits of its gradient."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.2)

    def forward(self, x):
        h = torch.tanh(self.middle(torch.tanh(self.first(x))))
        return self.last(self.drop(torch.tanh(self.middle(h))))


def train(keep="all", dtype="bfloat16", kind="Adam", every=1, out=None, steps=12):
    """A loop whose passes run in reduced precision, every so often."""
    torch.manual_seed(5)
    model, x, y = Twice(), torch.randn(20, 6), torch.randint(0, 3, (20,))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=5, shuffle=True)
    options = {"momentum": 0.9} if kind == "SGD" else {}
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.05, **options)
    with ks.record(model, loader, loss=F.cross_entropy, keep=keep, out=out) as recording:
        k = 0
        while k < steps:
            for inputs, targets in loader:
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=getattr(torch, dtype), enabled=k % every == 0):
                    loss = F.cross_entropy(model(inputs), targets)
                loss.backward()
                optimizer.step()
                k += 1
    return recording.run, model


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
@pytest.mark.parametrize("every", [1, 2], ids=["all passes", "every second pass"])
def test_steps_in_reduced_precision_are_computed_again_bit_for_bit(kind, dtype, every, tmp_path):
    rows = train("all", dtype, kind, every)[0].trajectory(0, 12)
    run, _ = train(4, dtype, kind, every, tmp_path / "run")
    again = ks.load(tmp_path / "run", model=Twice())
    for r in (run, again):
        assert [k for k in range(13) if r.row(k) is not None] == [0, 4, 8, 12]
        assert all(torch.equal(a, b) for a, b in zip(r.trajectory(0, 12), rows, strict=True))
        found = [batch.autocast for k in range(12) for batch in r.step(k).batches]
        assert found == [dtype if k % every == 0 else None for k in range(12)]
    # It is the precision that makes it so.
    assert not torch.equal(train("all", "float16" if dtype == "bfloat16" else "bfloat16", kind, every)[0].row(12),
                           rows[12])


def test_a_replayed_ledger_in_reduced_precision_closes_with_rounding_alone():
    run, model = train(4)
    x = run.samples.inputs[0][:2]
    d, whole = ks.decompose(run, x), ks.decompose(train("all")[0], x)
    assert torch.equal(d.contributions, whole.contributions)
    assert torch.equal(d.final, whole.final)
    assert complete(d) <= 1e-12
    assert share_of(d, "rounding") > 0


def test_a_pass_of_a_script_is_recorded_with_its_precision():
    torch.manual_seed(0)
    x, y = torch.randn(12, 3), torch.randint(0, 2, (12,))
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with AutoRecording() as recording:
        for inputs, targets in torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=6):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
    assert [batch.autocast for step in recording.run for batch in step.batches] == ["bfloat16"] * 2


@pytest.mark.parametrize(("stored", "read"), [(True, "bfloat16"), (False, None), (None, None), ("float16", "float16")])
def test_earlier_recordings_that_only_say_whether_are_read(stored, read):
    run, _ = train()
    assert _with_precision(run, stored).steps[0].batches[0].autocast == read


@pytest.mark.parametrize("stored", ["int8", "__class__", 16, 1.5, ["bfloat16"], {}])
def test_a_precision_that_is_none_is_refused(stored):
    run, _ = train()
    with pytest.raises(StoreCorrupt, match="is no precision|unhashable|cannot use"):
        _with_precision(run, stored)


def _with_precision(run, value):
    """The first chunk of a run, read back after another word was written into its first batch."""
    tensors = encode(decode(run.store.read(run.store.segments[0]), "here"))
    words = json.loads(tensors["words"].numpy().tobytes())
    words["steps"][0]["b"][0][-1] = value
    tensors["words"] = torch.frombuffer(bytearray(json.dumps(words).encode()), dtype=torch.uint8)
    return decode(tensors, "here")


def test_a_parameter_that_moved_between_two_contexts_is_cast_anew():
    weight, x = nn.Parameter(torch.ones(2, 2)), torch.ones(1, 2)
    with exact_arithmetic(), torch.enable_grad():
        with reduced("bfloat16", CPU):
            before = x @ weight
        with torch.no_grad():
            weight.mul_(2)
        with reduced("bfloat16", CPU):
            assert torch.equal(x @ weight, 2 * before)
        assert current(CPU) is None


def test_the_right_loss_is_not_taken_for_another_one():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(steps=4)
