"""Whatever a loop does with its loader, each step is booked to the samples whose gradient it used."""

import gc
import weakref

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)
from tqdm import tqdm

import kernelscope as ks
from kernelscope.errors import DataError, RecordingError
from tests.training import Points, Truth, network, split, step


class NumpyBatches:
    """A batch sampler of one's own that yields arrays."""

    def __init__(self, n):
        self.n = n

    def __iter__(self):
        held = []
        for i in torch.randperm(self.n).numpy():
            held.append(i)
            if len(held) == 5:
                yield numpy.array(held)
                held.clear()

    def __len__(self):
        return self.n // 5


def weighted(points):
    return WeightedRandomSampler(torch.arange(1.0, 25.0), num_samples=30, replacement=True)


LOADERS = {
    "in order": lambda w: DataLoader(Points(), batch_size=5, num_workers=w),
    "shuffled": lambda w: DataLoader(Points(), batch_size=5, shuffle=True, num_workers=w),
    "without the last": lambda w: DataLoader(Points(), batch_size=5, shuffle=True, drop_last=True, num_workers=w),
    "with repeats": lambda w: DataLoader(Points(), batch_size=5, sampler=weighted(Points()), num_workers=w),
    "by a sampler of numpy": lambda w: DataLoader(Points(), batch_sampler=NumpyBatches(24), num_workers=w),
    "by a batch sampler": lambda w: DataLoader(
        Points(), batch_sampler=BatchSampler(RandomSampler(Points()), 7, drop_last=False), num_workers=w),
    "persistent": lambda w: DataLoader(Points(), batch_size=5, shuffle=True, num_workers=w, persistent_workers=w > 0),
    "augmented": lambda w: DataLoader(Points(noise=0.3), batch_size=5, shuffle=True, num_workers=w),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", LOADERS)
def test_every_kind_of_loader_names_its_samples(name, workers):
    loader = LOADERS[name](workers)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, loader, loss=F.mse_loss, batch=split) as recording:
        for _ in range(2):
            for x, ids, y in loader:
                step(model, optimizer, x, y, truth, ids)
    truth.hold(recording.run)
    assert recording.run.draws == (name == "augmented")


def test_the_ids_of_a_subset_count_within_it():
    points = Points()
    loader = DataLoader(Subset(points, [20, 3, 11, 7]), batch_size=3)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, loader, loss=F.mse_loss, batch=split) as recording:
        for x, _, y in loader:
            step(model, optimizer, x, y, Truth(), None)
    run = recording.run
    assert run.size == 4
    assert [run.step(k).batches[0].columns.tolist() for k in range(2)] == [[0, 1, 2], [3]]
    assert torch.equal(run.sample(1)[0], points.x[3])


NAMED = TensorDataset(torch.randn(9, 3, generator=torch.Generator().manual_seed(4)), torch.arange(9) + 100,
                      torch.arange(9.0).reshape(9, 1))


@pytest.mark.parametrize(("data", "place", "names"), [
    (Subset(NAMED, [7, 2, 5]), lambda data, i: data.dataset[data.indices[i]], [107, 102, 105]),
    (ConcatDataset([Subset(NAMED, [7, 2]), Subset(NAMED, [0, 1])]), lambda data, i: data[i], [107, 102, 100, 101]),
])
def test_ids_are_places_in_what_the_loader_reads_unless_ids_gives_others(data, place, names):
    runs = []
    for ids in (None, lambda batch: batch[1]):
        torch.manual_seed(0)
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader = DataLoader(data, batch_size=2, shuffle=True)
        with ks.record(model, loader, loss=F.mse_loss, batch=lambda b: (b[0], b[2]), ids=ids) as recording:
            for x, _, y in loader:
                optimizer.zero_grad()
                F.mse_loss(model(x), y).backward()
                optimizer.step()
        runs.append(recording.run)
    plain, named = runs
    assert list(plain.samples.ids) == list(range(len(data)))
    for i in range(len(data)):
        assert torch.equal(plain.sample(i)[0], place(data, i)[0])
    assert sorted(named.samples.ids) == sorted(names)
    for column, name in enumerate(named.samples.ids):
        assert torch.equal(named.sample(column)[1], NAMED[name - 100][2])
    ledgers = [ks.decompose(run, NAMED.tensors[0][:1]) for run in runs]
    shares = [dict(zip(ledger.sample_ids.tolist(), ledger.contributions[0, 0].tolist(), strict=True))
              for ledger in ledgers]
    assert {names[i]: share for i, share in shares[0].items()} == pytest.approx(shares[1])


# -- loops as people write them ----------------------------------------------------------------------------------------


def plain(loader, model, optimizer, truth):
    for _ in range(2):
        for x, ids, y in loader:
            step(model, optimizer, x, y, truth, ids)


def with_a_bar(loader, model, optimizer, truth):
    for x, ids, y in tqdm(loader, disable=True):
        step(model, optimizer, x, y, truth, ids)


def enumerated_and_zipped(loader, model, optimizer, truth):
    for _, (_, (x, ids, y)) in enumerate(zip(range(10), loader, strict=False)):
        step(model, optimizer, x, y, truth, ids)


def by_hand(loader, model, optimizer, truth):
    iterator = iter(loader)
    for _ in range(len(iterator)):
        x, ids, y = next(iterator)
        step(model, optimizer, x, y, truth, ids)


def broken_off(loader, model, optimizer, truth):
    for _ in range(3):
        for j, (x, ids, y) in enumerate(loader):
            if j == 2:
                break
            step(model, optimizer, x, y, truth, ids)


def nested(loader, model, optimizer, truth):
    for x, ids, y in loader:
        for x2, ids2, y2 in loader:
            step(model, optimizer, x2, y2, truth, ids2)
            break
        step(model, optimizer, x, y, truth, ids)


def with_skipped_batches(loader, model, optimizer, truth):
    for j, (x, ids, y) in enumerate(loader):
        if j % 2:
            step(model, optimizer, x, y, truth, ids)


def kept_in_a_list(loader, model, optimizer, truth):
    batches = list(loader)
    for x, ids, y in batches + batches[::-1]:
        step(model, optimizer, x, y, truth, ids)


def fetching_ahead(loader, model, optimizer, truth):
    iterator = iter(loader)
    ahead = next(iterator)
    while ahead is not None:
        x, ids, y = ahead
        ahead = next(iterator, None)
        step(model, optimizer, x, y, truth, ids)


def several_steps_on_each_batch(loader, model, optimizer, truth):
    for x, ids, y in loader:
        for _ in range(3):
            step(model, optimizer, x, y, truth, ids)


def evaluated_without_gradients(loader, model, optimizer, truth):
    for x, ids, y in loader:
        model.eval()
        with torch.no_grad():
            for other, _, _ in loader:
                model(other)
        model.train()
        step(model, optimizer, x, y, truth, ids)


def evaluated_carelessly(loader, model, optimizer, truth):
    for x, ids, y in loader:
        step(model, optimizer, x, y, truth, ids)
        for other, _, y2 in loader:
            F.mse_loss(model(2 * other + 1), y2).item()


def evaluated_on_other_data(loader, model, optimizer, truth):
    for x, ids, y in loader:
        model(torch.randn(len(x), 3).double())
        step(model, optimizer, x, y, truth, ids)
        model(torch.randn(9, 3).double())


def with_a_skipped_step(loader, model, optimizer, truth):
    for j, (x, ids, y) in enumerate(loader):
        if j == 1:
            # A gradient that was found too large: cleared, not used.
            F.mse_loss(model(x), y).backward()
            continue
        step(model, optimizer, x, y, truth, ids)


def accumulated(loader, model, optimizer, truth):
    optimizer.zero_grad()
    for j, (x, ids, y) in enumerate(loader):
        truth.now.append(ids)
        (F.mse_loss(model(x), y) / 2).backward()
        if j % 2:
            optimizer.step()
            optimizer.zero_grad()


def cut_into_pieces(loader, model, optimizer, truth):
    for x, ids, y in loader:
        if len(x) % 2:
            continue
        optimizer.zero_grad()
        for part in (slice(0, len(x) // 2), slice(len(x) // 2, None)):
            truth.now.append(ids[part])
            (F.mse_loss(model(x[part]), y[part]) / 2).backward()
        optimizer.step()


def two_passes_one_backward(loader, model, optimizer, truth):
    pair = []
    for x, ids, y in loader:
        pair.append((x, ids, y))
        if len(pair) == 2:
            optimizer.zero_grad()
            truth.now += [ids for _, ids, _ in reversed(pair)]
            (sum(F.mse_loss(model(x), y) for x, _, y in pair) / 2).backward()
            optimizer.step()
            pair.clear()


def two_backwards_one_pass(loader, model, optimizer, truth):
    for x, ids, y in loader:
        truth.now.append(ids)
        optimizer.zero_grad()
        half = F.mse_loss(model(x), y) / 2
        half.backward(retain_graph=True)
        half.backward()
        optimizer.step()


LOOPS = [plain, with_a_bar, enumerated_and_zipped, by_hand, broken_off, nested, with_skipped_batches, kept_in_a_list,
         fetching_ahead, several_steps_on_each_batch, evaluated_without_gradients, evaluated_carelessly,
         evaluated_on_other_data, with_a_skipped_step, accumulated, cut_into_pieces, two_passes_one_backward,
         two_backwards_one_pass]


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_every_loop_is_booked_to_the_samples_it_used(loop, workers):
    loader = DataLoader(Points(), batch_size=6, shuffle=True, num_workers=workers)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, loader, loss=F.mse_loss, batch=split) as recording:
        loop(loader, model, optimizer, truth)
    if loop is two_passes_one_backward:
        # Autograd goes from the last pass to the first.
        assert [len(s.batches) for s in recording.run] == [2, 2]
    truth.hold(recording.run)
    # The table holds what was trained on, and nothing that was only looked at.
    for i in recording.run.samples.seen.nonzero().flatten().tolist():
        assert torch.equal(recording.run.sample(i)[0], loader.dataset.x[i])
        assert torch.equal(recording.run.sample(i)[1], loader.dataset.y[i])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_that_cannot_be_read_takes_its_ids_with_it(workers):
    loader = DataLoader(Points(broken=[8]), batch_size=6, num_workers=workers)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    failed = 0
    with ks.record(model, loader, loss=F.mse_loss, batch=split) as recording:
        iterator = iter(loader)
        for _ in range(4):
            try:
                x, ids, y = next(iterator)
            except OSError:
                failed += 1
                continue
            step(model, optimizer, x, y, truth, ids)
    assert failed == 1
    assert [ids[0].tolist()[0] for ids in truth.ids] == [0, 12, 18]
    truth.hold(recording.run)


WAYS = {
    "reshaped": (nn.Flatten(), lambda x: x.view(-1, 1, 3)),
    "scaled": (nn.Identity(), lambda x: x / 3 - 1),
    "cast": (nn.Identity(), lambda x: x.float().double()),
    "one-hot": (nn.Identity(), lambda x: F.one_hot((x > 0).long().sum(1), 4)[:, :3].double()),
}


@pytest.mark.parametrize("way", WAYS)
def test_what_counts_is_what_reached_the_network(way):
    first, change = WAYS[way]
    loader = DataLoader(Points(), batch_size=6, shuffle=True)
    model = nn.Sequential(first, network())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, loader, loss=F.mse_loss, batch=split) as recording:
        for _ in range(2):
            for x, ids, y in loader:
                step(model, optimizer, change(x), y, truth, ids)
    truth.hold(recording.run)
    assert torch.equal(recording.run.sample(5)[0], change(loader.dataset.x[5:6])[0])
    assert not recording.run.draws


# -- loops without a loader --------------------------------------------------------------------------------------------


def test_a_loop_over_all_samples_says_nothing():
    points = Points()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, (points.x, points.y), loss=F.mse_loss) as recording:
        for _ in range(3):
            step(model, optimizer, points.x, points.y, truth, range(24))
    truth.hold(recording.run)
    assert bool(recording.run.samples.seen.all())
    assert not recording.run.draws


@pytest.mark.parametrize("kind", [torch.as_tensor, list, lambda ids: torch.as_tensor(ids).numpy()])
def test_a_loop_that_indexes_says_which(kind):
    points = Points()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, (points.x, points.y), loss=F.mse_loss) as recording:
        for ids in torch.randperm(24).split(7):
            recording.batch(kind(ids.tolist()))
            step(model, optimizer, points.x[ids], points.y[ids], truth, ids)
    truth.hold(recording.run)


def test_a_loop_that_slices_needs_to_say_nothing():
    points = Points()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, (points.x, points.y), loss=F.mse_loss) as recording:
        for a in range(0, 24, 7):
            step(model, optimizer, points.x[a:a + 7], points.y[a:a + 7], truth, range(a, min(a + 7, 24)))
        step(model, optimizer, points.x[1::2], points.y[1::2], truth, range(1, 24, 2))
    truth.hold(recording.run)


def test_a_word_about_one_pass_is_not_taken_for_the_next():
    points = Points()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RecordingError, match=r"recording.batch\(ids\) before each forward pass"):  # noqa: PT012
        with ks.record(model, (points.x, points.y), loss=F.mse_loss) as recording:
            recording.batch([1, 2, 3])
            step(model, optimizer, points.x[[1, 2, 3]], points.y[[1, 2, 3]], Truth(), None)
            step(model, optimizer, points.x[[4, 5, 6]], points.y[[4, 5, 6]], Truth(), None)
    assert len(recording.run) == 1


# -- other batches -----------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __init__(self, ids):
        self.ids = ids

    def __iter__(self):
        points = Points(n=2000)
        for i in self.ids:
            yield points[i]


@pytest.mark.parametrize("out", [None, "run"])
def test_a_stream_is_named_by_ids(tmp_path, out):
    ids = [1500, 3, 7, 3, 900, 1500, 1, 0, 3, 64]
    loader = DataLoader(Stream(ids), batch_size=3)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, loader, loss=F.mse_loss, batch=split, ids=lambda b: b[1], commit_every=0,
                   out=out and tmp_path / out) as recording:
        for x, names, y in loader:
            # A first look gives an id a column, and leaves no sample.
            model(x + 1)
            step(model, optimizer, x, y, truth, names)
    truth.hold(recording.run)
    assert list(recording.run.samples.ids) == [1500, 3, 7, 900, 1, 0, 64]
    d = ks.decompose(recording.run, torch.randn(1, 3).double())
    assert d.sample_ids.tolist() == [1500, 3, 7, 900, 1, 0, 64]


def labels_as_names(batch):
    return (batch[2][:, 0] > 0).long()


NAMESAKES = {
    "two samples of one batch that are not the same": ([0, 1, 2, 3, 4, 5], labels_as_names),
    "a sample whose input and target are both others than before": ([0, 1, 2, 3, 4, 5], lambda batch: range(3)),
    "The id 7 was given": ([0, 1, 2, 3, 4, 5], lambda batch: [7 if i in (1, 4) else int(i) for i in batch[1]]),
}


@pytest.mark.parametrize("out", [None, "run"])
@pytest.mark.parametrize("sentence", NAMESAKES)
def test_an_id_that_stands_for_two_samples_is_refused_when_the_second_one_comes(tmp_path, sentence, out):
    ids, name = NAMESAKES[sentence]
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recording = ks.record(model, DataLoader(Stream(ids), batch_size=3), loss=F.mse_loss, batch=split, ids=name,
                          commit_every=0, out=out and tmp_path / out)
    steps = 0
    with pytest.raises(DataError, match=f"{sentence}.*do not tell samples apart"), recording:  # noqa: PT012
        for x, _, y in recording._source._tap.loader:
            step(model, optimizer, x, y, Truth(), [])
            steps += 1
    assert steps == (0 if name is labels_as_names else 1)
    if steps:
        assert len(recording.run) == 1
        assert ks.decompose(recording.run, torch.randn(1, 3).double()).completeness() < 1e-12


def test_a_sample_of_a_stream_may_come_in_changing_forms():
    class Noisy(Stream):
        def __iter__(self):
            for x, i, y in super().__iter__():
                yield x + torch.randn(3).double(), i, torch.full_like(y, torch.nan) if i == 2 else y

    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = lambda outputs, y: (outputs - y).nan_to_num() ** 2
    loader = DataLoader(Noisy([0, 1, 2, 2, 0, 1]), batch_size=3)
    with ks.record(model, loader, loss=loss, batch=split, ids=lambda b: b[1]) as recording:
        for x, _, y in loader:
            step(model, optimizer, x, y, Truth(), [], loss=lambda outputs, y: loss(outputs, y).mean())
    assert list(recording.run.samples.ids) == [0, 1, 2]
    assert recording.run.draws


@pytest.mark.parametrize("out", [None, "run"])
def test_a_sample_may_be_drawn_twice_into_a_batch_in_two_forms(tmp_path, out):
    points = Points(n=6, noise=0.1)
    sampler = torch.utils.data.RandomSampler(points, replacement=True, num_samples=20)
    loader = DataLoader(points, batch_size=5, sampler=sampler)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, loader, loss=F.mse_loss, batch=split, out=out and tmp_path / out) as recording:
        for x, ids, y in loader:
            assert len(set(ids.tolist())) < len(ids) or truth.ids
            step(model, optimizer, x, y, truth, ids)
    truth.hold(recording.run)
    if out is not None:
        truth.hold(ks.load(tmp_path / out, model=model))


def test_samples_of_many_lengths_are_kept_with_their_steps(tmp_path):
    data = [(torch.randn(2 + i % 3, 3).double(), i, torch.randn(2).double()) for i in range(9)]
    pad = lambda rows: (nn.utils.rnn.pad_sequence([x for x, _, _ in rows], batch_first=True),
                        torch.tensor([i for _, i, _ in rows]), torch.stack([y for _, _, y in rows]))
    loader = DataLoader(data, batch_size=2, shuffle=True, collate_fn=pad)

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, x):
            return self.inner(x.mean(1))

    model = Mean()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, loader, loss=F.mse_loss, batch=split, ids=lambda b: 10 * b[1], out=tmp_path / "run",
                   ) as recording:
        for x, ids, y in loader:
            step(model, optimizer, x, y, truth, 10 * ids)
    truth.hold(recording.run)


def test_batches_may_be_dictionaries():
    points = Points()
    data = [{"x": points.x[i], "y": points.y[i], "i": i} for i in range(24)]
    loader = DataLoader(data, batch_size=5, shuffle=True)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, loader, loss=F.mse_loss, batch=lambda b: (b["x"], b["y"])) as recording:
        for batch in list(loader):
            step(model, optimizer, batch["x"], batch["y"], truth, batch["i"])
    truth.hold(recording.run)


def test_an_input_may_be_its_own_target():
    x = torch.randn(12, 2).double()
    loader = DataLoader(x, batch_size=4, shuffle=True)
    model = nn.Linear(2, 2).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, loader, loss=F.mse_loss, batch=lambda b: (b, b)) as recording:
        for batch in loader:
            step(model, optimizer, batch, batch, truth, [int((x == row).all(1).nonzero()) for row in batch])
    truth.hold(recording.run)


def test_a_network_may_take_several_inputs():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, a, b):
            return self.inner(a * b)

    points = Points()
    loader = DataLoader(TensorDataset(points.x, points.x.flip(0), points.y), batch_size=5, shuffle=True)
    model = Sum()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, loader, loss=F.mse_loss) as recording:
        for a, b, y in loader:
            truth.now.append([int((points.x == row).all(1).nonzero()) for row in a])
            optimizer.zero_grad()
            F.mse_loss(model(a, b), y).backward()
            optimizer.step()
    truth.hold(recording.run)


# -- the loader is left as it was --------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_the_loader_is_left_as_it_was(workers, error):
    class Own(DataLoader):
        pass

    loader = Own(Points(), batch_size=5, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    before = (type(loader), loader.batch_sampler, loader.sampler, sorted(vars(loader)))
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    try:
        with ks.record(model, loader, loss=F.mse_loss, batch=split) as recording:
            assert loader.batch_sampler is before[1]
            assert isinstance(loader, Own)
            assert len(loader) == 5
            for x, _, y in loader:
                step(model, optimizer, x, y, Truth(), None)
                if error is not None:
                    raise error
    except (ValueError, KeyboardInterrupt):
        pass
    assert (type(loader), loader.batch_sampler, loader.sampler, sorted(vars(loader))) == before
    assert len(list(loader)) == 5
    # The same loader, with the workers it keeps, is recorded once more.
    truth = Truth(optimizer)
    with ks.record(model, loader, loss=F.mse_loss, batch=split) as recording:
        for x, ids, y in loader:
            step(model, optimizer, x, y, truth, ids)
    truth.hold(recording.run)


def test_batches_that_are_delivered_again_and_again_are_held_once():
    points = Points()
    batches = [(points.x[i:i + 6], torch.arange(i, i + 6), points.y[i:i + 6]) for i in range(0, 24, 6)]
    loader = DataLoader(batches, batch_size=None, shuffle=True)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    truth = Truth(optimizer)
    with ks.record(model, loader, loss=F.mse_loss, batch=split, ids=lambda b: b[1]) as recording:
        for _ in range(5):
            for x, ids, y in loader:
                step(model, optimizer, x, y, truth, ids)
        held = [entry for entries in recording._source._deliveries._older.values() for entry in entries]
        assert len(held) <= 3 * len(batches)
    truth.hold(recording.run)


def test_batches_that_are_let_go_are_let_go():
    loader = DataLoader(Points(), batch_size=6)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, loader, loss=F.mse_loss, batch=split) as recording:
        seen = []
        for x, ids, y in loader:
            step(model, optimizer, x, y, Truth(), None)
            seen += [weakref.ref(x), weakref.ref(ids), weakref.ref(y)]
        del x, ids, y
        gc.collect()
        # The last batch may still be trained on; those before it are in nobody's hands.
        assert [reference() is None for reference in seen] == [True] * 9 + [False] * 3
        assert len(recording._source._deliveries._older) == 0
    gc.collect()
    assert not any(reference() is not None for reference in seen)


@pytest.mark.parametrize("workers", [0, 2])
def test_recording_and_loader_are_freed_without_the_garbage_collector(workers):
    loader = DataLoader(Points(), batch_size=5, num_workers=workers, persistent_workers=workers > 0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    gc.collect()
    gc.disable()
    try:
        with ks.record(model, loader, loss=F.mse_loss, batch=split) as recording:
            for x, _, y in loader:
                step(model, optimizer, x, y, Truth(), None)
            outputs = model(x)
        run = recording.run
        gone = weakref.ref(recording), weakref.ref(loader), weakref.ref(loader.dataset)
        del recording, loader
        assert [reference() for reference in gone] == [None] * 3
        # A pass that was left over has nobody to tell.
        outputs.sum().backward()
        model_gone = weakref.ref(model)
        del model, optimizer, outputs, x, y
        assert model_gone() is None
        assert len(run) == 5
    finally:
        gc.enable()


# -- loaders that cannot be named --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loader", "sentence"), [
    (lambda: DataLoader(Stream([1, 2]), batch_size=2), "IterableDataset.*ids=lambda batch: batch"),
    (lambda: DataLoader(Points(), batch_size=None), "batch_size=None.*Give the loader a batch_size"),
    (lambda: DataLoader(Points(), batch_size=2, num_workers=2, in_order=False), "in_order=False.*Set in_order=True"),
    (lambda: [1, 2, 3], "must be a DataLoader or a pair"),
    (lambda: (torch.zeros(3, 1), torch.zeros(2)), r"one row for each sample; they have \[3, 2\] rows"),
])
def test_samples_without_a_name_are_refused_at_once(loader, sentence):
    with pytest.raises((RecordingError, DataError), match=sentence):
        ks.record(network(), loader(), loss=F.mse_loss)


@pytest.mark.parametrize(("ids", "sentence"), [
    (lambda b: ["a", "b"], "must be whole numbers.*\\['a', 'b'\\] came"),
    (lambda b: torch.tensor([0.5, 1.5]), "must be whole numbers"),
])
def test_ids_are_whole_numbers(ids, sentence):
    loader = DataLoader(Stream([1, 2]), batch_size=2)
    with pytest.raises(RecordingError, match=sentence), ks.record(network(), loader, loss=F.mse_loss, ids=ids):
        next(iter(loader))


@pytest.mark.parametrize("workers", [0, 1])
def test_two_recordings_do_not_share_a_loader(workers):
    loader = DataLoader(Points(), batch_size=5, num_workers=workers, persistent_workers=workers > 0)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, loader, loss=F.mse_loss, batch=split) as recording:
        for x, _, y in loader:
            step(model, optimizer, x, y, Truth(), None)
        with pytest.raises(RecordingError, match="Another recording listens"):
            ks.record(network(), loader, loss=F.mse_loss).__enter__()
        for x, _, y in loader:
            step(model, optimizer, x, y, Truth(), None)
    assert len(recording.run) == 10
