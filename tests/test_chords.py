"""Chords between kept parameters: complete always, exact where every step is kept, and closer the shorter they are."""

from __future__ import annotations

import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope.errors import DataError, OutOfRange
from kernelscope.run import thinning
from kernelscope.run.chords import Chord, ChordRun, lagrange, parse_nodes

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.03, momentum=0.9, nesterov=True),
    "dampened": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.7, dampening=0.5, maximize=False),
    "adam": lambda p: torch.optim.Adam(p, lr=3e-3, weight_decay=1e-3),
    "adamw": lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}


def data(n: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(n, 4, generator=g, dtype=torch.float64)
    return x, torch.tanh(x @ torch.randn(4, 2, generator=g, dtype=torch.float64))


def net() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 2)).double()


@cache
def plainly(name: str = "sgd", steps: int = 24) -> ks.Run:
    return recorded(name, steps)


def recorded(name: str = "sgd", steps: int = 24, batch: int = 8, model=None, each=None, halves: int = 1) -> ks.Run:
    x, y = data()
    model = model or net()
    optimizer = OPTIMIZERS[name](model.parameters())
    loader = DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True,
                        generator=torch.Generator().manual_seed(1))
    k = 0
    with ks.record(model, loader, loss=F.mse_loss) as recording:
        while k < steps:
            for inputs, targets in loader:
                optimizer.zero_grad()
                for a, b in zip(inputs.chunk(halves), targets.chunk(halves), strict=True):
                    (F.mse_loss(model(a), b) / halves).backward()
                if each is not None:
                    each(model, optimizer, k)
                optimizer.step()
                k += 1
                if k == steps:
                    break
    return recording.run


QUERIES = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)


def error(found: ks.Decomposition, truth: ks.Decomposition) -> float:
    return float((found.contributions - truth.contributions).norm() / truth.contributions.norm())


@pytest.fixture
def always_chords(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single steps are made chords of one update too, instead of being taken over as steps."""
    monkeypatch.setattr(thinning, "is_a_step", lambda *args: False)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_with_all_steps_kept_chords_are_the_steps(name, always_chords):
    run = plainly(name)
    kept = run.thinned(every=1)
    assert all(isinstance(kept[k], Chord) for k in range(len(kept)))
    truth, found = ks.decompose(run, QUERIES), ks.decompose(kept, QUERIES)
    scale = float(truth.contributions.abs().max())
    assert float((found.contributions - truth.contributions).abs().max()) <= 1e-10 * scale
    assert float((found.channels["decay"] - truth.channels["decay"]).abs().max()) <= 1e-10 * scale
    assert float(found.channels["unattributed"].abs().max()) <= 1e-10 * scale


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("every", [3, 24])
def test_a_ledger_over_chords_is_complete(name, every):
    found = ks.decompose(plainly(name).thinned(every=every), QUERIES)
    assert found.completeness() <= 1e-12
    assert found.steps.shape[-1] == 24 // every
    assert found.channels["unattributed"].abs().sum() > 0
    assert torch.allclose(found.unattributed.sum(-1), found.channels["unattributed"], atol=1e-14)


def test_steps_and_chords_go_together():
    run = plainly("momentum")
    kept = run.thinned(points=[0, 1, 2, 3, 10, 11])
    assert kept.points == [0, 1, 2, 3, 10, 11, 24]
    assert [isinstance(kept[k], Chord) for k in range(6)] == [False, False, False, True, False, True]
    found = ks.decompose(kept, QUERIES)
    assert found.completeness() <= 1e-12
    assert torch.equal(found.path, ks.decompose(run, QUERIES).path[..., kept.points])


def test_a_linear_model_in_closed_form():
    """f = <w, x> under full-batch descent: w is a recursion, and the chord's sum at its ends is known by hand."""
    x = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    y = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    model = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(model.weight, 0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for _ in range(4):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    w, path = 0.5, [0.5]
    for _ in range(4):
        w -= 0.05 * ((w - 1) * 1 + (2 * w - 0) * 2)  # mean of 2 (w x - y) x over two samples
        path.append(w)
    gradients = [lambda v: 2 * (v - 1), lambda v: 2 * (2 * v) * 2]
    # Four visits at t = 0, 1/4, 1/2, 3/4: 2.5 fall to the start of the chord and 1.5 to its end.
    expected = [-0.05 / 2 * (2.5 * g(path[0]) + 1.5 * g(path[-1])) for g in gradients]
    found = ks.decompose(recording.run.thinned(every=4), torch.ones(1, 1, dtype=torch.float64))
    assert found.contributions.flatten().tolist() == pytest.approx(expected, abs=1e-14)
    unattributed = path[-1] - path[0] - sum(expected)
    assert float(found.channels["unattributed"]) == pytest.approx(unattributed, abs=1e-14)


@pytest.mark.parametrize(("nodes", "least", "most"), [("start", 0.8, 1.5), ("ends", 1.7, 2.6)])
def test_order_of_convergence_in_the_length_of_a_chord(nodes, least, most):
    """Full-batch descent at a small rate: samples' shares converge with order 1 (start) and 2 (both ends)."""
    x, y = data()
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for _ in range(64):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    truth = ks.decompose(recording.run, QUERIES)
    errors = [error(ks.decompose(recording.run.thinned(every=m, nodes=nodes), QUERIES), truth) for m in (4, 16)]
    assert least <= math.log(errors[1] / errors[0]) / math.log(4) <= most


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam"])
def test_shares_over_chords_are_near_those_over_steps(name):
    run = plainly(name, steps=60)
    truth, found = ks.decompose(run, QUERIES), ks.decompose(run.thinned(every=3), QUERIES)
    ranks = [spearmanr(a, b)[0] for a, b in zip(truth.contributions.flatten(0, 1), found.contributions.flatten(0, 1),
                                               strict=True)]
    assert min(ranks) > 0.95


def test_learning_rates_that_change_and_groups_of_their_own(always_chords):
    model = net()
    optimizer = torch.optim.SGD([{"params": model[0].parameters(), "lr": 0.02, "weight_decay": 0.1},
                                 {"params": model[2].parameters(), "lr": 0.05, "momentum": 0.8}])
    x, y = data()
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for _ in range(12):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
            schedule.step()
    truth = ks.decompose(recording.run, QUERIES)
    assert error(ks.decompose(recording.run.thinned(every=1), QUERIES), truth) <= 1e-10
    found = ks.decompose(recording.run.thinned(every=3), QUERIES)
    assert found.completeness() <= 1e-12
    assert error(found, truth) < 0.05


def test_clipped_and_accumulated_gradients():
    def clip(model, optimizer, k):
        nn.utils.clip_grad_norm_(model.parameters(), 0.05)

    run = recorded("momentum", each=clip, halves=2)
    truth, found = ks.decompose(run, QUERIES), ks.decompose(run.thinned(every=4), QUERIES)
    assert float(truth.channels["unattributed"].abs().max()) < 1e-12
    assert found.completeness() <= 1e-12
    assert error(found, truth) < 0.1


def test_dropout_keeps_its_masks():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Dropout(0.3), nn.Linear(10, 2)).double()
    run = recorded("sgd", model=model)
    kept = run.thinned(every=4)
    assert len(kept[0].batches) == 4
    truth, found = ks.decompose(run, QUERIES), ks.decompose(kept, QUERIES)
    assert found.completeness() <= 1e-12
    assert error(found, truth) < 0.1


def test_batch_normalisation_books_its_buffers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 10), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 2)).double()
    run = recorded("sgd", model=model)
    found, truth = ks.decompose(run.thinned(every=4), QUERIES), ks.decompose(run, QUERIES)
    assert found.completeness() <= 1e-12
    assert torch.allclose(found.initial, truth.initial)
    assert torch.allclose(found.final, truth.final)


def test_a_slice_is_thinned_with_the_momentum_it_found():
    run = plainly("momentum")
    part = run[6:18].thinned(every=4)
    assert part.points == [6, 10, 14, 18]
    truth, found = ks.decompose(run[6:18], QUERIES), ks.decompose(part, QUERIES)
    assert found.completeness() <= 1e-12
    momentum = truth.channels["momentum"]
    assert momentum.abs().max() > 0
    assert torch.allclose(found.channels["momentum"], momentum, rtol=0.2, atol=0.05 * float(momentum.abs().max()))


def test_thinning_that_is_certified():
    run = plainly("sgd", steps=60)
    found = ks.decompose(run, QUERIES, thin=0.02)
    assert found.completeness() <= 1e-12
    left = (found.unattributed.abs() / found.magnitude[..., None]).sum(-1) if found.unattributed is not None else 0.0
    assert float(torch.as_tensor(left).max()) <= 0.02
    assert found.steps.shape[-1] < 60 or found.unattributed is None
    assert found.info["thinned"]["tolerance"] == 0.02


def test_gaps_are_named():
    run = plainly("sgd", steps=60)
    found = ks.decompose(run.thinned(points=[0, 2, 4, 6, 8]), QUERIES)
    table = found.gaps()
    assert table.iloc[0][["from", "to"]].tolist() == [8, 60]
    assert table["of_all"].sum() == pytest.approx(1)
    assert "between 8 and 60" in found.summary()
    row = next(row for row in found.check().rows if row.name == "unattributed")
    assert row.status == "warn"
    assert "between 8 and 60" in row.sentence
    change = (found.final - found.initial).abs().sum()
    assert found.unattributed_of_change() == pytest.approx(float(found.unattributed.sum(-1).abs().sum() / change))
    exact = ks.decompose(run, QUERIES)
    assert "chords" not in exact.summary()
    assert float(exact.gaps()["unattributed"].sum()) == 0


def test_words_are_weaker_where_much_is_unattributed():
    run = plainly("sgd", steps=60)
    why = ks.explain(run.thinned(every=60), QUERIES)
    assert any(why.doubtful(i) for i in range(3))
    query = next(i for i in range(3) if why.doubtful(i))
    said = why[query].said if hasattr(why, "said") else str(why[query:query + 1])
    assert "So much is unattributed" in said
    assert "between the kept parameters" in said
    assert "over 60 steps" in said
    assert "%," not in said.split("So much")[0]
    one = why[query:query + 1]
    assert one.singled(0, 1) == one.singled(0, -1) == []
    assert one.ranked(0, 3, 1)
    assert "no sample is named" in one.summary()
    page = ks.Report("Chords", [one]).html()
    assert "Training samples that pushed hardest" not in page
    assert "is between them" in page
    assert not any(f"#{i}<" in one._repr_html_() for i in range(20))
    firm = ks.explain(run, QUERIES)
    whole = ks.Report("All steps", [firm]).html()
    assert "Training samples that pushed hardest" in whole
    assert "they meet at the end" in whole


def test_results_are_saved_and_opened(tmp_path):
    found = ks.decompose(plainly().thinned(every=6), QUERIES)
    again = ks.Decomposition.load(found.save(tmp_path / "d"))
    assert torch.equal(again.unattributed, found.unattributed)
    assert again.summary() == found.summary()
    assert torch.equal(found[1:].unattributed, found.unattributed[1:])


def test_a_run_of_chords_serves_the_diagnostics():
    run = plainly("sgd", steps=24).thinned(every=6)
    assert ks.evolution(run, QUERIES) is not None
    assert ks.coverage(run, QUERIES) is not None
    assert ks.null_space(run, QUERIES, torch.zeros(3, 2, dtype=torch.float64)) is not None
    page = ks.Report("Chords", [ks.explain(run, QUERIES), ks.decompose(run, QUERIES)]).html()
    assert "unattributed" in page


def test_the_run_is_left_alone():
    run = plainly("momentum")
    before, state = run.fingerprint(), torch.get_rng_state()
    ks.decompose(run.thinned(every=5), QUERIES)
    assert run.fingerprint() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_run_of_chords_in_words_and_slices():
    kept = plainly("sgd").thinned(every=6)
    assert isinstance(kept, ChordRun)
    assert repr(kept).startswith("Run(4 chords over the 24 steps 0 to 24 of SGD")
    assert kept[1:3].points == [6, 12, 18]
    assert kept.info()["chords"]["points"] == [0, 6, 12, 18, 24]
    assert ks.decompose(kept[1:3], QUERIES).completeness() <= 1e-12
    with pytest.raises(DataError, match="thinned already"):
        kept.thinned(every=2)
    with pytest.raises(DataError, match="not saved itself"):
        kept.save("nowhere")


@pytest.mark.parametrize(("options", "error_", "words"), [
    ({}, DataError, "one of every=, keep= and points="),
    ({"every": 2, "keep": 3}, DataError, "every and keep came"),
    ({"every": 0}, DataError, "every"),
    ({"keep": 1}, DataError, "keep"),
    ({"points": ["a"]}, DataError, "numbers of steps"),
    ({"points": [99]}, OutOfRange, "0 to 24"),
    ({"every": 3, "nodes": "middle"}, DataError, "nodes must be"),
])
def test_refusals(options, error_, words):
    with pytest.raises(error_, match=words):
        plainly().thinned(**options)


@pytest.mark.parametrize("thin", [0, -1, 1.5, "x", True, float("nan")])
def test_thin_is_a_number_of_steps_or_a_share(thin):
    with pytest.raises(DataError, match="thin is a number of steps"):
        ks.decompose(plainly(), QUERIES, thin=thin)


def test_lagrange_polynomials_reproduce_polynomials():
    nodes, t = parse_nodes("gauss3"), torch.linspace(0, 1, 7, dtype=torch.float64)
    values = torch.tensor(nodes, dtype=torch.float64) ** 2
    assert torch.allclose(values @ lagrange(nodes, t), t**2)


@pytest.mark.parametrize("divided", [3.0, 1.0])
def test_passes_of_unequal_sizes_are_weighed_as_the_loop_does(divided):
    # The last batch of an epoch is smaller; the loop divides each pass by their number, or by nothing.
    x, y = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).double(), torch.arange(30) % 3
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    loader = DataLoader(TensorDataset(x, y), batch_size=7, shuffle=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1 * divided / 3)
    with ks.record(model, loader, loss=F.cross_entropy) as recording:
        for i, (inputs, targets) in enumerate(batch for _ in range(6) for batch in loader):
            (F.cross_entropy(model(inputs), targets) / divided).backward()
            if i % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
    truth = ks.decompose(recording.run, x[:5])
    found = ks.decompose(recording.run.thinned(every=2), x[:5])
    # By size, passes of 2 samples beside those of 7 are wrong by a fifth; two steps as one cost a hundredth.
    assert float((found.contributions - truth.contributions).norm() / truth.contributions.norm()) < 0.03
