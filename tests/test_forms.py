"""A sample may come in changing forms; what comes under its id and is another sample is noticed."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

import kernelscope as ks
from kernelscope.errors import RecordingError

ORDER = torch.randperm(24, generator=torch.Generator().manual_seed(1))


class Samples(Dataset):
    """Points with a class or a number; ``form`` is what is done to (x, y) when sample i is read."""

    def __init__(self, numbers=False, form=lambda data, i: (data.x[i], data.y[i])):
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(24, 3, generator=generator)
        self.y = torch.randn(24, 1, generator=generator) if numbers else torch.arange(24) % 3
        self.form = form

    def __len__(self):
        return 24

    def __getitem__(self, i):
        return self.form(self, i)


def noisy(data, i):
    return data.x[i] + torch.randn(3), data.y[i]


def sometimes_flipped(data, i):
    return data.x[i].flip(0) if torch.rand(()) < 0.3 else data.x[i], data.y[i]


def mixed(data, i):
    weight, j = torch.rand(()), torch.randint(24, ())
    return weight * data.x[i] + (1 - weight) * data.x[j], weight * data.y[i] + (1 - weight) * data.y[j]


def another(data, i):
    j = torch.randint(24, ())
    return data.x[j], data.y[j]


def reordered(data, i):
    return data.x[ORDER[i]], data.y[ORDER[i]]


def shifted(data, i):
    return data.x[i] + 1, data.y[i]


def rounded(data, i):
    return data.x[i] * (1 + 1e-6), data.y[i]


def train(data, model, epochs=3, **options):
    loss = F.mse_loss if data.y.ndim == 2 else F.cross_entropy
    loader = DataLoader(data, batch_size=4, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with ks.record(model, loader, loss=loss, **options) as recording:
        for _ in range(epochs):
            for x, y in loader:
                optimizer.zero_grad()
                loss(model(x), y).backward()
                optimizer.step()
    return recording.run


def network(data):
    torch.manual_seed(0)
    return nn.Linear(3, 1 if data.y.ndim == 2 else 3)


def test_an_id_that_stands_for_other_samples_is_told_once():
    data = Samples(form=another)
    with pytest.warns(UserWarning, match="came with another input and target than before.*wrong samples") as told:
        train(data, network(data))
    assert len(told) == 1
    assert told[0].filename == __file__


def test_a_data_set_whose_order_changes_between_epochs_is_told():
    class Reshuffled(Samples):
        def __getitem__(self, i):
            self.reads = getattr(self, "reads", 0) + 1
            return super().__getitem__(i if self.reads <= 24 else int(ORDER[i]))

    data = Reshuffled()
    with pytest.warns(UserWarning, match="came with another input and target than before"):
        train(data, network(data))


@pytest.mark.parametrize("form", [noisy, sometimes_flipped])
def test_changing_forms_of_a_sample_are_not_worth_a_word(form):
    data = Samples(form=form)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert train(data, network(data)).draws


@pytest.mark.parametrize(("change", "numbers", "epochs", "what"), [
    (reordered, False, 3, "input and target"), (reordered, False, 1, "input and target"),
    (reordered, True, 3, "input and target"), (shifted, False, 3, "input"), (shifted, True, 2, "input"),
])
def test_a_recording_is_not_taken_up_with_other_data(tmp_path, change, numbers, epochs, what):
    data = Samples(numbers)
    model = network(data)
    train(data, model, epochs, out=tmp_path / "run")
    with pytest.raises(RecordingError, match=f"another {what} than in the recording.*in the same order"):
        train(Samples(numbers, change), model, out=tmp_path / "run", resume=True)
    assert len(ks.load(tmp_path / "run")) == 6 * epochs


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize(("form", "numbers"), [
    (noisy, False), (noisy, True), (sometimes_flipped, False), (mixed, True), (rounded, False)])
@pytest.mark.filterwarnings("ignore:Sample .* with another input")
def test_a_recording_with_changing_forms_is_taken_up(tmp_path, form, numbers, epochs):
    data = Samples(numbers, form)
    for turn in range(2):
        out = tmp_path / str(turn)
        model = network(data)
        torch.manual_seed(turn)
        train(data, model, epochs, out=out)
        assert len(train(data, model, 2, out=out, resume=True)) == 6 * epochs + 12


def test_rounding_of_another_device_is_the_same_data(tmp_path):
    data = Samples()
    model = network(data)
    train(data, model, out=tmp_path / "run")
    assert len(train(Samples(form=rounded), model, 1, out=tmp_path / "run", resume=True)) == 24


def test_other_inputs_after_too_short_a_part_are_told(tmp_path):
    data = Samples()
    model = network(data)
    train(data, model, 1, out=tmp_path / "run")
    with pytest.warns(UserWarning, match="comes with another input than in the recording.*too short to tell") as told:
        train(Samples(form=shifted), model, out=tmp_path / "run", resume=True)
    assert len(told) == 1
