"""A store under fire: kills, power cuts, full disks, flipped bits, torn files, interruptions, crowds."""

import errno
import itertools
import os
import random
import resource
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from kernelscope.errors import StoreBusy, StoreCorrupt, StoreError, StoreFull
from kernelscope.selftest import deeds
from kernelscope.selftest.deeds import OPERATIONS, commits
from kernelscope.selftest.deeds import numbers as number
from kernelscope.selftest.disk import Disk
from kernelscope.selftest.kept import digest
from kernelscope.selftest.row import TYPED
from kernelscope.selftest.rows import crowds
from kernelscope.selftest.rows.damage import damaged
from kernelscope.selftest.traps import die, fails, trapped
from kernelscope.storage import Store
from kernelscope.storage import files as storage_files
from kernelscope.storage import manifest as manifests
from tests.interruptions import keyboard
from tests.killing import Server, serve


def state(store):
    """All a store says, with every tensor read and checked."""
    rows = []
    for segment in store.segments:
        tensors = store.read(segment)
        assert tensors["step"].tolist() == [tensors["step"][0]] * 5
        assert tensors["more"].tolist() == [tensors["step"][0]] * 3
        rows.append((int(tensors["step"][0]), segment.meta["step"]))
    return store.meta, rows


def states():
    """What the store says before the first operation, and after each."""
    return [state(store) for store in commits()]


@pytest.fixture(autouse=True)
def _short_parts():
    with deeds.short_parts():
        yield


def test_an_error_while_a_store_is_replaced_leaves_the_old_one_or_the_new_one(tmp_path):
    count = failed = 0
    while True:
        count += 1
        folder = tmp_path / str(count)
        Store.create(folder, "result", {"version": 1}, first=number(1)).close()
        with trapped(count, fails(errno.EIO), ("open", "write", "fsync", "replace")) as trap:
            try:
                Store.create(folder, "result", {"version": 2}, overwrite=True, first=number(2)).close()
            except StoreError:
                failed += 1
        found = Store.open(folder)
        version = found.meta["version"]
        assert int(found.read(0)["step"][0]) == version
        assert len(found.segments) == 1
        assert set(os.listdir(folder)) <= {*found._manifest.files, "writer.lock"}
        # It can be replaced again.
        Store.create(folder, "result", {"version": 3}, overwrite=True, first=number(3)).close()
        assert int(Store.open(folder).read(0)["step"][0]) == 3
        if trap.left > 0:
            assert version == 2
            break
    assert failed >= 10


# The processes to be killed


def record_for_ever(folder, say):
    """Acknowledge each segment after it is committed, until killed."""
    manifests.SEAL = 16
    with Store.resume(folder, "run") as store:
        while True:
            step = len(store.segments)
            segment = store.append(number(step), {"step": step})
            say(f"{segment.name} {segment.sha256}")
            if step % 5 == 4:
                store.commit({"acknowledged": step})
                say(f"meta {step}")


def run_until_killed(folder, count, say):
    """Run the operations, and be killed before the ``count``-th system call."""
    with deeds.short_parts(), Store.resume(folder, "run") as store, trapped(count, die) as trap:
        for place, operation in enumerate(OPERATIONS):
            operation(store)
            say(f"done {place}")
        say(f"calls {count - trap.left}")


def read_until(folder, end, say):
    crowds.read_until(Path(folder), Path(end), deeds.states(), say)


def write_at(folder, begin, end, say):
    crowds.write_at(Path(folder), Path(begin), Path(end), say)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(__file__, tmp_path_factory.mktemp("logs")) as running:
        yield running


# Kills


@pytest.mark.parametrize("kills", [25, pytest.param(200, marks=pytest.mark.slow)])
def test_no_acknowledged_segment_is_lost_when_the_writer_is_killed(server, tmp_path, kills):
    dice = random.Random(kills)
    folder = tmp_path / "s"
    Store.create(folder, "run", {}).close()
    acknowledged, said, survived = {}, None, 0
    for _ in range(kills):
        child = server.start(record_for_ever, folder)
        child.until(count=dice.randint(1, 3))
        time.sleep(dice.uniform(0, 0.05))
        for name, value in map(str.split, child.kill()):
            if name == "meta":
                said = int(value)
            else:
                acknowledged[name] = value
        reader = Store.open(folder)
        found = {segment.name: segment.sha256 for segment in reader.segments}
        assert acknowledged.items() <= found.items()
        assert len(found) - len(acknowledged) <= survived + 1  # each kill may leave one commit nobody was told of
        assert said is None or reader.meta["acknowledged"] >= said
        for segment in reader.segments[-5:]:
            reader.read(segment)
        survived += 1
    assert survived == kills
    assert len(acknowledged) >= kills
    reader = Store.open(folder)
    assert [int(reader.read(s)["step"][0]) for s in reader.segments] == list(range(len(reader.segments)))


def test_a_kill_before_any_system_call_leaves_the_commit_before_or_after(server, tmp_path):
    expected = states()
    Store.create(tmp_path / "count", "run", {}).close()
    word, calls = server.start(run_until_killed, tmp_path / "count", 10**6).end()[-1].split()
    assert word == "calls"
    calls = int(calls)
    assert calls > 100
    for count in range(1, calls + 1):
        folder = tmp_path / str(count)
        Store.create(folder, "run", {}).close()
        done = len(server.start(run_until_killed, folder, count).end())
        assert done < len(OPERATIONS) or count > calls - 3
        found = state(Store.open(folder))
        assert found in expected[done : done + 2], (count, done)
        with Store.resume(folder, "run") as store:
            assert state(store) == found
            store.append(number(9), {"step": 9})
            assert state(store) == (found[0], [*found[1], (9, 9)])
            assert set(os.listdir(folder)) == {*store._manifest.files, "writer.lock"}


class Cut(BaseException):
    """An interruption that nobody expects."""


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        OSError(errno.EIO, "Input/output error"),
        pytest.param(Cut(), marks=pytest.mark.slow),
        pytest.param(MemoryError(), marks=pytest.mark.slow),
    ],
)
def test_an_error_in_any_system_call_leaves_the_commit_before_or_after_and_no_stump(tmp_path, error):
    expected = states()
    count = failed = 0
    while True:
        count += 1
        folder = tmp_path / str(count)
        with Store.create(folder, "run", {}) as store:

            def fail(name, arguments):
                raise error

            done = 0
            with trapped(count, fail, ("write", "fsync", "replace")) as trap:
                try:
                    for operation in OPERATIONS:
                        operation(store)
                        done += 1
                except (type(error), StoreError):
                    failed += 1
            found = state(store)
            assert found in expected[done : done + 2]
            assert state(Store.open(folder)) == found
            assert set(os.listdir(folder)) == {*store._manifest.files, "writer.lock"}
            # The same writer goes on.
            store.append(number(9), {"step": 9})
            assert state(Store.open(folder)) == (found[0], [*found[1], (9, 9)])
        if trap.left > 0:
            break
    assert failed == count - 1 > 60


def test_a_writer_that_could_not_even_repair_itself_looks_again_before_it_goes_on(tmp_path, monkeypatch):
    with Store.create(tmp_path / "s", "run", {}) as store:
        store.append(number(0), {"step": 0})
        fail, sync = fails(errno.EIO), storage_files.sync_folder
        for step in (1, 2):
            synced = []

            def fail_after_the_commit(folder, synced=synced):
                synced.append(folder)
                return fail() if len(synced) == 2 else sync(folder)

            with monkeypatch.context() as patch:
                patch.setattr(storage_files, "sync_folder", fail_after_the_commit)
                patch.setattr(store, "_sweep", fail)
                with pytest.raises(StoreError):
                    store.append(number(step), {"step": step})
        store.append(number(3), {"step": 3})
        # The first failure came after its commit; the second call refused to write before it knew where it stood.
        assert state(store) == state(Store.open(store.path)) == ({}, [(0, 0), (1, 1), (3, 3)])


# An interruption between opening a file and taking hold of it leaves the closing to Python, which warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.timeout(300, method="thread")
@pytest.mark.parametrize("tries", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_control_c_at_any_moment_leaves_a_whole_store(tmp_path, tries):
    folder = tmp_path / "s"
    with Store.create(folder, "run", {}) as store, keyboard(0, 0.0001, 0.006) as keys:
        for _ in range(tries):
            acknowledged = state(store)[1]
            try:
                for step in itertools.count():
                    keys.press()
                    store.append(number(step), {"step": step})
                    acknowledged.append((step, step))
            except KeyboardInterrupt:
                keys.heard()
            # The second look may be the one that repairs, and is never interrupted.
            store.commit({})
            found = state(store)[1]
            assert acknowledged == found[: len(acknowledged)]
            assert len(found) <= len(acknowledged) + 1
            assert state(Store.open(folder))[1] == found
            assert set(os.listdir(folder)) == {*store._manifest.files, "writer.lock"}
            store.truncate(min(3, len(found)))


class Pressed:
    """A lock whose holder is interrupted just after it took it, before its block has begun; once."""

    def __init__(self, lock):
        self.lock, self.pressed = lock, False

    def __enter__(self):
        assert self.lock.acquire(timeout=5), "a writer waits for itself"
        if not self.pressed:
            self.pressed = True
            raise KeyboardInterrupt

    def __exit__(self, *_):
        self.lock.release()


def test_control_c_as_a_writer_takes_its_turn_does_not_make_it_wait_for_itself(tmp_path):
    with Store.create(tmp_path / "store", "run", {}) as store:
        store._turn = Pressed(store._turn)
        with pytest.raises(KeyboardInterrupt):
            store.append(number(0), {"step": 0})
        store.append(number(1), {"step": 1})
    assert state(Store.open(tmp_path / "store"))[1] == [(1, 1)]


# Power


@pytest.mark.parametrize("cuts", [400, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_power_cut_leaves_the_commit_before_or_after(tmp_path, cuts):
    expected = states()
    (tmp_path / "s").mkdir()
    disk = Disk(tmp_path / "s")
    with disk.watching(), Store.create(tmp_path / "s", "run", {}) as store:
        start = len(disk.events)
        for place, operation in enumerate(OPERATIONS):
            operation(store)
            disk.acknowledged(place + 1)
    dice = random.Random(0)
    seen = set()
    for cut in range(cuts):
        files, acknowledged = disk.after_a_cut(dice.randint(start, len(disk.events)), dice)
        folder = tmp_path / f"cut {cut}"
        folder.mkdir()
        for name, data in files.items():
            # This process lives on; the one that held the lock does not.
            (folder / name).write_bytes(data.replace(b'"start": "', b'"start": "before the cut '))
        found = state(Store.open(folder))
        assert found in expected[acknowledged : acknowledged + 2]
        seen.add((acknowledged, expected[acknowledged : acknowledged + 2].index(found)))
        with Store.resume(folder, "run") as store:
            assert state(store) == found
            store.append(number(9), {"step": 9})
            assert state(store)[1][-1] == (9, 9)
    assert len(seen) > len(OPERATIONS)


# Full disks


def a_write_that_runs_out(count, code):
    write = os.write

    def some(descriptor, data):
        nonlocal count
        count -= 1
        if count > 0:
            return write(descriptor, data)
        if count == 0:
            return write(descriptor, data[: len(data) // 2])  # the last bytes that had room
        raise OSError(code, os.strerror(code))

    return some


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_is_full_at_any_write_leaves_the_commit_before(tmp_path, monkeypatch, code):
    expected = states()
    count, full = 0, True
    while full:
        count, full = count + 1, False
        with Store.create(tmp_path / str(count), "run", {}) as store:
            done = 0
            with monkeypatch.context() as patch:
                patch.setattr(os, "write", a_write_that_runs_out(count, code))
                try:
                    for operation in OPERATIONS:
                        operation(store)
                        done += 1
                except StoreFull as error:
                    full = "intact" in str(error) and "are free" in str(error)
                    if not full:
                        raise
            assert state(store) == state(Store.open(store.path)) == expected[done]
            assert set(os.listdir(store.path)) == {*store._manifest.files, "writer.lock"}
    assert count > 20


def test_a_file_size_limit_is_a_full_disk(tmp_path):
    with Store.create(tmp_path / "s", "run", {}) as store:
        store.append(number(0), {"step": 0})
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        for limit in (0, 100, 4096, 100_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                with pytest.raises(StoreFull, match="needs 400,0"):
                    store.append({"step": torch.zeros(100_000)})
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            assert state(Store.open(store.path)) == state(store) == ({}, [(0, 0)])
            assert set(os.listdir(store.path)) == {*store._manifest.files, "writer.lock"}


def test_room_is_asked_for_before_anything_is_written(tmp_path, monkeypatch):
    with Store.create(tmp_path / "s", "run", {}) as store:
        monkeypatch.setattr(storage_files, "free_bytes", lambda folder: 300_000)
        with trapped(1000, fails(errno.EIO), ("write",)) as trap:
            with pytest.raises(StoreFull, match=r"needs 400,\d+ bytes, and 300,000 are free"):
                store.append({"step": torch.zeros(100_000)})
        assert trap.left == 1000
        store.append({"step": torch.zeros(10_000)})


# Damage


def varied_store(folder):
    """A store with parts, a tail, several types and an empty segment, and how it reads."""
    with Store.create(folder, "run", {"words": "a store of some size", "list": [1, 2.5, None]}) as store:
        for step in range(7):
            bits = torch.randn(9 * step)
            store.append({"x": bits, "flag": bits > 0, "n": torch.arange(step)}, {"step": step})
    return everything(folder)


def everything(folder):
    store = Store.open(folder)
    return digest([store.kind, store.meta, [(s.name, s.meta, store.read(s)) for s in store.segments]])


@pytest.mark.parametrize("flips", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_found(tmp_path, flips):
    honest = varied_store(tmp_path / "s")
    dice = random.Random(flips)
    paths = sorted((tmp_path / "s").iterdir())
    assert {path.name.split("-")[0] for path in paths} == {"manifest.json", "manifest", "segment"}
    read = partial(everything, tmp_path / "s")
    for flip in range(flips):
        path = tmp_path / "s" / "manifest.json" if flip % 3 == 0 else dice.choice(paths)
        data = bytearray(path.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        assert damaged(read, honest, path, data) is TYPED
    assert read() == honest


@pytest.mark.slow
def test_every_single_bit_of_a_manifest_matters(tmp_path):
    honest = varied_store(tmp_path / "s")
    path = tmp_path / "s" / "manifest.json"
    data = path.read_bytes()
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        assert damaged(partial(everything, tmp_path / "s"), honest, path, changed) is TYPED


@pytest.mark.parametrize("cuts", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_every_truncated_file_is_found(tmp_path, cuts):
    honest = varied_store(tmp_path / "s")
    dice = random.Random(cuts)
    paths = sorted((tmp_path / "s").iterdir())
    for cut in range(cuts):
        path = paths[cut % len(paths)]
        data = path.read_bytes()
        length = [0, 1, 8, len(data) - 1][cut % 4] if cut < 40 else dice.randrange(len(data))
        assert damaged(partial(everything, tmp_path / "s"), honest, path, data[:length]) is TYPED


def test_every_exchanged_missing_or_longer_file_is_found(tmp_path):
    honest = varied_store(tmp_path / "s")
    read, paths = partial(everything, tmp_path / "s"), sorted((tmp_path / "s").iterdir())
    for path in paths:
        for other in paths:
            if other != path:
                assert damaged(read, honest, path, other.read_bytes()) is TYPED
        assert damaged(read, honest, path, path.read_bytes() + b"\0") is TYPED
        path.rename(tmp_path / "away")
        with pytest.raises(StoreError):
            read()
        (tmp_path / "away").rename(path)
    assert read() == honest


def test_a_sound_part_of_another_store_is_found(tmp_path):
    for name, word in [("one", "a"), ("two", "b")]:
        with Store.create(tmp_path / name, "run", {}) as store:
            for step in range(5):
                store.append(number(step), {"word": word})
    part = Store.open(tmp_path / "one")._manifest.parts[0].name
    (tmp_path / "two" / part).write_bytes((tmp_path / "one" / part).read_bytes())
    with pytest.raises(StoreCorrupt, match="bytes the manifest names"):
        Store.open(tmp_path / "two")


# Crowds


@pytest.mark.parametrize("seconds", [1.0, pytest.param(10.0, marks=pytest.mark.slow)])
def test_readers_always_see_a_whole_commit(server, tmp_path, seconds):
    folder, end = tmp_path / "s", tmp_path / "end"
    with Store.create(folder, "run", {}) as store:
        children = [server.start(read_until, folder, end) for _ in range(3)]
        limit = time.monotonic() + seconds
        rounds = 0
        while time.monotonic() < limit:
            for operation in OPERATIONS:
                operation(store)
            store.truncate(0, {})
            rounds += 1
        end.touch()
        whole = 0
        for child in children:
            [line] = child.end()
            word, seen = line.split()
            assert word == "read"
            whole += int(seen)
    assert rounds > 2
    assert whole > 10


@pytest.mark.parametrize("rounds", [8, pytest.param(50, marks=pytest.mark.slow)])
def test_of_many_writers_at_once_one_wins_even_over_a_stale_lock(server, tmp_path, rounds):
    for turn in range(rounds):
        folder, begin, end = tmp_path / f"s{turn}", tmp_path / f"begin{turn}", tmp_path / f"end{turn}"
        Store.create(folder, "run", {}).close()
        if turn % 2:
            crowds.leave_stale_lock(folder)
        children = [server.start(write_at, folder, begin, end) for _ in range(3)]
        for child in children:
            child.until()
        begin.touch()
        words = sorted(child.until(count=2)[1] for child in children)
        with pytest.raises(StoreBusy):
            Store.resume(folder, "run")
        end.touch()
        for child in children:
            child.end()
        assert words == ["busy", "busy", "won"]
        with Store.resume(folder, "run") as store:
            assert len(store.segments) == 1


if __name__ == "__main__":
    serve(record_for_ever, run_until_killed, read_until, write_at)
