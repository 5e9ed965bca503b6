"""A run that is loaded is the run that was recorded."""

import resource
import sys
import time
import tracemalloc

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import kernelscope as ks
from kernelscope.errors import DataError, ModelError, StoreError
from tests.training import Points, Truth, network, split, step


def train(out=None, *, model=None, keep="all", points=None, loss=F.mse_loss, epochs=2, commit_every=0.0, **options):
    torch.manual_seed(1)
    model = model or network(dropout=0.2, norm=True)
    points = points or Points()
    loader = DataLoader(points, batch_size=5, shuffle=True)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    with ks.record(model, loader, loss=loss, batch=split, out=out, keep=keep, commit_every=commit_every,
                   **options) as recording:
        for _ in range(epochs):
            for x, ids, y in loader:
                step(model, optimizer, x, y, Truth(), ids, loss=loss)
    return recording.run


def equal_runs(a, b):
    assert len(a) == len(b)
    for k in range(len(a) + 1):
        assert torch.equal(a.trajectory(k, k)[0], b.trajectory(k, k)[0])
        assert all(torch.equal(a.buffers(k)[name], t) for name, t in b.buffers(k).items())
    for k in (-1, 0):
        assert a.buffers(k).keys() == b.buffers(k).keys()
    for one, other in zip(a, b, strict=True):
        assert (one.optimizer, one.groups, one.largest, one.without, one.owner) == (
            other.optimizer, other.groups, other.largest, other.without, other.owner)
        assert torch.equal(one.norms, other.norms)
        for left, right in zip(one.batches, other.batches, strict=True):
            assert torch.equal(left.columns, right.columns)
            assert (left.at, left.training) == (right.at, right.training)
            assert (left.random is None) == (right.random is None)
            assert left.random is None or torch.equal(left.random, right.random)
    assert torch.equal(a.samples.seen, b.samples.seen)
    assert all(torch.equal(s, t) for i in range(a.size) for s, t in zip(a.sample(i), b.sample(i), strict=True))
    assert a.labels == b.labels
    assert a.class_names == b.class_names


@pytest.mark.parametrize("keep", ["all", 3, "60KB"])
def test_loading_gives_the_run_that_was_in_memory(tmp_path, keep):
    memory, disk = train(keep=keep), train(tmp_path / "run", keep=keep)
    loaded = ks.load(tmp_path / "run")
    equal_runs(memory, disk)
    equal_runs(memory, loaded)
    assert loaded.fingerprint() == disk.fingerprint()
    x = torch.randn(3, 3).double()
    for d in (ks.decompose(disk, x), ks.decompose(loaded, x)):
        assert torch.equal(d.contributions, ks.decompose(memory, x).contributions)
    info = {key: value for key, value in loaded.info().items() if key not in ("path", "bytes", "rows", "cost")}
    assert info == {key: memory.info()[key] for key in info}
    assert loaded.info()["complete"]


def test_a_run_is_read_step_by_step(tmp_path):
    train(tmp_path / "run")
    run = ks.load(tmp_path / "run")
    assert run[3] is run.step(3)
    assert run[-1] is run.step(9)
    assert len(list(run)) == len(run) == 10
    with pytest.raises(IndexError, match="This run has 10 steps, so step 10 does not exist"):
        run[10]
    rows = run.trajectory(0, 10)
    assert len(rows) == 11
    assert torch.equal(torch.cat([p.flatten() for p in run.parameters(4).values()]), rows[4])
    assert torch.equal(torch.cat([p.flatten() for p in run.parameters().values()]), rows[10])
    part = run[4:7]
    assert (len(part), part.start, part.stop) == (3, 4, 7)
    assert part[0] is run[4]
    assert part[1:][0] is run[5]
    assert torch.equal(torch.cat([p.flatten() for p in part.parameters(0).values()]), rows[4])
    assert torch.equal(torch.cat([p.flatten() for p in part.parameters().values()]), rows[7])
    assert len(run[8:2]) == 0
    with pytest.raises(DataError, match=r"run\[::2\].*keep=k"):
        run[::2]


def test_the_parts_of_a_run_add_up_to_the_whole():
    run = train(model=network(), keep=4)
    x = torch.randn(2, 3).double()
    whole, parts = ks.decompose(run, x), [ks.decompose(part, x) for part in (run[:3], run[3:7], run[7:])]
    moved = sum(d.final - d.initial for d in parts)
    torch.testing.assert_close(moved, whole.final - whole.initial, rtol=0, atol=1e-12)
    assert all(float(d.residual.abs().max()) < 1e-12 for d in parts)


@pytest.mark.parametrize("keep", ["all", 4])
def test_a_saved_run_is_the_same_run(tmp_path, keep):
    memory = train(keep=keep)
    assert memory.save(tmp_path / "copy") == tmp_path / "copy"
    equal_runs(memory, ks.load(tmp_path / "copy"))
    with pytest.raises(StoreError, match="overwrite=True"):
        memory.save(tmp_path / "copy")
    ks.load(tmp_path / "copy").save(tmp_path / "again")
    equal_runs(memory, ks.load(tmp_path / "again"))


def test_buffers_are_those_that_each_step_saw(tmp_path):
    torch.manual_seed(0)
    model = network(norm=True)
    points = Points()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    with ks.record(model, (points.x, points.y), loss=F.mse_loss, out=tmp_path / "run", commit_every=0) as recording:
        for k in range(6):
            if k == 3:
                model.eval()
            seen.append({name: b.clone() for name, b in model.named_buffers()})
            recording.batch(range(4 * k, 4 * k + 4))
            step(model, optimizer, points.x[4 * k:4 * k + 4], points.y[4 * k:4 * k + 4], Truth(), None)
    run = ks.load(tmp_path / "run")
    for name, b in run.buffers(-1).items():
        assert torch.equal(b, seen[0][name])
    # A pass of step k has already written the statistics that step k+1 begins with.
    for k in range(5):
        assert all(torch.equal(b, seen[k + 1][name]) for name, b in run.buffers(k).items())
    assert [run.step(k).batches[0].training != () for k in range(6)] == [True] * 3 + [False] * 3


def test_classes_have_names(tmp_path):
    points = TensorDataset(torch.randn(9, 3), torch.arange(9) % 3)
    for names in (None, ["cat", "dog", "<b>"]):
        model = nn.Linear(3, 3)
        loader = DataLoader(points, batch_size=4, drop_last=True)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with ks.record(model, loader, loss=F.cross_entropy, class_names=names, out=tmp_path / str(names)) as recording:
            for x, y in loader:
                step(model, optimizer, x, y, Truth(), None, loss=F.cross_entropy)
        run = ks.load(tmp_path / str(names))
        words = names or ["0", "1", "2"]
        assert run.class_names == recording.run.class_names == words
        assert run.labels == recording.run.labels == [words[i % 3] for i in range(8)] + ["never drawn"]
        assert run.sample(8) is None
        assert run.sample(7)[1] == 1


def test_whole_numbers_that_count_something_are_not_classes_to_be_listed():
    x, y = torch.randn(4, 3), torch.tensor([10**12, 3, -5, 7])
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-30)
    loss = lambda out, y, reduction="mean": F.mse_loss(out[:, 0], y.float(), reduction=reduction)
    with ks.record(model, (x, y), loss=loss) as recording:
        optimizer.zero_grad()
        loss(model(x), y).backward()
        optimizer.step()
    assert recording.run.class_names is None
    assert recording.run.labels == ["1000000000000", "3", "-5", "7"]


# -- a model with code of its own --------------------------------------------------------------------------------------


class Own(nn.Module):
    def __init__(self, width=5):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2)).double()

    def forward(self, x):
        return self.inner(x) * 2


def test_a_model_with_its_own_code_is_asked_for(tmp_path):
    memory = train(tmp_path / "run", model=Own())
    with pytest.raises(ModelError, match=r"code of its own.*model=YourModel\(...\)"):
        ks.load(tmp_path / "run")
    given = Own()
    before = {name: p.clone() for name, p in given.state_dict().items()}
    equal_runs(memory, ks.load(tmp_path / "run", model=given))
    assert all(torch.equal(before[name], p) for name, p in given.state_dict().items())
    for other, sentence in ((Own(7), "'inner.0.weight' has shape \\(7, 3\\) in the model and \\(5, 3\\)"),
                            (nn.Linear(3, 2), "other parameters than the run"), (Own, "instance|Module")):
        with pytest.raises(ModelError, match=sentence):
            ks.load(tmp_path / "run", model=other)


def test_a_model_with_other_buffers_is_refused(tmp_path):
    class Counting(Own):
        def __init__(self, size):
            super().__init__()
            self.register_buffer("seen", torch.zeros(size))

    train(tmp_path / "run", model=Counting(3))
    assert len(ks.load(tmp_path / "run", model=Counting(3))) == 10
    with pytest.raises(ModelError, match="buffer 'seen'.*arguments it was trained with"):
        ks.load(tmp_path / "run", model=Counting(4))
    with pytest.raises(ModelError, match="buffer 'seen'"):
        ks.load(tmp_path / "run", model=Own())


def test_a_loss_of_ones_own_is_asked_for(tmp_path):
    def own(outputs, targets, reduction="mean"):
        return F.mse_loss(outputs, targets, reduction=reduction) * 3

    memory = train(tmp_path / "run", loss=own)
    with pytest.raises(DataError, match="Pass loss=... to load, the function that was given to record"):
        ks.load(tmp_path / "run")
    equal_runs(memory, ks.load(tmp_path / "run", loss=own))


def test_a_loss_module_is_known_by_its_name_and_numbers(tmp_path):
    run = train(tmp_path / "run", loss=nn.HuberLoss(delta=0.3), model=network())
    loaded = ks.load(tmp_path / "run")
    x, y = Points().x, Points().y
    assert torch.equal(loaded.loss(x[:, :2], y), nn.HuberLoss(delta=0.3, reduction="none")(x[:, :2], y))
    assert torch.equal(ks.decompose(loaded, x[:1]).contributions, ks.decompose(run, x[:1]).contributions)


def test_no_run_where_there_is_none(tmp_path):
    with pytest.raises(StoreError, match="no manifest.json"):
        ks.load(tmp_path)
    with pytest.raises(StoreError, match="There is no folder '.*nowhere'. A run is the folder that"):
        ks.load(tmp_path / "nowhere")


# -- averaged weights --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", ["all", 3])
def test_averaged_weights_are_there_at_every_commit(tmp_path, keep):
    points = Points()
    torch.manual_seed(0)
    model = network()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (points.x, points.y), loss=F.mse_loss, average=average, out=tmp_path / "run",
                   commit_every=0, keep=keep) as recording:
        for k in range(7):
            step(model, optimizer, points.x, points.y, Truth(), None)
            average.update_parameters(model)
            if k == 4:
                while recording.acknowledged < 4:
                    time.sleep(0.001)
                killed = ks.load(tmp_path / "run")
                d = ks.decompose(killed, points.x[:2], weights="average")
                assert float(d.residual.abs().max()) < 1e-12
    run = ks.load(tmp_path / "run")
    d = ks.decompose(run, points.x[:2], weights="average")
    assert torch.equal(d.final, average.module(points.x[:2]).detach())


# -- size --------------------------------------------------------------------------------------------------------------


def test_opening_a_run_holds_no_rows(tmp_path, monkeypatch):
    model = nn.Sequential(nn.Linear(64, 500), nn.Tanh(), nn.Linear(500, 10))
    x, y = torch.randn(64, 64), torch.randn(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    monkeypatch.setattr("kernelscope.run.keeping.CHUNK", 2**21)
    with ks.record(model, (x, y), loss=F.mse_loss, out=tmp_path / "run", commit_every=100) as recording:
        for _ in range(400):
            step(model, optimizer, x, y, Truth(), None)
    assert recording.run.store.nbytes > 55e6
    monkeypatch.setattr("kernelscope.run.index.CACHE", 2**22)
    begun = time.perf_counter()
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run = ks.load(tmp_path / "run")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert time.perf_counter() - begun < 5
    assert held < 8e6
    assert sum(size for _, size in run._index._cache.values()) < 2**23
    # The peak counts what was there before; what opening adds to it is a few segments.
    if sys.platform == "linux":
        assert (after - before) * 1024 < 25e6


def test_a_large_set_costs_what_was_seen_of_it():
    class Many(torch.utils.data.Dataset):
        def __len__(self):
            return 4_000_000

        def __getitem__(self, i):
            return torch.full((3000,), i % 7.0), torch.zeros(1)

    model = nn.Linear(3000, 1)
    loader = DataLoader(Many(), batch_sampler=[[5, 3_999_999], [5, 17]])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    with ks.record(model, loader, loss=F.mse_loss) as recording:
        for x, y in loader:
            step(model, optimizer, x, y, Truth(), None)
    run = recording.run
    assert run.size == 4_000_000
    assert sum(len(t) for t in run.samples.inputs) < 10
    assert run.sample(3_999_999)[0][0] == 3_999_999 % 7
    assert run.sample(3_999_998) is None
    assert run.info()["samples_drawn"] == 3
