"""A loss from which no shares can be computed is named at the first step, whatever the loop itself minimises."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope.errors import RecordingError

N, CLASSES = 6, 3
WEIGHT = torch.tensor([1.0, 2.0, 3.0])


class Tokens(nn.Module):
    """A score for each word at each of four places."""

    def __init__(self):
        super().__init__()
        self.words, self.scores = nn.Embedding(CLASSES, 5), nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.scores(self.words(x))


def classifier():
    return nn.Linear(4, CLASSES), torch.randn(N, 4), torch.randint(0, CLASSES, (N,)), F.cross_entropy


def tokens():
    x = torch.randint(0, CLASSES, (N, 4))
    return Tokens(), x, x, lambda outputs, y: F.cross_entropy(outputs.transpose(1, 2), y)


def regression():
    return nn.Linear(4, 2), torch.randn(N, 4), torch.randn(N, 2), F.mse_loss


def train(case, loss, kind="SGD", steps=2):
    """A loop that minimises its own loss while another one is recorded; returns the recording."""
    model, x, y, minimised = case()
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with ks.record(model, (x, y), loss=loss) as recording:
            for _ in range(steps):
                optimizer.zero_grad()
                minimised(model(x), y).backward()
                optimizer.step()
    return recording


def flat(outputs, y, reduction="mean"):
    return F.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction=reduction)


def by_hand(outputs, y):
    return [((a - b) ** 2).sum() for a, b in zip(outputs, y, strict=True)]


def weighted(outputs, y, reduction="mean"):
    return F.cross_entropy(outputs, y, WEIGHT, reduction=reduction)


ODD = {
    "a mean": (classifier, lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1), r"gave numbers of shape \(\)"),
    "a mean in spite of its option": (regression, lambda o, y, reduction="mean": ((o - y) ** 2).mean(), r"shape \(\)"),
    "one for each token": (tokens, flat, r"each of the 6 samples.*gave numbers of shape \(24,\).*over tokens or pix"),
    "one for each class": (classifier, lambda o, y: o.sum(0), r"numbers of shape \(3,\)"),
    "a list": (regression, by_hand, "it gave a list"),
    "a number": (regression, lambda o, y: 1.0, "it gave a float"),
    "classes as numbers": (classifier, F.mse_loss, r"batch \(RuntimeError.*\(6, 3\), the targets \(6,\) of int64"),
    "too many arguments": (classifier, lambda o, y, w: F.cross_entropy(o, y, w), r"first batch \(TypeError"),
    "a part that is not there": (classifier, lambda o, y: F.cross_entropy(o["a"], y), r"first batch \((Index|Type)Err"),
    "a division": (classifier, lambda o, y: 1 / 0, r"first batch \(ZeroDivisionError: division by zero\)"),
    "weights of one precision": (classifier, weighted, r"but not in float64.*RuntimeError.*weight.to\(outputs.dtype\)"),
}


@pytest.mark.parametrize("kind", ["SGD", "Rprop"])
@pytest.mark.parametrize("name", ODD)
def test_an_odd_loss_is_refused_at_the_first_step(name, kind):
    case, loss, pattern = ODD[name]
    with pytest.raises(RecordingError, match=pattern):
        train(case, loss, kind)


@pytest.mark.parametrize(("loss", "width"), [(F.cross_entropy, 2), (F.binary_cross_entropy_with_logits, 1),
                                              (lambda o, y: F.cross_entropy(o, y, reduction="none"), 2)])
def test_a_loader_that_gives_its_targets_first_is_told_to_say_where_they_stand(loss, width):
    x = torch.randn(6, 3)
    y = torch.arange(6) % 2 if width == 2 else (torch.arange(6.0) % 2)[:, None]
    model, loader = nn.Linear(3, width), DataLoader(TensorDataset(y, x), batch_size=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loop(**options):
        with ks.record(model, loader, loss=loss, **options) as recording:
            for targets, inputs in loader:
                loss(model(inputs), targets).mean().backward()
                optimizer.step()
        return recording.run

    with pytest.raises(RecordingError) as refused:
        loop()
    said = str(refused.value)
    assert f"the network received the shape (6, 3), its outputs had the shape (6, {width}), the targets (6, 3)" in said
    assert said.index("batch=lambda b: (b[1], b[0])") < said.index("loss=...")
    # What is advised works.
    assert torch.equal(loop(batch=lambda b: (b[1], b[0])).samples.targets, y)


def test_targets_that_are_broadcast_because_they_are_the_inputs_are_named_in_the_warning():
    x, y = torch.randn(6, 3), torch.randn(6, 1)
    model, loader = nn.Linear(3, 1), DataLoader(TensorDataset(y, x), batch_size=6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(UserWarning) as said:  # noqa: PT030, PT031
        with ks.record(model, loader, loss=F.mse_loss):
            for targets, inputs in loader:
                F.mse_loss(model(inputs), targets).backward()
                optimizer.step()
    assert any("batch=lambda b: (b[1], b[0])" in str(warning.message) for warning in said)


def means_of_tokens(outputs, y):
    return F.cross_entropy(outputs.transpose(1, 2), y, reduction="none").mean(1)


FIT = {
    "its own": (classifier, F.cross_entropy),
    "a module with weights": (classifier, nn.CrossEntropyLoss(weight=WEIGHT)),
    "weights that follow": (classifier, lambda o, y, **k: F.cross_entropy(o, y, WEIGHT.to(o), **k)),
    "further axes": (regression, lambda o, y: (o - y) ** 2),
    "one for each place of a sample": (tokens, lambda o, y, **k: F.cross_entropy(o.transpose(1, 2), y, **k)),
    "means over tokens": (tokens, means_of_tokens),
    "samples that meet": (classifier, lambda o, y: F.cross_entropy(o @ o.T, torch.arange(len(o)), reduction="none")),
}


@pytest.mark.parametrize("name", FIT)
def test_a_loss_that_gives_a_number_for_each_sample_is_accepted_and_decomposes(name):
    case, loss = FIT[name]
    run = train(case, loss).run
    d = ks.decompose(run, run.samples.inputs[0][:2], lambda outputs: outputs.flatten(1))
    assert d.completeness() < 1e-10


def test_the_check_leaves_the_random_state_the_modes_and_the_gradients():
    model, x, y, _ = classifier()
    model = nn.Sequential(model, nn.Dropout(0.5), nn.BatchNorm1d(CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.cross_entropy):
        F.cross_entropy(model(x), y).backward()
        before = torch.get_rng_state(), [p.grad.clone() for p in model.parameters()], model[2].running_mean.clone()
        optimizer.step()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before[1], strict=True))
    assert torch.equal(model[2].running_mean, before[2])
    assert model.training
