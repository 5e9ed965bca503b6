"""Files are read a few rows at a time, and nothing but numbers is read from them."""

import resource

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from kernelscope.data.points import as_points
from kernelscope.errors import DataError, UnsafeFile
from tests.points import N, X, array, tensors


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


def test_parts_of_a_file_may_be_written_to_and_the_file_stays(tmp_path):
    path = array(tmp_path / "x.npy", X)
    part = as_points(path).part(0, 4).args[0]
    part += 1
    assert torch.equal(as_points(path).part(0, 4).args[0], X[:4])
