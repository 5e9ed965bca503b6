"""The pages: they build without a warning, and the words that troubleshooting quotes are those that are said."""

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import kernelscope as ks

ROOT = Path(__file__).parents[1]
QUOTES = re.findall(r"^> (.*)$", (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(3), torch.tensor(0))] * 4)


class Sign(torch.optim.SGD):
    def step(self, closure=None):
        with torch.no_grad():
            for p in self.param_groups[0]["params"]:
                p.sub_(p.grad.sign(), alpha=0.01)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        return self.layer(x)


def data(n=8):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 2


def trained(model=None, loader=None, loss=cross_entropy, optimizer=torch.optim.SGD, after=None, read=None, **options):
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    if loader is None:
        loader = DataLoader(TensorDataset(*data()), batch_size=4)
    steps = optimizer(model.parameters(), lr=0.1)
    with ks.record(model, loader, loss=cross_entropy, **options) as recording:
        for x, y in loader if read is None else read:
            steps.zero_grad()
            loss(model(x), y).backward()
            steps.step()
            if after is not None:
                after(model)
    return recording.run


def moved():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    with torch.no_grad():
        model[0].weight.add_(1.0)
    return model


def sorted_by_target(items):
    x, y = zip(*sorted(items, key=lambda item: -int(item[1])), strict=True)
    return torch.stack(x), torch.stack(y)


def in_dictionaries():
    loader = DataLoader([{"x": a, "y": b} for a, b in zip(*data(), strict=True)], batch_size=4)

    class Pairs:
        def __iter__(self):
            return ((batch["x"], batch["y"]) for batch in loader)

    return trained(loader=loader, read=Pairs())


def clamped():
    return ks.decompose(trained(after=lambda m: m[0].weight.data.clamp_(-0.1, 0.1)), data()[0][:1]).check()


def kept(folder="r1"):
    if not Path(folder).exists():
        trained(out=folder)
    return folder


def with_(layer):
    return trained(nn.Sequential(nn.Linear(3, 4), layer, nn.Tanh(), nn.Linear(4, 2)))


x, y = data()
broken = torch.where(torch.arange(8)[:, None] == 0, torch.nan, x)
CASES = {
    "the gradient of '0.weight' is NaN or infinite": lambda: trained(
        loader=DataLoader(TensorDataset(broken, y), batch_size=4)),
    "Query 0 holds NaN or infinite values.": lambda: ks.explain(trained(), broken[:1]),
    "from that of the recorded loss, so much of this run will be booked as unattributed": lambda: trained(
        loss=lambda out, y: cross_entropy(out, y, label_smoothing=0.2)),
    "of the absolute terms comes from changes that the update rule does not explain.": clamped,
    "cannot be unrolled into shares of samples": lambda: trained(optimizer=Sign),
    "This loader reads an IterableDataset, so its samples have no id": lambda: trained(
        loader=DataLoader(Stream(), batch_size=4)),
    "The loader's collate_fn changes the order of samples": lambda: trained(
        loader=DataLoader(TensorDataset(*data()), batch_size=4, collate_fn=sorted_by_target)),
    "A batch must be a pair (inputs, targets) to find its targets, and this loader gives a dict.": in_dictionaries,
    "the recorded loader was never iterated, so the samples of the step are unknown": lambda: trained(
        read=DataLoader(TensorDataset(*data()), batch_size=4)),
    "The recorded loader was never iterated and no optimizer step was seen.": lambda: trained(read=iter(())),
    "has batch normalisation in train mode": lambda: ks.expected(with_(nn.BatchNorm1d(4)), x[:1]),
    "In training the network drew random numbers, as dropout does": lambda: ks.retrain(with_(nn.Dropout()), [[0, 1]]),
    "already holds a recording. Choose another folder": lambda: trained(out=kept()),
    "The model's parameters are none of the": lambda: trained(moved(), out=kept(), resume=True),
    "The model holds the parameters from before the first of the": lambda: trained(out=kept("r3"), resume=True),
    "has other parameters than this one, so it cannot be taken up.": lambda: trained(Own(), out=kept(), resume=True),
    "was recorded from a model with code of its own": lambda: (trained(Own(), out="r2"), ks.load("r2")),
}


@pytest.mark.parametrize("words", CASES)
def test_troubleshooting_quotes_what_is_said(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            said = [repr(CASES[words]())]
        except ks.errors.KernelscopeError as error:
            said = [str(error)]
    assert any(words in text for text in [*said, *(str(one.message) for one in heard)])
    assert any(words in quote for quote in QUOTES)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_pages_build_without_a_warning(tmp_path):
    pytest.importorskip("furo")
    pytest.importorskip("sphinx_gallery")
    places = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "-d", str(tmp_path / "trees"),
                           str(ROOT / "docs"), str(tmp_path / "html")], cwd=ROOT, text=True, capture_output=True,
                          env={**os.environ, "PYTHONPATH": os.pathsep.join(places)}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.stem for path in (tmp_path / "html").glob("**/*.html")}
    assert {"troubleshooting", "theory", "which_samples_made_it", "kernelscope.decompose"} <= pages
    for script in (ROOT / "docs" / "gallery").glob("*/*.py"):
        assert list((tmp_path / "html" / "_images").glob(f"sphx_glr_{script.stem}_001*")), script.stem
