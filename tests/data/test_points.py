"""Points are the same points wherever they come from: each source against slices of the tensors it was made of."""

import random
import resource
from collections import UserDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from kernelscope.data.points import Points, as_points
from kernelscope.errors import DataError, NonFiniteError, UnsafeFile

N = 11
X = torch.arange(3.0 * N).view(N, 3)
Y = torch.arange(N) % 4


class Samples(Dataset):
    """A data set of samples that are made one by one."""

    def __init__(self, make, count=N):
        self.make, self.count = make, count

    def __getitem__(self, i):
        return self.make(i)

    def __len__(self):
        return self.count


def pairs(**options):
    return DataLoader(Samples(lambda i: (X[i], Y[i])), batch_size=4, **options)


def named(i):
    return {"x": X[i], "labels": Y[i]}


def array(path, values):
    np.save(path, values.numpy())
    return path


def chunks(folder, values, name):
    return [array(folder / f"{name}{i}.npy", values[i:i + 4]) for i in range(0, len(values), 4)]


SOURCES = {
    "tensors": lambda _: (X, Y),
    "list of tensors, as a loader gives it": lambda _: [X, Y],
    "arrays": lambda _: (X.numpy(), Y.numpy()),
    "files": lambda folder: (array(folder / "x.npy", X), array(folder / "y.npy", Y)),
    "files by name": lambda folder: (str(array(folder / "x.npy", X)), Y),
    "chunks of files": lambda folder: (chunks(folder, X, "x"), chunks(folder, Y, "y")),
    "tensor data set": lambda _: TensorDataset(X, Y),
    "data set": lambda _: Samples(lambda i: (X[i], Y[i])),
    "list of samples": lambda _: [(X[i], Y[i]) for i in range(N)],
    "loader": lambda _: pairs(),
    "loader of tensors": lambda _: DataLoader(TensorDataset(X, Y), batch_size=4),
    "loader with workers": lambda _: pairs(num_workers=2),
    "loader with a batch sampler": lambda _: DataLoader(
        TensorDataset(X, Y), batch_sampler=BatchSampler(SequentialSampler(X), 4, drop_last=False)),
}
NAMED = {
    "dictionary": lambda _: {"x": X, "labels": Y},
    "dictionary of arrays": lambda _: {"x": X.numpy(), "labels": Y.numpy()},
    "dictionary of files": lambda folder: {"x": chunks(folder, X, "x"), "labels": array(folder / "y.npy", Y)},
    "batch of a tokenizer": lambda _: UserDict(x=X, labels=Y),
    "data set of dictionaries": lambda _: Samples(named),
    "loader of dictionaries": lambda _: DataLoader(Samples(named), batch_size=4),
    "file of tensors": lambda folder: tensors(folder / "all.safetensors", slice(None)),
    "files of tensors": lambda folder: [tensors(folder / f"{i}.safetensors", slice(i, i + 4)) for i in range(0, N, 4)],
}


def tensors(path, rows):
    save_file({"x": X[rows].contiguous(), "labels": Y[rows].contiguous()}, path)
    return path


def each(sources):
    return pytest.mark.parametrize("source", sources.values(), ids=sources.keys())


def same(part, x, y):
    assert torch.equal(part.args[0] if part.args else part.kwargs["x"], x)
    assert len(part.args) + len(part.kwargs) == 1
    assert part.targets is None if y is None else torch.equal(part.targets, y)


@each({**SOURCES, **NAMED})
def test_every_part_and_every_choice_is_a_slice_of_the_tensors(source, tmp_path):
    points = as_points(source(tmp_path), targets=True)
    assert len(points) == N
    for start, stop in ((0, N), (0, 1), (3, 9), (10, 11), (7, 99)):
        same(points.part(start, stop), X[start:stop], Y[start:stop])
    numbers = [8, 3, 3, 0, 10]
    same(points.chosen(numbers).part(0, 5), X[numbers], Y[numbers])
    same(points.chosen(range(2, 9)).part(1, 3), X[3:5], Y[3:5])
    same(points.chosen(range(0, 9, 2)).part(1, 4), X[2:8:2], Y[2:8:2])
    same(points.chosen(numbers).chosen([4, 1]).part(0, 2), X[[10, 3]], Y[[10, 3]])


@each({name: source for name, source in {**SOURCES, **NAMED}.items()
       if "data set" in name or name.startswith("loader") or name == "list of samples"})
def test_a_data_set_gives_its_inputs_alone_where_targets_are_not_asked_for(source, tmp_path):
    same(as_points(source(tmp_path)).part(2, 7), X[2:7], None)


def test_without_targets_every_tensor_is_an_input():
    part = as_points((X, Y)).part(0, 2)
    assert [len(arg) for arg in part.args] == [2, 2]
    part = as_points({"x": X, "labels": Y}).part(0, 2)
    assert sorted(part.kwargs) == ["labels", "x"]


@pytest.mark.parametrize("source", [lambda _: X, lambda _: X.numpy(), lambda f: array(f / "x.npy", X),
                                    lambda f: chunks(f, X, "x"), lambda _: TensorDataset(X),
                                    lambda _: Samples(lambda i: X[i]), lambda _: DataLoader(Samples(lambda i: X[i]))])
def test_inputs_alone_are_points_and_have_no_targets(source, tmp_path):
    same(as_points(source(tmp_path)).part(1, 6), X[1:6], None)
    with pytest.raises(DataError, match="target"):
        as_points(source(tmp_path), targets=True).part(0, 1)


def test_a_sample_of_several_inputs_keeps_their_nesting():
    points = as_points(Samples(lambda i: ((X[i], X[i] + 1), Y[i])), targets=True)
    (first, second), = points.part(0, 2).args
    assert torch.equal(second, first + 1)


def test_points_are_points_already():
    points = as_points(X)
    assert as_points(points, targets=True) is points


# -- loaders ---------------------------------------------------------------------------------------------------------


def test_a_loader_that_drops_its_last_batch_has_these_points_less():
    points = as_points(pairs(drop_last=True), targets=True)
    assert len(points) == 8
    same(points.part(4, 8), X[4:8], Y[4:8])


def test_the_order_of_a_sampler_is_kept():
    numbers = [5, 2, 9, 0]
    points = as_points(DataLoader(Samples(lambda i: (X[i], Y[i])), sampler=numbers, batch_size=3), targets=True)
    same(points.part(0, 4), X[numbers], Y[numbers])
    batches = [[5, 2], [9], [0]]
    points = as_points(DataLoader(TensorDataset(X, Y), batch_sampler=batches), targets=True)
    same(points.part(1, 4), X[numbers[1:]], Y[numbers[1:]])


def test_the_own_collate_of_a_loader_is_called():
    def twice(samples):
        return torch.stack([2 * x for x, _ in samples]), torch.tensor([y for _, y in samples])

    points = as_points(pairs(collate_fn=twice), targets=True)
    same(points.part(3, 6), 2 * X[3:6], Y[3:6])
    same(points.chosen([8, 1]).part(0, 2), 2 * X[[8, 1]], Y[[8, 1]])


def test_a_collate_that_pads_is_called_with_all_samples_of_a_choice():
    lengths = [2, 5, 3, 4]
    pad = lambda samples: torch.nn.utils.rnn.pad_sequence(samples, batch_first=True)
    points = as_points(DataLoader(Samples(lambda i: torch.ones(lengths[i]), 4), batch_size=2, collate_fn=pad))
    assert points.part(0, 4).args[0].shape == (4, 5)
    assert points.chosen([2, 3]).part(0, 2).args[0].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]


class Restless(Sampler):
    def __iter__(self):
        return iter(torch.randperm(N).tolist())

    def __len__(self):
        return N


class Endless(Sampler):
    def __iter__(self):
        while True:
            yield 0


@pytest.mark.parametrize("options", [
    {"shuffle": True, "batch_size": 4},
    {"sampler": WeightedRandomSampler(torch.ones(N), N), "batch_size": 4},
    {"sampler": torch.utils.data.SubsetRandomSampler(range(4))},
    {"sampler": Restless(), "batch_size": 4},
    {"sampler": Endless(), "batch_size": 4},
    {"batch_sampler": BatchSampler(Restless(), 4, drop_last=False)},
    {"batch_sampler": BatchSampler(torch.utils.data.RandomSampler(X), 4, drop_last=False)},
    {"sampler": torch.utils.data.DistributedSampler(X, num_replicas=1, rank=0, shuffle=True), "batch_size": 4},
], ids=["shuffle", "weighted", "subset", "own sampler", "endless", "own batches", "random batches", "distributed"])
def test_a_loader_that_shuffles_is_refused(options):
    with pytest.raises(DataError, match="shuffles.*shuffle=False"):
        as_points(DataLoader(TensorDataset(X, Y), **options), targets=True)


def test_a_loader_without_batches_is_refused():
    with pytest.raises(DataError, match="batch_size=None"):
        as_points(DataLoader(Samples(lambda i: (X[i:i + 2], Y[i:i + 2])), batch_size=None))


# -- what is left alone ----------------------------------------------------------------------------------------------


def noisy(i):
    return X[i] + torch.randn(3) + random.random() + np.random.rand(), Y[i]  # noqa: NPY002


def state():
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


@pytest.mark.parametrize("source", [Samples(noisy), DataLoader(Samples(noisy), batch_size=4),
                                    DataLoader(Samples(lambda i: (X[i], Y[i])), sampler=[3, 1]), [X[0], X[1]]])
def test_reading_leaves_the_random_state_alone(source):
    before = state()
    points = as_points(source)
    points.part(0, 2), points.chosen([1]).part(0, 1)
    assert state() == before


def test_a_data_set_that_draws_random_numbers_gives_the_same_point_whenever_it_is_read():
    points = as_points(Samples(noisy))
    whole = points.part(0, N).args[0]
    torch.randn(5), random.random()
    assert torch.equal(points.part(4, 7).args[0], whole[4:7])
    assert torch.equal(points.chosen([9, 2]).part(0, 2).args[0], whole[[9, 2]])
    assert not torch.equal(whole[1] - X[1], whole[0] - X[0])


def test_workers_are_not_started(monkeypatch):
    monkeypatch.setattr(DataLoader, "__iter__", lambda _: pytest.fail("the loader was started"))
    as_points(pairs(num_workers=2), targets=True).part(0, 3)


def test_parts_of_a_file_may_be_written_to_and_the_file_stays(tmp_path):
    path = array(tmp_path / "x.npy", X)
    part = as_points(path).part(0, 4).args[0]
    part += 1
    assert torch.equal(as_points(path).part(0, 4).args[0], X[:4])


# -- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "chunks"])
def test_only_the_rows_that_are_asked_for_are_read(tmp_path, kind):
    # Two gigabytes that take no room on the disk, and would take it in memory.
    rows, width = 2**15, 2**14
    paths = [tmp_path / f"{i}.npy" for i in range(1 if kind == "npy" else 4)]
    for path in paths:
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows // len(paths), width))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    points = as_points(paths)
    parts = [points.part(start, start + 8) for start in (0, rows // 2 - 4, rows - 8)]
    parts.append(points.chosen([rows - 1, 5, rows // 2]).part(0, 3))
    assert [part.args[0].shape for part in parts] == [(8, width)] * 3 + [(3, width)]
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 100 * 2**20


def test_more_files_than_a_process_may_keep_open_are_read(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    paths = [array(tmp_path / f"{i}.npy", X[:1] + i) for i in range(200)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        assert as_points(paths).part(0, 200).args[0][:, 0].tolist() == list(range(200))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("dtype", ["float64", ">f4", "float16", "int8", "bool", "uint8"])
def test_numbers_of_any_kind_and_byte_order_are_read(tmp_path, dtype):
    values = (X % 2).numpy().astype(dtype)
    np.save(tmp_path / "x.npy", values)
    for source in (values, tmp_path / "x.npy", np.asfortranarray(values)):
        assert as_points(source).part(0, N).args[0].tolist() == values.tolist()


def damaged(path):
    array(path, X)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def written(path, content):
    path.write_bytes(content)
    return path


def pickled(path):
    np.save(path, np.array([{"x": 1}], dtype=object), allow_pickle=True)
    return path


def zipped(path):
    np.savez(path.with_suffix(".npz"), X.numpy())
    return path.with_suffix(".npz").rename(path)


@pytest.mark.parametrize(("make", "error", "match"), [
    (lambda f: f / "none.npy", DataError, "no file"),
    (lambda f: f / "none.safetensors", DataError, "no file"),
    (lambda f: f, DataError, "neither"),
    (lambda f: "a sentence", DataError, "neither"),
    (lambda f: f / "x.pt", DataError, "neither"),
    (lambda f: [], DataError, "no points"),
    (lambda f: pickled(f / "x.npy"), UnsafeFile, "Python objects"),
    (lambda f: written(f / "x.npy", b"\x80\x04K\x01."), UnsafeFile, "no plain array"),
    (lambda f: written(f / "x.npy", b""), UnsafeFile, "no plain array"),
    (lambda f: damaged(f / "x.npy"), UnsafeFile, "no plain array"),
    (lambda f: zipped(f / "x.npy"), UnsafeFile, "several arrays"),
    (lambda f: written(f / "x.safetensors", b"nothing"), UnsafeFile, "no file of tensors"),
    (lambda f: [array(f / "a.npy", X), array(f / "b.npy", X[:, :2])], DataError, "different shapes"),
    (lambda f: [array(f / "a.npy", X), tensors(f / "b.safetensors", slice(None))], DataError, "cannot stand here"),
    (lambda f: (X, tensors(f / "b.safetensors", slice(None))), DataError, "cannot stand here"),
    (lambda f: array(f / "a.npy", torch.tensor(1.0)), DataError, "leading axis"),
    (lambda f: array(f / "a.npy", X[:0]), DataError, "no rows"),
])
def test_a_file_that_is_no_array_is_refused(make, error, match, tmp_path):
    with pytest.raises(error, match=match):
        as_points(make(tmp_path))


def test_files_of_tensors_with_different_names_are_refused(tmp_path):
    save_file({"x": X}, tmp_path / "a.safetensors")
    save_file({"z": X}, tmp_path / "b.safetensors")
    with pytest.raises(DataError, match=r"different names, \[\['x'\], \['z'\]\]"):
        as_points([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


# -- what is refused -------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


class WithoutLength(Dataset):
    def __getitem__(self, i):
        return X[i]


@pytest.mark.parametrize(("source", "match"), [
    (Stream(), "iterable"),
    (DataLoader(Stream()), "iterable"),
    (WithoutLength(), "iterable"),
    (X[:0], "no rows"),
    (TensorDataset(X[:0], Y[:0]), "no rows"),
    ([], "no points"),
    ({}, "no points"),
    ((), "no points"),
    (torch.tensor(1.0), "leading axis"),
    ((X, Y[:5]), r"one row of each tensor.*\(11, 3\), \(5,\)"),
    ({"x": X, "mask": Y[:5]}, "one row of each tensor"),
    ({"x": X, "text": ["a"] * N}, "'a' is neither"),
    ({"x": X, "text": [1, 2]}, "entry 'text' is a list"),
    ({"x": X, "cache": None}, "entry 'cache' is a NoneType"),
    (np.array([{"a": 1}], dtype=object), "arrays of numbers.*object"),
    (np.array(["a", "b"]), "arrays of numbers"),
    (np.array(["2020-01-01"], dtype="datetime64[D]"), "arrays of numbers"),
    ([[1.0, 2.0], [3.0, 4.0]], "a list came. Use torch.as_tensor"),
    ([1.0, 2.0], "a list came"),
    (3.0, "a float came"),
    (torch.eye(3).to_sparse(), "dense tensors.*to_dense"),
    (None, "a NoneType came"),
    (torch.nn.Sequential(torch.nn.Linear(3, 1)), "a Sequential came"),
    (iter([X]), "came"),
], ids=lambda value: None if isinstance(value, str) else type(value).__name__)
def test_what_are_no_points_is_refused(source, match):
    with pytest.raises(DataError, match=match):
        as_points(source)


def test_a_table_is_refused():
    pandas = pytest.importorskip("pandas")
    with pytest.raises(DataError, match="a DataFrame came"):
        as_points(pandas.DataFrame({"a": [1.0, 2.0]}))


@pytest.mark.parametrize(("make", "match"), [
    (lambda i: torch.ones(i + 1), "samples 0 to 10 could not be put together.*collate_fn"),
    (lambda i: (X[i], object()), "could not be put together"),
    (lambda i: {"x": X[i], "text": "abc"}, "entry 'text' of the points is a list"),
    (lambda i: {"input_ids": [1, 2, 3]}, "entry 'input_ids' of the points is a list"),
    (lambda i: ("abc", Y[i]), "entry 0 of the points is a str"),
], ids=["ragged", "no tensor", "text", "lists of numbers", "texts"])
def test_samples_that_do_not_fit_together_are_refused_when_they_are_read(make, match):
    points = as_points(Samples(make))
    with pytest.raises(DataError, match=match):
        points.part(0, N)


def test_a_collate_that_loses_samples_is_refused():
    points = as_points(DataLoader(Samples(lambda i: X[i]), batch_size=4, collate_fn=lambda xs: torch.stack(xs).mean(0)))
    with pytest.raises(DataError, match="11 points need as many rows"):
        points.part(0, N)


def test_an_error_of_the_data_set_is_its_own():
    with pytest.raises(ZeroDivisionError):
        as_points(Samples(lambda i: 1 / 0)).part(0, 1)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("make", [lambda x: x, lambda x: {"x": x}, lambda x: (x, Y), lambda x: TensorDataset(x),
                                  lambda x: Samples(lambda i: x[i]), lambda x: x.numpy(), lambda x: x[:, 0]])
def test_a_point_that_is_not_finite_is_named_when_it_is_read(make, bad):
    x = X.clone()
    x[7, 0] = bad
    points = as_points(make(x))
    points.part(0, 7)
    with pytest.raises(NonFiniteError, match="Point 7 holds NaN"):
        points.part(5, N)
    with pytest.raises(NonFiniteError, match="Point 7 holds NaN"):
        points.chosen([0, 7]).part(0, 2)


def test_targets_are_looked_at_too():
    with pytest.raises(NonFiniteError, match="entry 1"):
        as_points((X, torch.full((N,), torch.nan)), targets=True).part(0, 1)


def test_a_mask_may_hold_minus_infinity():
    mask = torch.zeros(N, 3).masked_fill(torch.ones(N, 3).triu(1).bool(), -torch.inf)
    assert torch.equal(as_points({"x": X, "mask": mask}).part(0, N).kwargs["mask"], mask)


def test_named_targets_must_be_there():
    for source in ({"x": X, "label": Y}, {"labels": Y}):
        with pytest.raises(DataError, match="'labels' of a dictionary"):
            as_points(source, targets=True)
    with pytest.raises(DataError, match="'labels' of a dictionary"):
        as_points(Samples(lambda i: {"x": X[i]}), targets=True).part(0, 1)


def test_inputs_that_require_gradients_are_points_without_them():
    x = X.clone().requires_grad_()
    assert not as_points(x).part(0, 2).args[0].requires_grad


def test_a_part_of_a_data_set_is_points():
    same(as_points(Subset(TensorDataset(X, Y), [4, 2]), targets=True).part(0, 2), X[[4, 2]], Y[[4, 2]])


def test_points_of_ones_own_are_read_by_their_numbers():
    asked = []
    points = Points(5, lambda numbers: asked.append(list(numbers)))
    points.part(1, 9), points.chosen([4, 0]).part(0, 2)
    assert asked == [[1, 2, 3, 4], [4, 0]]
