"""What a store promises: bits come back, commits are whole, one writes and all may read, and nobody is led outside."""

import copy
import gc
import hashlib
import json
import os
import stat
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from kernelscope.errors import (
    DataError,
    KernelscopeError,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreExists,
    StoreFull,
    UnsafeFile,
)
from kernelscope.storage import MemoryStore, Segment, Store, write_atomically
from kernelscope.storage import files as storage_files
from kernelscope.storage import manifest as manifests
from kernelscope.storage.lock import started
from kernelscope.storage.segment import TYPES, unpack
from kernelscope.storage.strict import parse, plain, sealed


def tree(folder):
    """Every name below ``folder``, with what is there."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = (
                hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else stat.S_IFMT(path.lstat().st_mode)
            )
    return found


def same_bits(one, other):
    return one.keys() == other.keys() and all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.contiguous().reshape(-1).view(torch.uint8).tolist()
        == b.contiguous().reshape(-1).view(torch.uint8).tolist()
        for a, b in zip(one.values(), other.values(), strict=True)
    )


def every_type():
    """A tensor of every type a segment keeps, made of random bits, so that NaNs of all kinds are among them."""
    tensors = {}
    for code, (name, width) in TYPES.items():
        bits = torch.randint(0, 256, (6 * width,), dtype=torch.uint8)
        if code == "BOOL":
            bits %= 2
        tensors[name] = bits.view(getattr(torch, name)).reshape(2, 3)
    return tensors


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path):
    if request.param == "memory":
        yield MemoryStore("run", {"seed": 3})
    else:
        with Store.create(tmp_path / "store", "run", {"seed": 3}) as made:
            yield made


@pytest.fixture
def short_parts(monkeypatch):
    """Lists are sealed after two segments, so that small stores have parts."""
    monkeypatch.setattr(manifests, "SEAL", 2)


# What goes in comes out


def test_every_type_of_tensor_comes_back_bit_for_bit(store):
    tensors = every_type()
    segment = store.append(tensors)
    assert same_bits(store.read(segment), tensors)


def test_tensors_of_any_layout_come_back_as_they_were_seen(store):
    base = torch.randn(4, 6)
    complex_row = torch.randn(5, dtype=torch.complex64)
    tensors = {
        "empty": torch.empty(0, 3),
        "scalar": torch.tensor(2.5),
        "transposed": base.T,
        "strided": base[::2, 1::3],
        "expanded": torch.ones(1).expand(3, 2),
        "tied a": base,
        "tied b": base,
        "overlapping": base[1:3],
        "conjugate": complex_row.conj(),
        "negative": complex_row.conj().imag,
        "negative in a row": torch._neg_view(base),
        "trained": torch.nn.Parameter(torch.randn(3)),
        "last": torch.randn(2, requires_grad=True) * 2,
        "ünïcode \n\"'<b>": torch.ones(1),
        "": torch.zeros(2),
    }
    assert same_bits(store.read(store.append(tensors)), {name: t.detach().clone() for name, t in tensors.items()})


def test_tensors_come_back_in_the_order_in_which_they_went_in(store):
    names = ["zebra", "apple", "mango"]
    tensors = dict(zip(names, [torch.ones(1, dtype=torch.int8), torch.ones(2), torch.ones(1).double()], strict=True))
    assert list(store.read(store.append(tensors))) == names


def test_a_segment_does_not_change_when_its_tensors_do(store):
    weight = torch.zeros(3)
    store.append({"weight": weight})
    weight += 1
    store.read(0)["weight"].add_(5)
    assert store.read(0)["weight"].tolist() == [0, 0, 0]


def test_a_tensor_that_changes_while_it_is_written_does_not_break_its_segment(tmp_path, monkeypatch):
    weight, write = torch.zeros(1000), os.write

    def train_meanwhile(descriptor, data):
        weight.add_(1)
        return write(descriptor, data)

    with Store.create(tmp_path / "s", "run", {}) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", train_meanwhile)
            store.append({"weight": weight})
        assert store.read(0)["weight"].unique().numel() == 1


def test_an_empty_segment_is_a_segment(store):
    assert store.read(store.append({}, {"step": 0})) == {}


def test_a_segment_is_a_safetensors_file_that_others_can_read(tmp_path):
    tensors = {name: t for name, t in every_type().items() if "fnuz" not in name}
    with Store.create(tmp_path / "s", "run", {}) as store:
        path = store.path / store.append(tensors).name
    assert same_bits({name: load_file(path)[name] for name in tensors}, tensors)
    with safe_open(path, framework="pt") as file:
        assert same_bits({"float64": file.get_tensor("float64")}, {"float64": tensors["float64"]})


def test_a_segment_larger_than_a_block_is_whole(tmp_path):
    weights = torch.randn(700_001)
    with Store.create(tmp_path / "s", "run", {}) as store:
        segment = store.append({"odd": torch.ones(3, dtype=torch.int8), "w": weights})
        assert torch.equal(store.read(segment)["w"], weights)
        assert (store.path / segment.name).stat().st_size == segment.size == store.nbytes
        assert hashlib.sha256((store.path / segment.name).read_bytes()).hexdigest() == segment.sha256


def test_meta_comes_back_from_the_disk_as_json_can_say_it(tmp_path):
    meta = {
        "text": 'ü "\\ \u2028 \ud800 </script>',
        "number": [0, -1, 2**80, 0.1, -0.0, 5e-324, 1e300],
        "truth": [True, False, None],
        "nested": {"b": {}, "a": []},
        "tuple": (1, (2, 3)),
    }
    with Store.create(tmp_path / "s", "run", meta) as store:
        store.append({}, meta)
    reader = Store.open(tmp_path / "s")
    expected = {**meta, "tuple": [1, [2, 3]]}
    assert reader.meta == reader.segments[0].meta == expected
    assert str(reader.meta["number"]) == str(meta["number"])


@pytest.mark.parametrize(
    ("meta", "word"),
    [
        ({"x": float("nan")}, "finite"),
        ({"x": [1.0, -float("inf")]}, "finite"),
        ({1: "x"}, "text keys"),
        ({"x": {None: 1}}, "text keys"),
        ({"x": torch.ones(1)}, "Tensor"),
        ({"x": {1, 2}}, "set"),
        ({"x": b"bytes"}, "bytes"),
        ({"x": 10**5000}, "JSON"),
        ({"x": "y" * 40_000_000}, "bytes as JSON"),
        ([1, 2], "dict"),
    ],
)
def test_meta_that_json_cannot_say_is_refused_before_anything_is_written(store, meta, word):
    before = tree(store.path) if store.path else None
    for write in (lambda: store.append({}, meta), lambda: store.commit(meta), lambda: store.truncate(0, meta)):
        with pytest.raises(DataError, match=word):
            write()
    assert store.segments == ()
    assert store.meta == {"seed": 3}
    assert store.path is None or tree(store.path) == before


def test_meta_that_contains_itself_is_refused(store):
    meta = {}
    meta["x"] = meta
    with pytest.raises(DataError, match="nested deeper"):
        store.commit(meta)


@pytest.mark.parametrize(
    "tensors",
    [
        {"x": torch.ones(2, dtype=torch.complex128)},
        {"x": torch.eye(2).to_sparse()},
        {"x": torch.empty(2, device="meta")},
        {"x": [1.0, 2.0]},
        {"x": None},
        {3: torch.ones(1)},
        {"__metadata__": torch.ones(1)},
        {"\ud800": torch.ones(1)},
        [torch.ones(1)],
    ],
)
def test_what_a_segment_cannot_keep_is_refused(store, tensors):
    with pytest.raises(DataError):
        store.append(tensors)
    assert store.segments == ()


def test_the_callers_meta_is_copied(store):
    meta = {"list": [1]}
    store.commit(meta)
    meta["list"].append(2)
    store.meta["list"].append(3)
    assert store.meta == {"list": [1]}


# Commits


def contents(store):
    return [int(store.read(segment)["step"]) for segment in store.segments]


def test_memory_and_folder_do_the_same(tmp_path, short_parts):
    with Store.create(tmp_path / "s", "run", {"seed": 0}) as folder:
        memory = MemoryStore("run", {"seed": 0})
        for store in (folder, memory):
            for step in range(9):
                store.append({"step": torch.tensor(step)}, {"step": step})
            store.drop([store.segments[3].name, store.segments[0].name])
            store.truncate(6, {"cut": True})
            store.truncate(6)
            store.append({"step": torch.tensor(99)})
            store.drop([])
            store.drop([store.segments[-2].name])
            store.commit({**store.meta, "done": [1]})
        assert contents(folder) == contents(memory) == [1, 2, 4, 5, 6, 99]
        assert folder.meta == memory.meta == {"cut": True, "done": [1]}
        assert [s.name for s in folder.segments][:5] != [s.name for s in memory.segments]  # parts use up numbers
        reader = Store.open(folder.path)
        assert reader.segments == folder.segments
        assert contents(reader) == contents(folder)
        assert set(os.listdir(folder.path)) == {*folder._manifest.files, "writer.lock"}


def test_what_is_read_may_be_named_by_place_by_name_or_by_itself(store):
    for step in range(3):
        store.append({"step": torch.tensor(step)})
    for key in (1, -2, store.segments[1].name, store.segments[1]):
        assert int(store.read(key)["step"]) == 1


@pytest.mark.parametrize("key", [3, -4, "segment-00000099.safetensors", "../x", "", Segment("../x", 1, "0" * 64)])
def test_a_segment_that_is_not_there_is_refused(store, key):
    for step in range(3):
        store.append({"step": torch.tensor(step)})
    with pytest.raises(StoreError):
        store.read(key)
    if isinstance(key, str):
        with pytest.raises(StoreError):
            store.drop([store.segments[0].name, key])
    assert len(store.segments) == 3


@pytest.mark.parametrize("count", [-1, 2, 1.0, True, None])
def test_a_store_is_not_truncated_to_what_it_never_had(store, count):
    store.append({})
    with pytest.raises(DataError, match="cannot be kept"):
        store.truncate(count)


def test_a_resumed_store_goes_on_where_it_was(tmp_path, short_parts):
    for step in range(7):
        if step:
            store = Store.resume(tmp_path / "s", "run")
        else:
            store = Store.create(tmp_path / "s", "run", {})
        with store:
            store.append({"step": torch.tensor(step)}, {"step": step})
    reader = Store.open(tmp_path / "s", "run")
    assert contents(reader) == list(range(7))
    assert [segment.meta["step"] for segment in reader.segments] == list(range(7))


def test_a_name_never_stands_for_two_contents(tmp_path, short_parts):
    seen = {}
    for turn in range(3):
        with Store.create(tmp_path / "s", "run", {}, overwrite=True) as store:
            for step in range(7):
                segment = store.append({"step": torch.tensor(100 * turn + step)})
                assert segment.name not in seen
                seen[segment.name] = segment.sha256
                if step % 3 == 2:
                    store.truncate(len(store.segments) - 2)
    assert contents(Store.open(tmp_path / "s")) == [200, 203, 206]


def test_resuming_removes_what_a_killed_writer_left_and_nothing_else(tmp_path, short_parts):
    with Store.create(tmp_path / "s", "run", {}) as store:
        for step in range(5):
            store.append({"step": torch.tensor(step)})
    before = tree(tmp_path / "s")
    left = ["segment-00000042.safetensors", "segment-00000043.safetensors.part", "manifest-00000044.json"]
    left += ["manifest.json.part", "manifest-00000044.json.part"]
    others = ["notes.txt", "mine.part", "segment-1.safetensors", "segment-00000042.safetensors.bak"]
    for name in left + others:
        (tmp_path / "s" / name).write_text("x")
    Store.open(tmp_path / "s")
    assert set(left + others) < set(os.listdir(tmp_path / "s"))
    Store.resume(tmp_path / "s", "run").close()
    for name in others:
        (tmp_path / "s" / name).unlink()
    assert tree(tmp_path / "s") == before


def test_a_reader_changes_nothing_and_works_without_the_right_to_write(tmp_path):
    with Store.create(tmp_path / "s", "run", {}) as store:
        store.append({"step": torch.tensor(4)})
        (tmp_path / "s" / "manifest.json.part").write_text("left by somebody")
        before = tree(tmp_path)
        (tmp_path / "s").chmod(0o500)
        try:
            reader = Store.open(tmp_path / "s")
            assert contents(reader) == [4]
            reader.close()
            assert contents(reader) == [4]
        finally:
            (tmp_path / "s").chmod(0o700)
        assert tree(tmp_path) == before
        for write in (lambda: reader.append({}), lambda: reader.commit({}), lambda: reader.drop([])):
            with pytest.raises(StoreError, match="opened for reading"):
                write()


def test_a_reader_stays_with_its_commit_until_it_refreshes(tmp_path, short_parts):
    with Store.create(tmp_path / "s", "run", {"v": 1}) as store:
        for step in range(5):
            store.append({"step": torch.tensor(step)})
        reader = Store.open(tmp_path / "s")
        assert not reader.refresh()
        store.truncate(2, {"v": 2})
        store.append({"step": torch.tensor(70)})
        assert reader.meta == {"v": 1}
        assert len(reader.segments) == 5
        assert int(reader.read(1)["step"]) == 1
        with pytest.raises(StoreError, match="dropped it after"):
            reader.read(2)
        assert reader.refresh()
        assert (reader.meta, contents(reader)) == ({"v": 2}, [0, 1, 70])


def test_many_segments_do_not_make_a_commit_longer(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    with Store.create(tmp_path / "s", "run", {}) as store:
        sizes = []
        for _ in range(1100):
            store.append({})
            sizes.append((tmp_path / "s" / "manifest.json").stat().st_size)
        assert max(sizes[256:]) < 1.1 * max(sizes[:257])
        assert len(store._manifest.parts) == 4
    assert len(Store.open(tmp_path / "s").segments) == 1100


def test_the_size_check_alone_finds_a_short_file_and_the_full_check_a_changed_one(tmp_path):
    with Store.create(tmp_path / "s", "run", {}) as store:
        path = store.path / store.append({"step": torch.arange(9)}).name
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert Store.open(tmp_path / "s", verify="size").read(0)["step"][-1] != 8
    with pytest.raises(StoreCorrupt, match="checksum"):
        Store.open(tmp_path / "s").read(0)
    path.write_bytes(data[:-1])
    for verify in ("size", "sha256"):
        with pytest.raises(StoreCorrupt, match="bytes that were written"):
            Store.open(tmp_path / "s", verify=verify).read(0)
    with pytest.raises(StoreError, match="sha256"):
        Store.open(tmp_path / "s", verify="no")


def test_one_damaged_segment_leaves_the_others_readable(tmp_path):
    with Store.create(tmp_path / "s", "run", {}) as store:
        for step in range(3):
            store.append({"step": torch.tensor(step)})
    reader = Store.open(tmp_path / "s")
    (tmp_path / "s" / reader.segments[1].name).unlink()
    with pytest.raises(StoreCorrupt, match="missing"):
        reader.read(1)
    assert [int(reader.read(i)["step"]) for i in (0, 2)] == [0, 2]
    with Store.resume(tmp_path / "s", "run") as store:
        store.drop([store.segments[1].name])
        assert contents(store) == [0, 2]


# One writer


def test_a_second_writer_is_told_who_the_first_one_is(tmp_path):
    with Store.create(tmp_path / "s", "run", {}) as store:
        for second in (
            lambda: Store.resume(store.path, "run"),
            lambda: Store.create(store.path, "run", {}, overwrite=True),
        ):
            with pytest.raises(StoreBusy, match="this very process"):
                second()
        with pytest.raises(StoreExists):
            Store.create(store.path, "run", {})
        store.append({})
    with Store.resume(tmp_path / "s", "run") as store:
        assert len(store.segments) == 1


def lock_of(**changes):
    owner = {"host": os.uname().nodename, "pid": os.getpid(), "start": "x", "token": "y", **changes}
    return json.dumps(owner).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 80,
        b"{",
        b"[1]",
        b"[" * 4000,
        lock_of(pid=2**22 + 1),  # beyond the largest process number of Linux
        lock_of(pid=os.getppid(), start="another boot/1"),
        lock_of(pid=0),
        lock_of(pid=-1),
        lock_of(pid=2**70),
        lock_of(pid="1"),
        lock_of(pid=True),
    ],
    # The contents name this process, and every worker of a parallel run must find the same tests.
    ids=range(12),
)
def test_a_stale_lock_is_taken_over(tmp_path, content):
    Store.create(tmp_path / "s", "run", {}).close()
    (tmp_path / "s" / "writer.lock").write_bytes(content)
    with Store.resume(tmp_path / "s", "run") as store:
        store.append({})
    assert not (tmp_path / "s" / "writer.lock").exists()


def test_a_lock_of_a_living_process_or_of_another_host_is_respected(tmp_path):
    Store.create(tmp_path / "s", "run", {}).close()
    parent = os.getppid()
    for content, word in [
        (lock_of(pid=parent, start=started(parent)), str(parent)),
        (lock_of(pid=parent, start=""), str(parent)),
        (lock_of(pid=2**22 + 1, host="elsewhere"), "elsewhere"),
    ]:
        (tmp_path / "s" / "writer.lock").write_bytes(content)
        with pytest.raises(StoreBusy, match=word):
            Store.resume(tmp_path / "s", "run")
        assert (tmp_path / "s" / "writer.lock").read_bytes() == content


def test_a_process_that_ended_holds_no_lock_even_before_it_is_reaped():
    assert started(os.getpid())
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert started(pid) is None
    os.waitpid(pid, 0)
    assert started(pid) is None


def test_a_writer_that_lost_its_lock_stops_writing(tmp_path):
    store = Store.create(tmp_path / "s", "run", {})
    store.append({})
    (tmp_path / "s" / "writer.lock").write_bytes(lock_of(pid=1))
    with pytest.raises(StoreBusy, match="taken away"):
        store.append({})
    store.close()
    assert (tmp_path / "s" / "writer.lock").read_bytes() == lock_of(pid=1)
    assert len(Store.open(tmp_path / "s").segments) == 1


def test_a_forked_child_neither_writes_nor_opens_the_door(tmp_path):
    store = Store.create(tmp_path / "s", "run", {})
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            store.append({})
        except StoreBusy:
            store.close()
            code = 0 if store.segments == () else 8
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    store.append({})
    store.close()
    assert len(Store.open(tmp_path / "s").segments) == 1


def test_a_forgotten_writer_lets_go(tmp_path):
    store = Store.create(tmp_path / "s", "run", {})
    del store
    gc.collect()
    Store.resume(tmp_path / "s", "run").close()


def test_a_closed_writer_does_not_write(tmp_path):
    store = Store.create(tmp_path / "s", "run", {})
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.append({})


# Doors that stay shut


def test_a_store_is_not_replaced_unless_asked(tmp_path):
    Store.create(tmp_path / "s", "run", {"v": 1}).close()
    before = tree(tmp_path)
    with pytest.raises(StoreExists, match="overwrite=True"):
        Store.create(tmp_path / "s", "run", {"v": 2})
    assert tree(tmp_path) == before
    Store.create(tmp_path / "s", "other", {"v": 2}, overwrite=True).close()
    assert Store.open(tmp_path / "s").kind == "other"


def test_segments_without_a_manifest_are_not_given_up_unless_asked(tmp_path):
    with Store.create(tmp_path / "s", "run", {}) as store:
        name = store.append({}).name
    (tmp_path / "s" / "manifest.json").unlink()
    with pytest.raises(StoreExists, match="is gone"):
        Store.create(tmp_path / "s", "run", {})
    assert (tmp_path / "s" / name).exists()
    Store.create(tmp_path / "s", "run", {}, overwrite=True).close()
    assert os.listdir(tmp_path / "s") == ["manifest.json"]


def test_a_damaged_store_can_be_replaced(tmp_path):
    with Store.create(tmp_path / "s", "run", {}) as store:
        store.append({"step": torch.tensor(1)})
    (tmp_path / "s" / "manifest.json").write_bytes(b"not json")
    with pytest.raises(StoreCorrupt):
        Store.resume(tmp_path / "s", "run")
    with Store.create(tmp_path / "s", "run", {}, overwrite=True) as store:
        store.append({"step": torch.tensor(2)})
    assert contents(Store.open(tmp_path / "s")) == [2]


def test_what_is_no_store_is_not_opened_and_not_touched(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "loop").symlink_to("loop")
    before = tree(tmp_path)
    for name in ("folder", "file", "nowhere", "loop", "nul\0", "long" * 2000):
        for door in (lambda path: Store.open(path), lambda path: Store.resume(path, "run")):
            with pytest.raises(StoreError):
                door(tmp_path / name if "\0" not in name else name)
    with pytest.raises(StoreError):
        Store.create(tmp_path / "file", "run", {})
    assert tree(tmp_path) == before


def test_a_store_of_another_kind_is_refused_by_name(tmp_path):
    Store.create(tmp_path / "s", "result", {}).close()
    for door in (Store.open, Store.resume):
        with pytest.raises(StoreError, match=r"'result'.*'run'"):
            door(tmp_path / "s", "run")
    for kind in ("", "a b", "x" * 65, None, "<b>"):
        with pytest.raises(DataError):
            Store.create(tmp_path / "t", kind, {})
    assert not (tmp_path / "t").exists()


def test_a_newer_version_is_refused_clearly(tmp_path):
    Store.create(tmp_path / "s", "run", {}).close()
    body = json.loads((tmp_path / "s" / "manifest.json").read_bytes())["body"]
    (tmp_path / "s" / "manifest.json").write_bytes(sealed({**body, "version": 2, "novelty": []}))
    with pytest.raises(StoreError, match="newer kernelscope"):
        Store.open(tmp_path / "s")


def body_with(**changes):
    return lambda body: sealed({**body, **changes})


def segment_with(**changes):
    def forge(body):
        first, *rest = body["segments"]
        return sealed({**body, "segments": [{**first, **changes}, *rest]})

    return forge


def part_with(**changes):
    def forge(body):
        row = {"name": "manifest-00000000.json", "size": 10, "sha256": "0" * 64, "count": 1}
        return sealed({**body, "next": 50, "parts": [{**row, **changes}]})

    return forge


def twice(body):
    return sealed({**body, "segments": [body["segments"][0]] * 2})


def named_twice(body):
    text = sealed(body)
    return text.replace(b'"kind":"run"', b'"kind":"run","kind":"run"')


def not_finite(word):
    def forge(body):
        text = json.dumps({**body, "meta": {"x": float(word)}}, sort_keys=True, separators=(",", ":"))
        return f'{{"body":{text},"sha256":"{hashlib.sha256(text.encode()).hexdigest()}"}}'.encode()

    return forge


HOSTILE = {
    "parent": segment_with(name="../outside.safetensors"),
    "grandparent": segment_with(name="../../outside.safetensors"),
    "hidden parent": segment_with(name="x/../../outside.safetensors"),
    "absolute": segment_with(name="/etc/passwd"),
    "backslashes": segment_with(name="..\\outside.safetensors"),
    "drive": segment_with(name="C:\\outside.safetensors"),
    "share": segment_with(name="//host/share/x.safetensors"),
    "home": segment_with(name="~/outside.safetensors"),
    "device": segment_with(name="/dev/zero"),
    "windows device": segment_with(name="CON.safetensors"),
    "zero": segment_with(name="segment-00000000.safetensors\0.txt"),
    "newline": segment_with(name="segment-00000000.safetensors\n"),
    "foreign digits": segment_with(name="segment-٠٠٠٠٠٠٠٠.safetensors"),
    "escaped": segment_with(name="%2e%2e/outside.safetensors"),
    "empty name": segment_with(name=""),
    "dot": segment_with(name="."),
    "the lock": segment_with(name="writer.lock"),
    "the manifest": segment_with(name="manifest.json"),
    "a folder": segment_with(name="segment-00000007.safetensors/x"),
    "long name": segment_with(name="s" * 100_000),
    "name of another type": segment_with(name=["segment-00000000.safetensors"]),
    "huge size": segment_with(size=2**62),
    "negative size": segment_with(size=-1),
    "real size": segment_with(size=1.0),
    "true size": segment_with(size=True),
    "short checksum": segment_with(sha256="00"),
    "checksum of another type": segment_with(sha256=None),
    "one field more": segment_with(more=1),
    "meta of another type": segment_with(meta=[]),
    "twice": twice,
    "out of order": lambda body: sealed({**body, "segments": body["segments"][::-1]}),
    "part outside": part_with(name="../manifest-00000000.json"),
    "part absolute": part_with(name="/etc/hostname"),
    "part of negative size": part_with(size=-5),
    "part of huge size": part_with(size=2**50),
    "part that is missing": part_with(),
    "before its time": body_with(next=0),
    "next of another type": body_with(next="9"),
    "endless next": body_with(next=10**30),
    "kind of another type": body_with(kind=7),
    "kind with markup": body_with(kind="<script>"),
    "meta as a list": body_with(meta=[1]),
    "segments as an object": body_with(segments={}),
    "version of another type": body_with(version="1"),
    "version zero": body_with(version=0),
    "another format": body_with(format="zip"),
    "one field too many": body_with(extra=1),
    "key twice": named_twice,
    "NaN": not_finite("nan"),
    "Infinity": not_finite("inf"),
    "deep": lambda body: b'{"body":' + b"[" * 200_000 + b"]" * 200_000 + b',"sha256":""}',
    "deep object": lambda body: b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep in meta": body_with(meta={"x": json.loads("[" * 60 + "]" * 60)}),
    "unfinished strings": lambda body: b'"\\"' * 200_000 + b"\\",
    "a string that never ends": lambda body: b'"' + b'\\"' * 400_000,
    "backslashes only": lambda body: b'"' + b"\\" * 400_001,
    "not UTF-8": lambda body: sealed(body).replace(b"run", b"r\xffn"),
    "UTF-16": lambda body: sealed(body).decode().encode("utf-16"),
    "byte order mark": lambda body: b"\xef\xbb\xbf" + sealed(body),
    "spaces": lambda body: sealed(body) + b" ",
    "line end": lambda body: sealed(body) + b"\n",
    "two documents": lambda body: sealed(body) * 2,
    "escaped otherwise": lambda body: sealed(body).replace(b'"run"', b'"\\u0072un"'),
    "wrong checksum": lambda body: sealed(body)[:-4] + b'00"}',
    "no checksum": lambda body: json.dumps({"body": body}).encode(),
    "a list": lambda body: b"[]",
    "a number": lambda body: b"1" * 100_000,
    "nothing": lambda body: b"",
    "pickle": lambda body: b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "zeros": lambda body: b"\0" * 5000,
}


@pytest.mark.parametrize("form", HOSTILE)
def test_a_hostile_manifest_is_refused_and_nothing_outside_is_touched(tmp_path, form):
    root = tmp_path / "a" / "b"
    root.mkdir(parents=True)
    for folder in (root, tmp_path, tmp_path / "a"):
        (folder / "outside.safetensors").write_bytes(save({"secret": torch.ones(3)}))
        (folder / "manifest-00000000.json").write_bytes(b"0123456789")
    with Store.create(root / "store", "run", {"v": 1}) as store:
        for step in range(3):
            store.append({"step": torch.tensor(step)})
    body = json.loads((root / "store" / "manifest.json").read_bytes())["body"]
    (root / "store" / "manifest.json").write_bytes(HOSTILE[form](copy.deepcopy(body)))
    before = tree(tmp_path)
    start = time.perf_counter()
    for door in (Store.open, Store.resume):
        with pytest.raises((StoreCorrupt, UnsafeFile)) as caught:
            door(root / "store", "run")
        assert len(str(caught.value)) < 1500
        assert tree(tmp_path) == before
    assert time.perf_counter() - start < 2
    Store.create(root / "store", "run", {}, overwrite=True).close()
    outside = {name: digest for name, digest in before.items() if "store" not in name}
    assert {name: digest for name, digest in tree(tmp_path).items() if "store" not in name} == outside


def test_hostile_forms_are_refused_for_what_they_are_and_the_honest_one_is_not(tmp_path):
    with Store.create(tmp_path / "s", "run", {"v": 1}) as store:
        store.append({})
    body = json.loads((tmp_path / "s" / "manifest.json").read_bytes())["body"]
    (tmp_path / "s" / "manifest.json").write_bytes(sealed(body))
    assert len(Store.open(tmp_path / "s").segments) == 1


@pytest.mark.parametrize("target", ["segment", "manifest", "part", "lock"])
@pytest.mark.parametrize("trap", ["link", "dangling link", "pipe", "folder"])
def test_links_pipes_and_folders_are_not_followed(tmp_path, short_parts, target, trap):
    with Store.create(tmp_path / "s", "run", {}) as store:
        for step in range(3):
            store.append({"step": torch.tensor(step)})
        names = {"segment": store.segments[0].name, "part": store._manifest.parts[0].name}
    path = tmp_path / "s" / {"manifest": "manifest.json", "lock": "writer.lock", **names}[target]
    outside = tmp_path / "outside"
    if path.exists():
        path.rename(outside)
    else:
        outside.write_bytes(lock_of(pid=2**22 + 1))
    if trap == "link":
        path.symlink_to(outside)
    elif trap == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    elif trap == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    before = tree(tmp_path)
    with pytest.raises(UnsafeFile, match="regular file"):
        contents(Store.resume(tmp_path / "s", "run") if target == "lock" else Store.open(tmp_path / "s"))
    assert tree(tmp_path) == before


def test_a_planted_part_is_replaced_and_what_it_points_to_is_not(tmp_path):
    (tmp_path / "precious").write_text("precious")
    with Store.create(tmp_path / "s", "run", {}) as store:
        for name in ("segment-00000000.safetensors.part", "manifest.json.part", "segment-00000000.safetensors"):
            (tmp_path / "s" / name).symlink_to(tmp_path / "precious")
        store.append({"step": torch.tensor(5)})
    assert (tmp_path / "precious").read_text() == "precious"
    assert contents(Store.open(tmp_path / "s")) == [5]


def header(entries, data=b"", length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(dtype="F32", shape=(1,), place=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(place)}


HOSTILE_SEGMENTS = {
    "nothing": b"",
    "short": b"\1\0\0",
    "length only": (0).to_bytes(8, "little"),
    "huge length": header({}, length=2**63),
    "largest length": header({}, length=2**64 - 1),
    "length past the end": header({"x": entry()}, b"\0" * 4, length=5000),
    "not JSON": header(b"{]"),
    "a list": header(b"[]"),
    "a pickle": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R." + b" " * 100,
    "a zip file": b"PK\3\4" + b"\0" * 100,
    "deep": header(b'{"x":' + b"[" * 100_000),
    "key twice": header(b'{"x":%b,"x":%b}' % ((json.dumps(entry()).encode(),) * 2), b"\0" * 4),
    "not UTF-8": header(b'{"\xff":1}'),
    "NaN": header(b'{"x":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}', b"\0" * 4),
    "unknown type": header({"x": entry("F128", (1,), (0, 16))}, b"\0" * 16),
    "type of another type": header({"x": entry(["F32"])}, b"\0" * 4),
    "four bits": header({"x": entry("F4", (8,), (0, 4))}, b"\0" * 4),
    "negative shape": header({"x": entry(shape=(-1, -1))}, b"\0" * 4),
    "real shape": header({"x": entry(shape=(1.0,))}, b"\0" * 4),
    "true shape": header({"x": entry(shape=(True,))}, b"\0" * 4),
    "overflowing shape": header({"x": entry(shape=(2**61, 8), place=(0, 0))}),
    "overflow to zero": header({"x": entry(shape=(2**32, 2**32), place=(0, 0))}),
    "huge empty": header({"x": entry(shape=(2**61, 2**61, 0), place=(0, 0))}),
    "many dimensions": header({"x": entry(shape=(1,) * 65)}, b"\0" * 4),
    "too few bytes": header({"x": entry(shape=(2,))}, b"\0" * 4),
    "overlap": header({"x": entry(), "y": entry(place=(2, 6))}, b"\0" * 6),
    "same place": header({"x": entry(), "y": entry()}, b"\0" * 4),
    "gap": header({"x": entry(), "y": entry(place=(8, 12))}, b"\0" * 12),
    "backwards": header({"x": entry(shape=(0,), place=(4, 0))}, b"\0" * 4),
    "negative place": header({"x": entry(place=(-4, 0))}, b"\0" * 4),
    "one place": header({"x": entry(place=(0,))}, b"\0" * 4),
    "bytes to spare": header({"x": entry()}, b"\0" * 9),
    "missing bytes": header({"x": entry()}, b"\0" * 3),
    "no fields": header({"x": {}}),
    "a field too many": header({"x": {**entry(), "more": 1}}, b"\0" * 4),
    "a number": header({"x": 7}),
    "notes of another type": header({"__metadata__": {"x": [1]}}),
    "neither true nor false": header({"x": entry("BOOL", (4,))}, b"\0\1\2\0"),
    "surrogate name": header(b'{"\\ud800":%b}' % json.dumps(entry()).encode(), b"\0" * 4),
}


@pytest.mark.parametrize("form", HOSTILE_SEGMENTS)
def test_a_hostile_segment_with_a_matching_checksum_is_refused(tmp_path, form):
    data = HOSTILE_SEGMENTS[form]
    with Store.create(tmp_path / "s", "run", {}) as store:
        name = store.append({}).name
    body = json.loads((tmp_path / "s" / "manifest.json").read_bytes())["body"]
    body["segments"][0].update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    (tmp_path / "s" / "manifest.json").write_bytes(sealed(body))
    (tmp_path / "s" / name).write_bytes(data)
    start = time.perf_counter()
    with pytest.raises((UnsafeFile, StoreCorrupt)):
        Store.open(tmp_path / "s").read(0)
    assert time.perf_counter() - start < 2


# What a header can say truthfully about its bytes; other walls stop it.
LATER = {"huge empty", "notes of another type", "neither true nor false", "surrogate name", "length only"}


@pytest.mark.parametrize("form", [form for form in HOSTILE_SEGMENTS if form not in LATER])
def test_a_hostile_header_is_refused_before_safetensors_sees_it(tmp_path, monkeypatch, form):
    monkeypatch.setattr("safetensors.torch.load", lambda data: pytest.fail("safetensors was asked"))
    with pytest.raises((UnsafeFile, StoreCorrupt)):
        unpack(HOSTILE_SEGMENTS[form], tmp_path)


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_random_changes_to_a_header_are_refused_or_harmless(tmp_path, count):
    generator = torch.Generator().manual_seed(1)
    honest = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bool)})
    refused = 0
    for _ in range(count):
        data = bytearray(honest)
        for _ in range(int(torch.randint(1, 4, (), generator=generator))):
            place = int(torch.randint(0, len(data), (), generator=generator))
            data[place] = int(torch.randint(0, 256, (), generator=generator))
        try:
            found = unpack(bytes(data), tmp_path)
            assert sum(t.numel() * t.element_size() for t in found.values()) == 27
        except StoreError:
            refused += 1
    assert refused > count // 2


def test_a_file_with_many_more_bytes_than_promised_is_not_read(tmp_path):
    with Store.create(tmp_path / "s", "run", {}) as store:
        name = store.append({}).name
    for path, error in [(tmp_path / "s" / name, StoreCorrupt), (tmp_path / "s" / "manifest.json", UnsafeFile)]:
        with path.open("r+b") as file:
            file.truncate(2**42)
        with pytest.raises(error):
            Store.open(tmp_path / "s").read(0)


# Words


def test_every_error_says_what_where_why_what_to_do_and_what_is_safe(tmp_path, monkeypatch):
    caught = []

    def catch(call):
        with pytest.raises(KernelscopeError) as error:
            call()
        caught.append(error.value)

    with Store.create(tmp_path / "s", "run", {}) as store:
        store.append({"step": torch.tensor(0)})
        catch(lambda: Store.create(tmp_path / "s", "run", {}))
        catch(lambda: Store.resume(tmp_path / "s", "run"))
        monkeypatch.setattr(storage_files, "free_bytes", lambda folder: 10)
        catch(lambda: store.append({}))
    catch(lambda: Store.open(tmp_path / "nowhere"))
    path = tmp_path / "s" / store.segments[0].name
    path.write_bytes(path.read_bytes()[:-1])
    catch(lambda: Store.open(tmp_path / "s").read(0))
    path.unlink()
    path.symlink_to(tmp_path)
    catch(lambda: Store.open(tmp_path / "s").read(0))
    (tmp_path / "s" / "manifest.json").write_bytes(b"{}")
    catch(lambda: Store.open(tmp_path / "s"))
    kinds = [StoreExists, StoreBusy, StoreFull, StoreError, StoreCorrupt, UnsafeFile, StoreCorrupt]
    assert [type(error) for error in caught] == kinds
    for error in caught:
        text = str(error)
        assert str(tmp_path) in text
        assert text.endswith((".", ").", "])."))
        assert text.count(". ") >= 1
        assert any(word in text for word in ("intact", "meanwhile", "nothing was", "can be read", "not followed"))


def test_a_store_says_itself_in_a_line(store):
    store.append({"x": torch.ones(2)})
    assert "kind='run', 1 segments" in repr(store)


# Single files


def test_a_file_is_written_whole_over_an_old_one_and_leaves_no_part(tmp_path):
    (tmp_path / "new").mkdir()
    target = tmp_path / "new" / "page.html"
    for data in (b"one", b"two" * 1000, b""):
        write_atomically(target, data)
        assert target.read_bytes() == data
    assert os.listdir(target.parent) == ["page.html"]
    (tmp_path / "link").symlink_to(target)
    write_atomically(tmp_path / "link", b"new")
    assert target.read_bytes() == b""
    assert (tmp_path / "link").read_bytes() == b"new"
    write_atomically(str(tmp_path / ("ü" * 120)), b"long")
    for path in (tmp_path, target / "x", "nul\0", tmp_path / ("x" * 300)):
        with pytest.raises(StoreError):
            write_atomically(path, b"")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", b"old")
    for name in ("write", "fsync", "replace"):
        with monkeypatch.context() as patch:

            def fail(*arguments):
                raise OSError(28, "No space left on device")

            patch.setattr(os, name, fail)
            with pytest.raises(StoreFull, match="3 bytes"):
                write_atomically(tmp_path / "a", b"new")
    assert tree(tmp_path) == {"a": hashlib.sha256(b"old").hexdigest()}


# Strict JSON


def test_plain_json_comes_back_as_it_was(tmp_path):
    value = {"b": [1, 2.5, None, True, "ü\u2028\ud800"], "a": {"": {}}}
    data = sealed(plain(value, 10_000))
    assert parse(data, tmp_path)["body"] == value
    assert data == sealed(json.loads(data)["body"])
    assert data.isascii()


def test_brackets_in_strings_are_not_depth(tmp_path):
    value = {"x": "[" * 1000 + '\\"{' * 1000 + "\\"}
    assert parse(sealed(value), tmp_path)["body"] == value


def test_a_machine_with_the_other_byte_order_is_refused(tmp_path, monkeypatch):
    with Store.create(tmp_path / "s", "run", {}) as store:
        monkeypatch.setattr(sys, "byteorder", "big")
        with pytest.raises(StoreError, match="lowest byte first"):
            store.append({})


def test_a_single_entry_of_any_stride_is_kept(tmp_path):
    cut = torch.arange(6.0).view(2, 3)[:1, :1].T
    odd = torch.arange(6.0)[1::5].as_strided((1,), (5,))
    with Store.create(tmp_path / "s", kind="test", meta={}) as store:
        store.append({"cut": cut, "odd": odd})
    read = Store.open(tmp_path / "s").read(0)
    assert torch.equal(read["cut"], cut)
    assert torch.equal(read["odd"], odd)
