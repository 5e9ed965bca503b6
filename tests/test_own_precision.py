"""A network that makes float32 tensors of its own is explained in float32, and says so."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError, ModelError
from tests.oracles import explicit_shares
from tests.recordings import complete, relative, train

MADE = "makes tensors of float32 in its forward, which do not go together with float64"
REFUSED = f"(?s){MADE} .*Pass dtype=torch.float32, or make such tensors with dtype="


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(3, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.gru(x, torch.zeros(1, len(x), 6))[0][:, -1])


class Pictures(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(x.float() / 255)


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(7, 3)

    def forward(self, x):
        return self.head(F.one_hot(x, 7).float().mean(1))


class Upcast(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(3, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(torch.softmax(self.inner(x).float(), -1))


class Attribute(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head, self.mixing = nn.Linear(3, 5), nn.Linear(5, 3), torch.randn(5, 5)

    def forward(self, x):
        return self.head(torch.tanh(self.inner(x) @ self.mixing))


class Trained(nn.Module):
    """Only in train mode."""

    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(3, 5), nn.Linear(5, 3)

    def forward(self, x):
        h = torch.tanh(self.inner(x))
        return self.head(h.float() if self.training else h)


def numbers(*shape):
    return torch.randn(8, *shape, generator=torch.Generator().manual_seed(1))


def whole(high, *shape, dtype=torch.long):
    return torch.randint(0, high, (8, *shape), generator=torch.Generator().manual_seed(1)).to(dtype)


KINDS = {
    "recurrent": (Recurrent, numbers(4, 3)), "pictures": (Pictures, whole(256, 3, dtype=torch.uint8)),
    "words": (Words, whole(7, 4)), "upcast": (Upcast, numbers(3)), "attribute": (Attribute, numbers(3)),
    "in train mode": (Trained, numbers(3)),
}
LABELS = whole(3)


def trained(name, **options):
    torch.manual_seed(0)
    make, x = KINDS[name]
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.5)
    run, notes = train(model, x, LABELS, optimizer, loss=F.cross_entropy, **options)
    return run, notes, model, x


@pytest.mark.parametrize("name", KINDS)
def test_the_shares_are_the_explicit_ones_within_float32(name):
    run, notes, _, x = trained(name)
    d = ks.decompose(run, x[:2])
    truth = explicit_shares(notes, x[:2])
    assert float(truth.contributions.abs().max()) > 1e-3
    assert relative(d.contributions, truth.contributions) <= 1e-4
    assert relative(d.steps, truth.steps) <= 1e-4
    assert complete(d) <= 1e-5
    assert d.check().ok
    assert not d.channels["unattributed"].any()
    assert d.info["dtype"] == "float32"
    assert [MADE in note for note in d.info["notes"]].count(True) == 1
    assert "closes to about 1e-7" in d.info["notes"][0]
    asked = ks.decompose(run, x[:2], dtype=torch.float32)
    assert torch.equal(asked.contributions, d.contributions)
    assert not any(MADE in note for note in asked.info["notes"])


@pytest.mark.parametrize("name", KINDS)
def test_float64_is_refused_by_its_cause_where_it_was_asked_for(name):
    run, _, model, x = trained(name, diary=False)
    for ask in (ks.decompose, ks.explain):
        with pytest.raises(ModelError, match=REFUSED):
            ask(run, x[:2], dtype=torch.float64)
    if name != "in train mode":
        with pytest.raises(ModelError, match=REFUSED):
            ks.kernels.Tangent(model, dtype=torch.float64)(x)
        assert ks.kernels.Tangent(model)(x).dtype == torch.float32


def test_a_page_and_an_explanation_say_it(tmp_path):
    run, _, _, x = trained("upcast", diary=False, out=tmp_path / "run")
    why = ks.explain(run, x[:2])
    assert MADE in why.decomposition.info["notes"][0]
    page = ks.Report("t", [why]).save(tmp_path / "a.html").read_text()
    assert "The ledger is in float32 and closes to about 1e-7" in page


def test_a_network_that_takes_float64_is_explained_in_it():
    model, x = nn.Linear(3, 3), numbers(3)
    run, _ = train(model, x, LABELS, torch.optim.SGD(model.parameters(), lr=0.1), loss=F.cross_entropy)
    d = ks.decompose(run, x[:2])
    assert d.info["dtype"] == "float64"
    assert complete(d) <= 1e-12
    assert not any("float32" in note for note in d.info["notes"])


def test_queries_of_another_shape_are_refused_for_that():
    run, _, _, _ = trained("upcast", diary=False)
    with pytest.raises(DataError, match=r"cannot take these queries.*the queries have \[\(2, 4\)\]"):
        ks.decompose(run, torch.zeros(2, 4))


def test_a_loss_that_fits_nothing_is_no_matter_of_precision_where_steps_are_booked_whole(tmp_path):
    model, x = nn.Linear(3, 3), numbers(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    train(model, x, LABELS, optimizer, loss=F.cross_entropy, diary=False, out=tmp_path / "run")
    run = ks.load(tmp_path / "run", loss=lambda outputs, targets: outputs.sum())
    d = ks.decompose(run, x[:2], rule="displacement")
    assert d.info["dtype"] == "float64"
    assert complete(d) <= 1e-12
