"""A data set is taken for the run's own if its numbers, or a map of them that leaves no doubt, are those of the run."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import kernelscope as ks
from kernelscope.errors import DataError
from tests.training import Points

POINTS = Points()


def record(out, data, change=lambda x: x, target=lambda y: y, loss=F.mse_loss, features=3, width=2, **options):
    model = nn.Sequential(nn.Flatten(), nn.Linear(features, width)).double()
    loader = DataLoader(data, batch_size=5, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    options = {"batch": lambda batch: (batch[0], target(batch[-1]))} | options
    with ks.record(model, loader, loss=loss, out=out, **options) as recording:
        for *x, y in loader:
            optimizer.zero_grad()
            loss(model(change(x[0])), target(y)).backward()
            optimizer.step()
    return recording.run


CHANGES = {
    "not at all": lambda x: x,
    "reshaped": lambda x: x.view(-1, 1, 3),
    "scaled": lambda x: x / 2 + 1,
    "scaled in single precision": lambda x: (x.float() * 0.3 - 0.1).double(),
    "standardised": lambda x: (x - POINTS.x.mean(0)) / POINTS.x.std(0),
    "turned into its negative": lambda x: 1 - x,
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_data_it_was_trained_on_agree(tmp_path, change):
    record(tmp_path / "run", TensorDataset(POINTS.x, POINTS.y), CHANGES[change])
    for data in (TensorDataset(POINTS.x, POINTS.y), (POINTS.x, POINTS.y), DataLoader(Points(), batch_size=3)):
        assert ks.load(tmp_path / "run", data=data).size == 24


@pytest.mark.parametrize("change", CHANGES)
def test_other_data_do_not(tmp_path, change):
    record(tmp_path / "run", TensorDataset(POINTS.x, POINTS.y), CHANGES[change])
    other, wide = POINTS.x.clone(), torch.zeros(24, 7)
    other[7, 1] += 1
    noise = torch.randn(24, 3, dtype=torch.float64)
    wrong = {
        "holds 20": TensorDataset(POINTS.x[:20], POINTS.y[:20]),
        "24 of 24 samples compared differ": TensorDataset(POINTS.x.flip(0), POINTS.y.flip(0)),
        "2[0-9] of 24 samples compared differ": TensorDataset(POINTS.x.flip(0), POINTS.y),
        "24 of 24 samples compared differ ": TensorDataset(noise, POINTS.y),
        "samples compared differ": TensorDataset(POINTS.x, POINTS.y.flip(0)),
        "samples compared differ from": TensorDataset(POINTS.x, -POINTS.y),
        "samples compared differ from those": TensorDataset(POINTS.x[:, :1].expand(24, 3), POINTS.y),
        r"inputs of shape .*holds \[\(7,\), \(2,\)\]": TensorDataset(wide, POINTS.y),
        "samples compared differ.*": TensorDataset(other, POINTS.y),
    }
    for sentence, data in wrong.items():
        with pytest.raises(DataError, match=sentence + r".*(leave data=|training set itself)"):
            ks.load(tmp_path / "run", data=data)


def test_the_sample_that_differs_is_named(tmp_path):
    record(tmp_path / "run", TensorDataset(POINTS.x, POINTS.y))
    other = POINTS.x.clone()
    other[7] += 1
    with pytest.raises(DataError, match="1 of 24 samples compared differ.*is sample 7"):
        ks.load(tmp_path / "run", data=TensorDataset(other, POINTS.y))


class Pictures(Dataset):
    """Pictures as a camera gives them, whole numbers with the colours last, in a dictionary."""

    def __init__(self):
        self.x = torch.randint(0, 256, (30, 4, 5, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)

    def __len__(self):
        return 30

    def __getitem__(self, i):
        return {"label": i % 3, "name": f"picture {i}", "picture": self.x[i].numpy()}


def test_pictures_may_change_their_axes_and_scale(tmp_path):
    channels = torch.tensor([0.4, 0.5, 0.6])[:, None, None], torch.tensor([0.2, 0.1, 0.3])[:, None, None]
    forms = {
        "by channel": lambda x: ((x.permute(0, 3, 1, 2) / 255 - channels[0]) / channels[1]),
        "each by its own": lambda x: x.permute(0, 3, 1, 2) / x.amax((1, 2, 3), keepdim=True),
    }
    for name, form in forms.items():
        class Tensors(Pictures):
            def __getitem__(self, i, form=form):
                return form(self.x[i:i + 1].float())[0].double(), i % 3

        record(tmp_path / name, Tensors(), loss=F.cross_entropy, features=60, width=3, batch=None)
        assert ks.load(tmp_path / name, data=Pictures()).size == 30
        mixed = Pictures()
        mixed.x = mixed.x.flip(0)
        with pytest.raises(DataError, match="samples compared differ"):
            ks.load(tmp_path / name, data=mixed)
        upside_down = Pictures()
        upside_down.x = upside_down.x.flip(1)
        with pytest.raises(DataError, match="samples compared differ"):
            ks.load(tmp_path / name, data=upside_down)


@pytest.mark.parametrize("smooth", [0.0, 0.1])
def test_classes_may_be_marked_by_rows(tmp_path, smooth):
    y = torch.arange(24) % 3
    rows = F.one_hot(y).double() * (1 - smooth) + smooth / 3
    record(tmp_path / "rows", TensorDataset(POINTS.x, rows), loss=F.cross_entropy, width=3)
    record(tmp_path / "index", TensorDataset(POINTS.x, y), loss=F.cross_entropy, width=3)
    for name in ("rows", "index"):
        for good in (rows, y):
            assert ks.load(tmp_path / name, data=(POINTS.x, good)).size == 24
        for bad in (rows.flip(1), 2 - y, (y + 1) % 3):
            with pytest.raises(DataError, match="samples compared differ"):
                ks.load(tmp_path / name, data=(POINTS.x, bad))


def test_where_the_network_saw_many_forms_targets_and_sizes_are_compared(tmp_path):
    class Noisy(Points):
        def __getitem__(self, i):
            x, _, y = super().__getitem__(i)
            return x, y

    data = Noisy(noise=0.1)
    record(tmp_path / "run", torch.utils.data.ConcatDataset([data]), batch=None)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2)).double()
    loader, optimizer = DataLoader(data, batch_size=8), torch.optim.SGD(model.parameters(), lr=0.01)
    with ks.record(model, loader, loss=F.mse_loss, out=tmp_path / "drawn"):
        for _ in range(2):
            for x, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
    assert ks.load(tmp_path / "drawn", data=data).draws
    with pytest.raises(DataError, match="samples compared differ"):
        ks.load(tmp_path / "drawn", data=(data.x, data.y.flip(0)))
    with pytest.raises(DataError, match="inputs of shape"):
        ks.load(tmp_path / "drawn", data=(data.x[:, :2], data.y))
    with pytest.raises(DataError, match="nothing can be compared"):
        ks.load(tmp_path / "drawn", data=(data.x, torch.zeros(24, 9)))


def test_constant_inputs_are_not_taken_for_scaled_ones(tmp_path):
    constant = torch.ones(24, 3, dtype=torch.float64)
    record(tmp_path / "constant", TensorDataset(constant, POINTS.y))
    for x in (POINTS.x, 2 * constant):
        with pytest.raises(DataError, match="samples compared differ"):
            ks.load(tmp_path / "constant", data=(x, POINTS.y))


def test_of_many_samples_some_are_compared_and_sizes_are_told_before_values(tmp_path):
    x, y = torch.randn(300, 3, dtype=torch.float64), torch.arange(300) % 3
    record(tmp_path / "run", TensorDataset(x, y), loss=F.cross_entropy, width=3)
    ks.load(tmp_path / "run", data=(x, y))
    with pytest.raises(DataError, match="60 of 60 samples compared differ"):
        ks.load(tmp_path / "run", data=(x.flip(0), y))
    with pytest.raises(DataError, match=r"inputs of shape \(3,\).*holds \[\(4,\), \(\)\]"):
        ks.load(tmp_path / "run", data=(torch.zeros(300, 4), y))


def test_few_numbers_are_compared_as_they_are(tmp_path):
    x, y = POINTS.x[:3, :1], POINTS.y[:3]
    record(tmp_path / "run", TensorDataset(x, y), features=1)
    ks.load(tmp_path / "run", data=(x, y))
    # Two unknowns meet any two numbers, so three are no evidence of a map.
    with pytest.raises(DataError, match="samples compared differ"):
        ks.load(tmp_path / "run", data=(2 * x, y))


@pytest.mark.parametrize(("data", "sentence"), [
    ("train.csv", "must be the training set: .* a str came"),
    (3, "a int came"),
    (iter([1, 2]), "a list_iterator came"),
])
def test_what_is_no_data_set_is_refused(tmp_path, data, sentence):
    record(tmp_path / "run", TensorDataset(POINTS.x, POINTS.y))
    with pytest.raises(DataError, match=sentence):
        ks.load(tmp_path / "run", data=data)


def test_ids_that_the_data_does_not_have_are_named(tmp_path):
    class Named(Points):
        def __getitem__(self, i):
            x, i, y = super().__getitem__(i)
            return x, i + 100, y

    record(tmp_path / "run", Named(), ids=lambda batch: batch[1])
    with pytest.raises(DataError, match="samples that the data given does not have .IndexError"):
        ks.load(tmp_path / "run", data=Points())


def test_comparing_draws_no_random_number(tmp_path):
    class Drawing(Points):
        def __getitem__(self, i):
            torch.rand(1), np.random.rand(1), random.random()  # noqa: NPY002
            return self.x[i], self.y[i]

    record(tmp_path / "run", Drawing(), batch=None)
    before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    ks.load(tmp_path / "run", data=Drawing())
    after = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert (before[1] == after[1]).all()
    assert before[2] == after[2]
