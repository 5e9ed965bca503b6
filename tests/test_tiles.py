"""A kernel matrix on disk is the kernel matrix, whoever built it and whatever happened meanwhile."""

import errno
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError, NonFiniteError, StoreCorrupt, StoreError, StoreFull, UnsafeFile
from kernelscope.kernels import Gaussian, Laplacian
from kernelscope.kernels.base import Kernel
from kernelscope.storage import files as storage_files
from kernelscope.storage.lock import started
from kernelscope.tiles import LANES, Computed, claims, pace
from kernelscope.tiles import tiles as tiles_module
from kernelscope.tiles.file import HEADER
from tests import tiled
from tests.laws import assert_close, random_like

ROOT = Path(__file__).parents[1]
K = Laplacian(2.0)
X, _ = tiled.samples()
TRUE = K(X)
ALONE = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def tiles(tmp_path):
    found = ks.Tiles(K, X, tmp_path / "tiles", side=64)
    found.build()
    return found


def opened(folder, **more):
    """The same tiles as another process sees them, with nothing in memory."""
    return ks.Tiles(K, X, folder, **{"side": 64, "memory": 1} | more)


def each_file(folder):
    return sorted(Path(folder).glob("tile-*"))


# -- it is the matrix ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 7, 64, 300, 1000])
@pytest.mark.parametrize("memory", [1, 10**5, "1GB"])
def test_tiles_of_any_side_and_any_memory_are_the_matrix(tmp_path, side, memory):
    x = X[:20] if side == 1 else X[:60] if side == 7 else X
    k = ks.Tiles(K, x, tmp_path / "tiles", side=side, memory=memory)
    k.build()
    v = random_like((len(x), 3), x)
    for _ in range(2):
        assert_close(k @ v, K(x) @ v, 1e-13)
    assert_close(k @ v[:, 0], K(x) @ v[:, 0], 1e-13)
    assert_close(k.dense(), K(x), 1e-13)
    assert torch.equal(k.dense(), k.dense().T)
    assert_close(k.diagonal(), K.diagonal(x), 1e-13)
    assert k.shape == (len(x), len(x))
    assert k.T is k


@pytest.mark.parametrize("key", [
    (slice(None), slice(3)), (slice(250, None, -7), [5, 299, 64, 63, 5]), ([0], [-1]), slice(60, 70),
    (X[:, 0] > 1, slice(10, 20)), (torch.tensor([130, 2]), X[:, 1] > 1)])
def test_a_part_is_that_of_the_whole_matrix(tiles, key):
    near, far = key if isinstance(key, tuple) else (key, slice(None))
    row, column = (torch.arange(len(X))[list(range(*k.indices(len(X)))) if isinstance(k, slice) else k]
                   for k in (near, far))
    assert_close(tiles[key], TRUE[row][:, column], 1e-13)


def test_every_tile_lies_in_one_lane(tiles):
    assert sum((tiles.lane(number) for number in range(LANES)), []) == tiles.places


def test_single_precision_is_rounded_once_and_summed_in_double(tmp_path):
    k = ks.Tiles(K, X, tmp_path / "tiles", side=64, dtype=torch.float32)
    k.build()
    assert torch.equal(k.dense(), Computed(K, X, side=64).dense().float())
    v = random_like((len(X), 2), X)
    assert_close(k @ v, k.dense().double() @ v, 1e-14)
    assert (k @ v.float()).dtype == torch.float32
    rough = sum(k.lane_times(number, v, exact=False) for number in range(LANES))
    assert 1e-9 < float((rough - k @ v).abs().max() / (k @ v).abs().max()) < 1e-5


def test_the_first_points_have_the_leading_part(tiles):
    for count in (1, 63, 64, 65, 200, 300):
        first, v = tiles.leading(count), random_like((count, 2), X)
        assert first.shape == (count, count)
        assert_close(first @ v, TRUE[:count, :count] @ v, 1e-13)
        assert_close(first.dense(), TRUE[:count, :count], 1e-13)
    with pytest.raises(DataError, match="There are 300 points, and the first 301 were asked for"):
        tiles.leading(301)


def test_more_points_behind_those_that_are_there_reuse_their_tiles(tmp_path, monkeypatch):
    folder = tmp_path / "tiles"
    ks.Tiles(K, X[:150], folder, side=64).build()
    before = {path.name: path.stat().st_mtime_ns for path in each_file(folder)}
    grown = ks.Tiles(K, X, folder, side=64)
    assert grown.missing == 15 - 3
    grown.build()
    assert_close(grown.dense(), TRUE, 1e-13)
    kept = {grown._label(i, j).name for i, j in ((0, 0), (1, 0), (1, 1))}
    assert all((folder / name).stat().st_mtime_ns == before[name] for name in kept)
    assert grown.repair() == len(before) - len(kept)
    assert_close(opened(folder).dense(), TRUE, 1e-13)
    with pytest.raises(DataError, match=r"holds the tiles of 300 points, and 150 came.*tiles.leading\(150\)"):
        ks.Tiles(K, X[:150], folder, side=64)


def test_a_matrix_that_is_computed_again_in_every_product_is_the_same():
    v = random_like((len(X), 2), X)
    for memory in (1, 2 * 10**5, "1GB"):
        k = Computed(K, X, memory=memory)
        for _ in range(2):
            assert_close(k @ v, TRUE @ v, 1e-13)


# -- how large a tile is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [1e-9, 1e-6, 1e-4, 1e-3, 5e-3])
@pytest.mark.parametrize("count", [100, 1000, 20_000])
def test_a_tile_takes_a_minute_at_most_and_a_slow_matrix_has_many(each, count):
    side = pace.suited(each, count)
    strips = -(-count // side)
    assert side in (64, 128, 256, 512, 1024)
    assert side == 64 or each * min(side, count)**2 <= 60
    if each * count**2 > 120 and side > 64:
        assert strips * (strips + 1) // 2 >= 16
    # No smaller than it has to be.
    assert side == 1024 or each * min(2 * side, count)**2 > 1


def test_a_slow_kernel_has_small_tiles_and_an_existing_folder_keeps_its_own(tmp_path):
    slow = ks.Tiles(tiled.Slow(pause=0.07), X, tmp_path / "slow")
    assert slow.side == 64
    slow.kernel.pause = 0.0
    again = ks.Tiles(slow.kernel, X, tmp_path / "slow")
    assert again.side == 64
    again.build()
    fast = ks.Tiles(K, X, tmp_path / "fast")
    assert fast.side == 1024
    fast.build()
    assert_close(again.dense(), fast.dense(), 1e-13)
    with pytest.raises(DataError, match="the side of a tile"):
        ks.Tiles(K, X, tmp_path / "fast", side=64)


def test_workers_that_open_a_new_folder_at_once_agree_on_the_side(tmp_path, monkeypatch):
    said = iter([1e-9, 1e-3, 1e-5, 1e-2])
    monkeypatch.setattr(tiles_module, "seconds_each", lambda *a: (time.sleep(0.05), next(said))[1])
    found = []
    workers = [threading.Thread(target=lambda: found.append(ks.Tiles(K, X, tmp_path / "tiles").side))
               for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4
    assert len(set(found)) == 1


# -- whose it is -----------------------------------------------------------------------------------------------------


def test_another_kernel_other_points_and_another_form_are_refused(tiles):
    folder = tiles.folder
    for other, word in (((Laplacian(2.0000001), X), "the kernel"), ((Gaussian(2.0), X), "the kernel"),
                        ((K, X.flip(0)), "the points"), ((K, torch.cat([X[:299], X])), "the points")):
        with pytest.raises(DataError, match=f"holds tiles of another matrix: it differs in.*{word}"):
            ks.Tiles(*other, folder, side=64)
    for settings, word in (({"side": 32}, "the side"), ({"dtype": torch.float32}, "the precision")):
        with pytest.raises(DataError, match=word):
            opened(folder, **settings)
    assert_close(opened(folder).dense(), TRUE, 1e-13)


def test_what_has_no_such_matrix_is_refused(tmp_path):
    one = ks.kernels.Tangent(torch.nn.Linear(5, 2).double(), outputs="full")
    for kernel, word in ((3, "Tiles are those of a kernel; 3 came"), (one, 'outputs="trace"')):
        with pytest.raises(DataError, match=word):
            ks.Tiles(kernel, X, tmp_path / "tiles")
    with pytest.raises(DataError, match="torch.float16 came"):
        ks.Tiles(K, X, tmp_path / "tiles", dtype=torch.float16)
    with pytest.raises(DataError, match="needs one entry of v for each column"):
        ks.Tiles(K, X, tmp_path / "tiles") @ torch.ones(3)


class Skew(Kernel):
    def __call__(self, x, z=None):
        a, b = (self.points(t).part(0, len(self.points(t))).args[0] for t in (x, x if z is None else z))
        return a[:, :1] - b[:, :1].T


def test_a_kernel_that_is_not_symmetric_or_not_finite_is_told_and_nothing_is_kept(tmp_path):
    skew = ks.Tiles(Skew(), X, tmp_path / "skew", side=64)
    with pytest.raises(DataError, match="says it is symmetric, and its matrix is not"):
        skew.build()
    matrix = TRUE.clone()
    matrix[70, 200] = matrix[200, 70] = float("nan")
    bad = ks.Tiles(ks.kernels.Precomputed(matrix), torch.arange(len(X)), tmp_path / "bad", side=64)
    with pytest.raises(NonFiniteError, match="The kernel of points 200 and 70 is NaN or infinite"):
        bad.build()
    assert not list((tmp_path / "bad").glob("*.claim")) + list((tmp_path / "bad").glob("*.part"))
    assert 0 < bad.missing


# -- damage ----------------------------------------------------------------------------------------------------------


def mended(tiles):
    again = opened(tiles.folder)
    assert again.repair() == 1
    assert again.missing == 1
    again.build()
    assert_close(again.dense(), TRUE, 1e-13)


@pytest.mark.parametrize("where", [0, 9, 60, 300, HEADER - 1, HEADER, HEADER + 1001, -1])
def test_every_flipped_byte_is_found_and_mended(tiles, where):
    path = each_file(tiles.folder)[4]
    data = bytearray(path.read_bytes())
    data[where] ^= 4
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match=r"tiles.repair\(\) removes it"):
        opened(tiles.folder) @ X
    mended(tiles)


@pytest.mark.parametrize("size", [0, 5, HEADER - 1, HEADER, HEADER + 8, -1, None])
def test_a_truncated_or_a_longer_tile_is_found_and_mended(tiles, size):
    path = each_file(tiles.folder)[0]
    data = path.read_bytes()
    path.write_bytes(data + b"0" if size is None else data[:size])
    with pytest.raises(StoreCorrupt, match="bytes, and a tile of 64 × 64 numbers in float64 has"):
        opened(tiles.folder) @ X
    mended(tiles)


def test_the_tile_of_another_matrix_and_an_exchanged_one_are_found_and_mended(tiles, tmp_path):
    other = ks.Tiles(Gaussian(2.0), X, tmp_path / "other", side=64)
    other.build()
    path = tiles.folder / tiles._label(1, 0).name
    for foreign in (other.folder / other._label(1, 0).name, tiles.folder / tiles._label(2, 1).name):
        path.write_bytes(foreign.read_bytes())
        with pytest.raises(StoreCorrupt, match="of another tile, of another kernel, or of other points"):
            opened(tiles.folder) @ X
        mended(tiles)


def test_links_and_pipes_are_neither_followed_nor_opened(tiles, tmp_path):
    path = each_file(tiles.folder)[2]
    secret = tmp_path / "secret"
    secret.write_bytes(path.read_bytes())
    for plant in (lambda: path.symlink_to(secret), lambda: os.mkfifo(path), lambda: path.symlink_to("nowhere")):
        path.unlink()
        plant()
        with pytest.raises(UnsafeFile, match="a tile is a regular file"):
            opened(tiles.folder) @ X
        mended(tiles)
    assert secret.exists()


def test_a_folder_in_the_place_of_a_tile_is_named_and_left(tiles):
    first, second, *_ = each_file(tiles.folder)
    first.unlink()
    first.mkdir()
    (first / "diary").write_text("mine")
    second.write_bytes(b"damaged")
    for asked in (lambda: opened(tiles.folder) @ X, tiles.repair):
        with pytest.raises(UnsafeFile, match=f"{first.name} is a folder, .* Move it away"):
            asked()
    assert (first / "diary").read_text() == "mine"
    # All else was mended.
    assert not second.exists()
    first.rename(tiles.folder.parent / "diary")
    mended_now = opened(tiles.folder)
    assert mended_now.repair() == 0
    mended_now.build()
    assert_close(mended_now.dense(), TRUE, 1e-13)


@pytest.mark.parametrize("data", [b"", b"[]", b'{"body":{},"sha256":"0"}', b"\xff", b'{"body":' * 50])
def test_a_folder_that_does_not_say_what_it_is_of_is_refused(tiles, data):
    (tiles.folder / "tiles.json").write_bytes(data)
    with pytest.raises(StoreError) as told:
        opened(tiles.folder)
    assert "indices" not in str(told.value)


def test_every_changed_byte_of_what_the_folder_says_is_found(tiles):
    path = tiles.folder / "tiles.json"
    data = path.read_bytes()
    for where in range(0, len(data), 97):
        path.write_bytes(data[:where] + bytes([data[where] ^ 1]) + data[where + 1:])
        with pytest.raises((StoreError, DataError)):
            opened(tiles.folder)


def test_a_tile_that_is_not_there_is_asked_for(tmp_path):
    k = opened(tmp_path / "tiles")
    with pytest.raises(StoreError, match=r"15 of 15 tiles are missing. Call tiles.build\(\) first"):
        k @ X


# -- the disk --------------------------------------------------------------------------------------------------------


def test_room_is_asked_for_before_anything_is_computed(tmp_path, monkeypatch):
    k = opened(tmp_path / "tiles")
    monkeypatch.setattr(storage_files, "free_bytes", lambda folder: 300_000)
    with pytest.raises(StoreFull, match="300,000 are free"):
        k.build()
    assert k.missing == 15


def test_a_disk_that_is_full_meanwhile_leaves_what_is_there(tmp_path, monkeypatch):
    k, write, count = opened(tmp_path / "tiles"), os.write, []

    def full(descriptor, data):
        count.append(len(data))
        if sum(count) > 200_000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(StoreFull):
        k.build()
    monkeypatch.undo()
    assert 0 < k.missing < 15
    assert not list(k.folder.glob("*.part")) + list(k.folder.glob("*.claim"))
    k.build()
    assert_close(k.dense(), TRUE, 1e-13)


def test_what_is_left_to_do_is_estimated(tmp_path):
    k = opened(tmp_path / "tiles")
    work = k.estimate()
    k.build()
    assert work.tiles == 15
    assert work.bytes == sum(path.stat().st_size for path in each_file(k.folder))
    assert work.seconds > 0
    assert k.estimate().bytes == 0
    assert "15 tiles" in repr(work)


def test_a_tile_on_the_diagonal_counts_half(tmp_path, monkeypatch):
    monkeypatch.setattr(tiles_module, "seconds_each", lambda *a: 1.0)
    assert opened(tmp_path / "tiles").estimate().seconds == 300**2 / 2


# -- several workers -------------------------------------------------------------------------------------------------


def build(folder, log, pause=0.0):
    call = [sys.executable, str(ROOT / "tests" / "tiled.py"), "building", str(folder), str(log), str(pause)]
    return subprocess.Popen(call, env=os.environ | ALONE, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def bits(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_workers_at_once_compute_every_tile_once_to_the_same_bits(tmp_path):
    alone, crowd, log = tmp_path / "alone", tmp_path / "crowd", tmp_path / "log"
    tiled.building(alone, None, 0.0)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tiled"])
    workers = [context.Process(target=tiled.alone, args=("building", crowd, log, 0.02), daemon=True)
               for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert bits(crowd) == bits(alone)
    # Each of them looked at one point for the precision, and at some for the identity.
    assert log.read_text().split().count("32") + log.read_text().split().count("12") == 55


def test_a_worker_that_is_killed_leaves_its_tile_to_the_others(tmp_path):
    folder, log = tmp_path / "tiles", tmp_path / "log"
    worker = build(folder, log, 0.2)
    limit = time.monotonic() + 60
    while not list(folder.glob("*.claim")) and time.monotonic() < limit:
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    assert len(list(folder.glob("*.claim"))) == 1
    tiled.building(folder, None, 0.0)
    tiled.building(tmp_path / "alone", None, 0.0)
    assert bits(folder) == bits(tmp_path / "alone")


def claim(tiles, **owner):
    label = tiles._label(2, 1)
    (tiles.folder / label.name).unlink(missing_ok=True)
    path = tiles.folder / (label.name + ".claim")
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "start": started(os.getpid()),
                                "token": "00ff"} | owner))
    return path


def test_void_claims_are_taken_over(tiles, monkeypatch):
    monkeypatch.setattr(claims, "EXPIRY", 0.2)
    monkeypatch.setattr(claims, "GRACE", 0.2)
    for owner in ({"start": "another/1"}, {"pid": 2**22 + 1}, {}, {"host": "elsewhere"}, {"pid": "nonsense"}):
        path = claim(tiles, **owner)
        part = tiles.folder / (path.name.removesuffix(".claim") + ".00ff.part")
        part.touch()
        again = opened(tiles.folder)
        again.build()
        assert not path.exists()
        assert part.exists() == (owner == {"pid": "nonsense"})
        part.unlink(missing_ok=True)
        assert_close(again.dense(), TRUE, 1e-13)


def test_a_claim_that_is_touched_is_waited_for(tiles, monkeypatch):
    monkeypatch.setattr(claims, "EXPIRY", 0.4)
    path = claim(tiles, host="elsewhere")
    computed, told = [], []
    monkeypatch.setattr(tiles_module, "computed", lambda *a: computed.append(a))

    def other():
        for _ in range(12):
            time.sleep(0.1)
            os.utime(path)
        told.append(list(computed))
        tiles_module.write(tiles.folder, tiles._label(2, 1), TRUE[128:192, 64:128], tiles.folder / "x.part")
        path.unlink()

    worker = threading.Thread(target=other)
    worker.start()
    again = opened(tiles.folder)
    again.build()
    worker.join()
    assert told == [[]]
    assert computed == []
    assert_close(again.dense(), TRUE, 1e-13)


def test_a_claim_is_touched_while_its_tile_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    with claims.Claims(tmp_path) as mine, mine.taking("tile") as taken:
        assert taken
        path = tmp_path / "tile.claim"
        os.utime(path, (1, 1))
        limit = time.monotonic() + 20
        while path.stat().st_mtime == 1 and time.monotonic() < limit:
            time.sleep(0.02)
        assert path.stat().st_mtime > 1
        with claims.Claims(tmp_path) as other, other.taking("tile") as also:
            assert not also
    assert not path.exists()


def test_control_c_keeps_what_was_done(tmp_path, monkeypatch):
    k, made = opened(tmp_path / "tiles"), tiles_module.computed

    def pressed(*a):
        if k.missing <= 9:
            raise KeyboardInterrupt
        return made(*a)

    monkeypatch.setattr(tiles_module, "computed", pressed)
    with pytest.raises(KeyboardInterrupt):
        k.build()
    assert k.missing == 9
    assert not list(k.folder.glob("*.claim"))
    monkeypatch.undo()
    k.build()
    assert_close(k.dense(), TRUE, 1e-13)
