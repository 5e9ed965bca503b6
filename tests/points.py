"""The same points and targets from every source there is."""

from collections import UserDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler, TensorDataset

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


def pandas(values):
    library = pytest.importorskip("pandas")
    return library.DataFrame(values.numpy()) if values.ndim == 2 else library.Series(values.numpy(), name="y")


def array(path, values):
    np.save(path, values.numpy())
    return path


def chunks(folder, values, name):
    return [array(folder / f"{name}{i}.npy", values[i:i + 4]) for i in range(0, len(values), 4)]


SOURCES = {
    "tensors": lambda _: (X, Y),
    "list of tensors, as a loader gives it": lambda _: [X, Y],
    "arrays": lambda _: (X.numpy(), Y.numpy()),
    "tables": lambda _: (pandas(X), pandas(Y)),
    "memory maps": lambda folder: tuple(np.load(array(folder / name, values), mmap_mode="r")
                                        for name, values in (("x.npy", X), ("y.npy", Y))),
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
    "dictionary of tables": lambda _: {"x": pandas(X), "labels": pandas(Y)},
    "dictionary and targets": lambda _: ({"x": X}, Y),
    "batch of a tokenizer and a file": lambda folder: [UserDict(x=X), array(folder / "y.npy", Y)],
    "data set of dictionaries and targets": lambda _: Samples(lambda i: ({"x": X[i]}, Y[i])),
    "loader of dictionaries and targets": lambda _: DataLoader(Samples(lambda i: ({"x": X[i]}, Y[i])), batch_size=4),
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
