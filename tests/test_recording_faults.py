"""A recording under fire: kills, full disks, interruptions, flipped bits, torn files, forged files."""

import copy
import errno
import json
import os
import random
import resource
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

import kernelscope as ks
from kernelscope.errors import KernelscopeError, RecordingError, StoreCorrupt, StoreError, StoreFull
from kernelscope.run import writer as writers
from kernelscope.run.rows import Rows
from kernelscope.run.segments import Chunk
from kernelscope.selftest.kept import digest, resealed, run_numbers
from kernelscope.selftest.row import TYPED
from kernelscope.selftest.rows.damage import damaged
from kernelscope.storage import MemoryStore, Store
from tests.interruptions import keyboard
from tests.killing import Server, serve
from tests.training import Points, Truth, network, split, step


def row_of(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def tools(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    loader = DataLoader(Points(), batch_size=6, shuffle=True)
    return model, loader, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


# The processes to be killed


def record_until_killed(folder, restored, commit_every, keep, steps, say):
    """Take up the recording where it ended, tell of each acknowledged step, and go on for ``steps`` or for ever."""
    model, loader, optimizer = tools(int.from_bytes(os.urandom(4), "big"))
    checkpoint = Path(folder + ".pt")
    if restored and checkpoint.exists():
        held = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(held["model"])
        optimizer.load_state_dict(held["optimizer"])
    elif (Path(folder) / "manifest.json").exists():
        with torch.no_grad():
            for p, value in zip(model.parameters(), ks.load(folder).parameters().values(), strict=True):
                p.copy_(value)
    with ks.record(model, loader, loss=F.mse_loss, batch=split, out=folder, keep=keep, commit_every=commit_every,
                   resume=True) as recording:
        k = recording._tape.first
        say(f"from {k}")
        history, told, end = {}, k, steps and k + steps
        while end is None or k < end:
            for x, _, y in loader:
                history[k] = (digest(row_of(model)), copy.deepcopy(model.state_dict()),
                              copy.deepcopy(optimizer.state_dict()))
                known = recording.acknowledged
                if known > told:
                    if restored:
                        torch.save({"model": history[known][1], "optimizer": history[known][2]}, f"{checkpoint}.part")
                        os.replace(f"{checkpoint}.part", checkpoint)
                    told = known
                    say(f"ack {known} {history[known][0]}")
                    history = {j: kept for j, kept in history.items() if j >= known}
                step(model, optimizer, x, y, Truth(), None)
                k += 1
                if k == end:
                    break
    say(f"done {len(recording.run)}")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(__file__, tmp_path_factory.mktemp("logs")) as running:
        yield running


# Kills


@pytest.mark.parametrize(("commit_every", "keep", "restored", "kills"), [
    (0.0, "all", True, 5), (0.05, "all", False, 4), (0.0, 7, True, 3), (0.05, "40KB", True, 3),
    pytest.param(0.0, "all", True, 60, marks=pytest.mark.slow),
    pytest.param(0.0, "all", False, 40, marks=pytest.mark.slow),
    pytest.param(0.05, "all", True, 40, marks=pytest.mark.slow),
    pytest.param(0.0, 7, True, 30, marks=pytest.mark.slow),
    pytest.param(0.05, "40KB", False, 30, marks=pytest.mark.slow),
])
def test_no_acknowledged_step_is_lost_when_the_process_is_killed(server, tmp_path, commit_every, keep, restored, kills,
                                                                 record_property):
    dice = random.Random(kills + len(str(keep)))
    told = resumed = recordings = 0
    for turn in range(kills):
        if turn % 10 == 0:
            folder, acknowledged, recordings = tmp_path / f"run {turn}", {}, recordings + 1
        child = server.start(record_until_killed, folder, restored, commit_every, keep, None)
        if turn % 10 == 0 or dice.random() < 0.7:
            child.until("ack")
        time.sleep(dice.uniform(0, 0.06))
        for word, k, *rest in map(str.split, child.kill()):
            if word == "from":
                # A loop that goes on before the end gives up what came after, and says so.
                assert not acknowledged or int(k) <= max(acknowledged) + 10**4
                acknowledged = {j: row for j, row in acknowledged.items() if j <= int(k)}
                resumed += int(k) > 0
            else:
                acknowledged[int(k)] = rest[0]
                told += 1
        run = ks.load(folder)
        assert len(run) >= max(acknowledged, default=0)
        for k in sorted(acknowledged)[-5:]:
            assert digest(run.trajectory(k, k)[0]) == acknowledged[k]
        if turn % 10 == 9 or turn == kills - 1:
            server.start(record_until_killed, folder, restored, commit_every, keep, 12).end()
            run = ks.load(folder)
            assert run.info()["complete"]
            assert len(run) > max(acknowledged)
            assert all(digest(run.trajectory(k, k)[0]) == row for k, row in acknowledged.items())
            d = ks.decompose(run[-150:], torch.ones(2, 3).double())
            assert float(d.residual.abs().max()) <= 1e-12 * float(d.magnitude.max())
            assert not d.channels["unattributed"].any()
            if len(run) <= 150:
                # Where momentum was restored its steps explain it; where it was not, there was none.
                assert not d.channels["momentum"].any()
    assert told > (0 if commit_every else kills)
    assert kills < 10 or resumed > kills // 2
    record_property("kills", kills)
    record_property("acknowledged", told)


def taken_up(out, restore, *, keep="all", first=8, again=6, warm=False):
    """Two sessions of one recording; the optimizer's state goes over, stays behind, or is another one."""
    model, loader, optimizer = tools()
    truth = Truth(optimizer)
    with ks.record(model, loader, loss=F.mse_loss, batch=split, out=out, keep=keep, commit_every=0):
        for _ in range(first // 4):
            for x, ids, y in loader:
                step(model, optimizer, x, y, truth, ids)
    state = {name: p.clone() for name, p in model.state_dict().items()}
    held = copy.deepcopy(optimizer.state_dict())
    other, loader, optimizer = tools(5)
    other.load_state_dict(state)
    if restore == "another":
        for values in held["state"].values():
            values["momentum_buffer"] += 0.1
    if restore:
        optimizer.load_state_dict(held)
    optimizer.register_step_pre_hook(truth.note)
    with ks.record(other, loader, loss=F.mse_loss, batch=split, out=out, keep=keep, resume=True) as recording:
        for j, (x, ids, y) in enumerate(loader):
            if j < again:
                step(other, optimizer, x, y, truth, ids)
    return recording.run, truth


@pytest.mark.parametrize("keep", ["all", 3])
@pytest.mark.parametrize("restore", [True, False, "another"])
def test_a_recording_that_was_taken_up_is_one_run(tmp_path, restore, keep):
    run, truth = taken_up(tmp_path / "run", restore, keep=keep)
    assert len(run) == 12
    assert run.restarts == [0, 8]
    truth.hold(run)
    truth.hold(ks.load(tmp_path / "run"))
    d = ks.decompose(run, torch.ones(2, 3).double())
    assert float(d.residual.abs().max()) <= 1e-12 * float(d.magnitude.max())
    assert not d.channels["unattributed"].any()
    # Momentum that no recorded step explains has its own channel.
    assert bool(d.channels["momentum"].any()) == (restore == "another")


@pytest.mark.parametrize("keep", ["all", 3])
def test_a_recording_taken_up_earlier_gives_up_the_later_steps_only_when_new_ones_are_safe(tmp_path, keep):
    points = Points()
    model, _, optimizer = tools()
    rows = []
    with ks.record(model, (points.x, points.y), loss=F.mse_loss, out=tmp_path / "run", commit_every=0):
        for _ in range(9):
            rows.append(row_of(model))
            step(model, optimizer, points.x, points.y, Truth(), None)
    original = ks.load(tmp_path / "run")
    torch.nn.utils.vector_to_parameters(rows[4].clone(), model.parameters())
    # An attempt that does not come to a step changes nothing.
    with pytest.raises(ZeroDivisionError):
        with ks.record(model, (points.x, points.y), loss=F.mse_loss, out=tmp_path / "run", resume=True) as recording:
            raise ZeroDivisionError
    assert len(recording.run) == len(ks.load(tmp_path / "run")) == len(original) == 9
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    with ks.record(model, (points.x, points.y), loss=F.mse_loss, out=tmp_path / "run", resume=True,
                   keep=keep) as recording:
        assert recording.acknowledged == 4
        for _ in range(3):
            step(model, optimizer, points.x, points.y, Truth(), None)
    for run in (recording.run, ks.load(tmp_path / "run")):
        assert [s.optimizer for s in run] == ["SGD"] * 4 + ["Adam"] * 3
        assert all(torch.equal(a, b) for a, b in zip(run.trajectory(0, 4), rows[:5], strict=True))
        assert torch.equal(run.trajectory(7, 7)[0], row_of(model))
        assert {k for k in range(8) if run.row(k) is not None} >= {0, 1, 2, 3, 4, 6, 7}
        # No row is left of the steps that were given up.
        assert (run.row(5) is None) == (keep == 3)
        d = ks.decompose(run, points.x[:1])
        assert not d.channels["unattributed"].any()


def test_a_stream_that_is_taken_up_goes_on_with_its_names(tmp_path):
    points = Points()
    model, _, optimizer = tools()
    truth = Truth(optimizer)
    for names in ([7, 3], [3, 900, 7], [5, 3]):
        data = [(points.x[i % 24], i, points.y[i % 24]) for i in names]
        loader = DataLoader(data, batch_size=1)
        with ks.record(model, loader, loss=F.mse_loss, batch=split, out=tmp_path / "run", ids=lambda b: b[1],
                       resume=True) as recording:
            for x, ids, y in loader:
                step(model, optimizer, x, y, truth, ids)
        truth.hold(recording.run)
        truth.hold(ks.load(tmp_path / "run"))
    assert list(recording.run.samples.ids) == [7, 3, 900, 5]


def test_a_recording_is_taken_up_only_where_it_fits(tmp_path):
    taken_up(tmp_path / "run", True)
    model, loader, _ = tools(9)
    record = lambda model, data=loader: ks.record(model, data, loss=F.mse_loss, out=tmp_path / "run", resume=True)
    with pytest.raises(RecordingError, match="none of the 12 recorded steps.*Load the checkpoint.*overwrite=True"):
        record(model).__enter__()
    with pytest.raises(RecordingError, match="has other parameters than this one"):
        record(network()).__enter__()
    with pytest.raises(RecordingError, match="has other samples than this one"):
        record(model, DataLoader(Points(n=7), batch_size=2)).__enter__()
    assert len(ks.load(tmp_path / "run")) == 12


# Interruptions


def test_control_c_as_the_writer_starts_is_told_as_what_it_is_and_leaves_no_thread(tmp_path, monkeypatch):
    points, start = Points(), threading.Thread.start

    def interrupted(self):
        start(self)
        if self.name == "kernelscope-writer":
            try:
                raise KeyboardInterrupt
            finally:
                threading.Lock().release()  # as a condition does that was left before it had its lock again

    model, _, optimizer = tools(0)
    recording = ks.record(model, (points.x, points.y), loss=F.mse_loss, out=tmp_path / "run")

    def loop():
        with recording:
            optimizer.zero_grad()
            F.mse_loss(model(points.x), points.y).backward()
            optimizer.step()
            monkeypatch.setattr(threading.Thread, "start", interrupted)
            try:
                recording.commit()
            finally:
                monkeypatch.undo()

    with pytest.raises(KeyboardInterrupt):
        loop()
    assert len(recording.run) == 1
    assert len(ks.load(tmp_path / "run")) == 1
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(t.name == "kernelscope-writer" for t in threading.enumerate()):
        time.sleep(0.01)
    assert not any(t.name == "kernelscope-writer" for t in threading.enumerate())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.timeout(300, method="thread")
@pytest.mark.parametrize("tries", [25, pytest.param(300, marks=pytest.mark.slow)])
def test_control_c_at_any_moment_keeps_every_step_that_ended(tmp_path, tries):
    points = Points()
    with keyboard(1, 0.0005, 0.05) as keys:
        for turn in range(tries):
            model, _, optimizer = tools(turn)
            rows, out = [], tmp_path / str(turn) if turn % 2 else None
            recording = ks.record(model, (points.x, points.y), loss=F.mse_loss, out=out, commit_every=0.01)
            try:
                with recording:
                    while True:
                        if rows:
                            keys.press()
                        rows.append(row_of(model))
                        optimizer.zero_grad()
                        F.mse_loss(model(points.x), points.y).backward()
                        optimizer.step()
            except KeyboardInterrupt:
                keys.heard()
                # An optimizer that is interrupted as it begins may leave torch without gradients.
                torch.set_grad_enabled(True)
            run = recording.run
            # The step that was under way may have ended or not; every one before it did.
            assert len(rows) - 1 <= len(run) + 1
            assert len(run) <= len(rows)
            assert all(torch.equal(a, b) for a, b in zip(run.trajectory(0, len(run)), rows, strict=False))
            if out is not None:
                assert len(ks.load(out)) == len(run) == recording.acknowledged


# Full disks


def fill_the_disk(monkeypatch, after):
    write, left = os.write, [after]

    def some(descriptor, data):
        left[0] -= len(data)
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    monkeypatch.setattr(os, "write", some)


@pytest.mark.parametrize("after", [0, 2000, 5000, 9000])
@pytest.mark.parametrize("commit_every", [0, 100])
def test_a_full_disk_ends_the_loop_and_loses_no_step(tmp_path, monkeypatch, after, commit_every):
    points = Points()
    model, _, optimizer = tools()
    rows = []
    with monkeypatch.context() as patch:
        with pytest.raises(StoreFull, match="disk") as caught:  # noqa: PT012
            with ks.record(model, (points.x, points.y), loss=F.mse_loss, out=tmp_path / "run",
                           commit_every=commit_every) as recording:
                fill_the_disk(patch, after)
                for _ in range(40):
                    rows.append(row_of(model))
                    step(model, optimizer, points.x, points.y, Truth(), None)
        if not caught.value.__notes__:
            raise caught.value
    run = recording.run
    assert "all of them are in recording.run: make room and call" in caught.value.__notes__[0]
    assert len(rows) - 1 <= len(run) <= len(rows)
    assert all(torch.equal(a, b) for a, b in zip(run.trajectory(0, len(run)), rows, strict=False))
    if recording.acknowledged:
        assert len(ks.load(tmp_path / "run")) >= recording.acknowledged
    else:
        assert after < 9000 or commit_every
    run.save(tmp_path / "rescued")
    assert len(ks.load(tmp_path / "rescued")) == len(run)


def test_a_disk_that_was_full_for_a_while_is_tried_again(tmp_path, monkeypatch):
    points = Points()
    model, _, optimizer = tools()
    with ks.record(model, (points.x, points.y), loss=F.mse_loss, out=tmp_path / "run", commit_every=0) as recording:
        failures = 0
        for k in range(30):
            with monkeypatch.context() as patch:
                if 10 <= k < 20:
                    fill_the_disk(patch, 0)
                optimizer.zero_grad()
                F.mse_loss(model(points.x), points.y).backward()
                try:
                    optimizer.step()
                except StoreFull:
                    failures += 1
                    optimizer.step()
                if recording._tape.writer is not None:
                    try:
                        recording._tape.writer.drain()
                    except StoreFull:
                        failures += 1
    assert failures > 5
    assert len(recording.run) == len(ks.load(tmp_path / "run")) >= 30


@pytest.mark.parametrize("busy", [True, False])
def test_a_recording_whose_folder_was_taken_by_another_says_so_and_keeps_its_steps(tmp_path, busy):
    points, out = Points(), tmp_path / "run"
    (model, _, optimizer), (other, _, others) = tools(0), tools(1)
    early = ks.record(other, (points.x, points.y), loss=F.mse_loss, out=out, commit_every=0)
    with ExitStack() as stack:
        with pytest.raises(StoreError) as caught:  # noqa: PT012
            with ks.record(model, (points.x, points.y), loss=F.mse_loss, out=out, commit_every=100,
                           overwrite=busy) as late:
                stack.enter_context(early)
                for _ in range(3):
                    step(other, others, points.x, points.y, Truth(), None)
                early._tape.writer.drain()
                if not busy:
                    stack.close()
                step(model, optimizer, points.x, points.y, Truth(), None)
    said = f"{caught.value} {' '.join(caught.value.__notes__)}"
    assert ("has one writer at a time. Choose another folder" if busy else "Another recording has put its run") in said
    assert f"None of the 1 recorded steps is in {out}, and all of them are in recording.run: call" in said
    assert "Store." not in said
    assert "room" not in said
    assert len(ks.load(out)) == 3
    late.run.save(tmp_path / "other")
    assert len(ks.load(tmp_path / "other")) == 1


def test_an_error_of_the_loop_is_told_before_the_one_of_the_disk(tmp_path, monkeypatch):
    points = Points()
    model, _, optimizer = tools()
    with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012
        with ks.record(model, (points.x, points.y), loss=F.mse_loss, out=tmp_path / "run",
                       commit_every=100) as recording:
            for _ in range(3):
                step(model, optimizer, points.x, points.y, Truth(), None)
            fill_the_disk(monkeypatch, 0)
            raise ZeroDivisionError
    assert "disk" in caught.value.__notes__[0]
    assert len(recording.run) == 3


def test_a_chunk_that_is_handed_over_twice_is_written_once():
    rows = Rows(2, torch.float64)
    writer = writers.Writer(lambda: MemoryStore("run"), rows)
    chunk = Chunk(first=0, rows={0: torch.zeros(2).double()})
    writer.put(chunk)
    writer.put(chunk)
    writer.drain()
    writer.close()
    assert len(writer.store.segments) == 1
    assert writer.store.read(0)["rows"].tolist() == [[0.0, 0.0]]


def test_an_error_in_the_writer_reaches_the_loop(tmp_path, monkeypatch):
    points = Points()
    model, _, optimizer = tools()

    def encode(chunk):
        raise MemoryError("no room for a segment")

    monkeypatch.setattr(writers, "encode", encode)
    with pytest.raises(MemoryError, match="no room"):  # noqa: PT012
        with ks.record(model, (points.x, points.y), loss=F.mse_loss, out=tmp_path / "run", commit_every=0):
            for _ in range(100):
                step(model, optimizer, points.x, points.y, Truth(), None)


# Damage


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A run with everything a run may hold, and how it reads."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = network(dropout=0.2, norm=True)
        model[0].bias.requires_grad_(False)
        average = copy.deepcopy(model)
        loader = DataLoader(Points(noise=0.1), batch_size=6, shuffle=True)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
        with ks.record(model, loader, loss=F.mse_loss, batch=split, out=folder, commit_every=0, average=average,
                       keep=3, class_names=["a", "b"], notes={"by": "test"}):
            for _ in range(2):
                for j, (x, _, y) in enumerate(loader):
                    (F.mse_loss(model(x), y) / 2).backward()
                    if j % 2:
                        optimizer.step()
                        optimizer.zero_grad()
    return folder, everything(folder)


def everything(folder):
    """All that a run says."""
    run = ks.load(folder)
    return digest([run_numbers(run), repr(run).partition(": ")[2]])


@pytest.mark.parametrize("flips", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_flipped_bit_is_silently_accepted(recorded, flips, record_property):
    folder, honest = recorded
    dice = random.Random(flips)
    paths = sorted(path for path in folder.iterdir() if path.name != "writer.lock")
    for flip in range(flips):
        path = dice.choice(paths) if flip % 4 else folder / "manifest.json"
        data = bytearray(path.read_bytes())
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        assert damaged(partial(everything, folder), honest, path, data) is TYPED
    assert everything(folder) == honest
    record_property("flips", flips)


@pytest.mark.parametrize("cuts", [40, pytest.param(300, marks=pytest.mark.slow)])
def test_no_truncated_file_is_silently_accepted(recorded, cuts, record_property):
    folder, honest = recorded
    dice = random.Random(cuts)
    paths = sorted(path for path in folder.iterdir() if path.name != "writer.lock")
    for cut in range(cuts):
        path = paths[cut % len(paths)]
        data = path.read_bytes()
        length = dice.choice([0, 1, 8, len(data) - 1, dice.randrange(len(data))])
        assert damaged(partial(everything, folder), honest, path, data[:length]) is TYPED
    record_property("cuts", cuts)


# Forged files: every checksum is right, and somebody else wrote them


def forge(source, target, meta=None, words=None, tensors=None, segment=None):
    """A copy of the run with some of it changed, under new checksums."""
    store = Store.open(source)
    change = lambda value, by: value if by is None else by(value)
    with pytest.MonkeyPatch.context() as patch:
        # What is forged need not survive a power cut.
        patch.setattr(os, "fsync", lambda descriptor: None)
        with Store.create(target, "run", change(store.meta, meta)) as copied:
            for entry in store.segments:
                held = store.read(entry)
                said = json.loads(held["words"].numpy().tobytes())
                text = json.dumps(change(said, words)).encode()
                held["words"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
                copied.append(change(held, tensors), change(entry.meta, segment))


def put(*path):
    *path, value = path

    def change(tree):
        tree = copy.deepcopy(tree)
        node = tree
        for key in path[:-1]:
            node = node[key]
        if value is DELETE:
            del node[path[-1]]
        else:
            node[path[-1]] = value
        return tree

    return change


DELETE = object()
HUGE = 10**15
META = [
    put("parameters", DELETE), put("parameters", {}), put("parameters", "x"), put("parameters", []),
    put("parameters", 0, "shape", [HUGE, HUGE]), put("parameters", 0, "shape", [-1, 3]),
    put("parameters", 0, "shape", [True]), put("parameters", 0, "shape", [1.5]), put("parameters", 0, "shape", "55"),
    put("parameters", 0, "shape", [1] * 1000), put("parameters", 0, "name", 7), put("parameters", 0, 7),
    put("parameters", 0, "name", "../../x"), put("parameters", 0, DELETE), put("frozen", DELETE), put("frozen", []),
    put("frozen", 0, "name", "0.weight"), put("dtype", DELETE), put("dtype", "save"), put("dtype", "int64"),
    put("dtype", None), put("dtype", ["float64"]), put("dtype", "float32"), put("samples", HUGE), put("samples", -1),
    put("samples", "24"), put("samples", 3), put("samples", True), put("samples", 1.5), put("samples", None),
    put("samples", DELETE), put("class_names", "ab"), put("class_names", [1]), put("class_names", {"a": 1}),
    put("loss", 3), put("loss", "system"), put("loss", "__import__"), put("loss", DELETE),
    put("loss_options", []), put("architecture", "x"), put("architecture", {}), put("architecture", None),
    put("architecture", {"module": "os.system", "arguments": {}}), put("keep", None), put("keep", [1]),
    put("notes", 3), put("complete", "yes"),
]
WORDS = [
    put("first", -1), put("first", HUGE), put("first", 10**400), put("first", "0"), put("first", None),
    put("first", 1.0), put("first", DELETE), put("first", True), put("first", float("inf")),
    put("steps", {}), put("steps", 5), put("steps", [[]]), put("steps", None), put("modes", {}), put("modes", [[1]]),
    put("modes", []), put("modes", 3), put("rows", [0] * 10), put("rows", [HUGE]), put("rows", "x"),
    put("rows", DELETE), put("states", []), put("states", {"x": []}),
    put("states", {str(HUGE): ["a"]}), put("states", {"0": "abc"}), put("buffers", None), put("buffers", {"0": None}),
    put("averages", [HUGE]), put("samples", HUGE), put("samples", -3), put("samples", 1),
    put("samples", [3]), put("samples", None),
]
STEPS = [
    put("o", None), put("o", []), put("g", [{}]), put("g", {}), put("g", 0, "names", ["x"]),
    put("g", 0, "names", "abc"), put("g", 0, "names", [["0.weight"]]), put("g", 0, "names", ["0.weight"] * 2),
    put("g", 0, "lr", "big"), put("g", 0, "lr", None), put("g", 0, "lr", [1]), put("g", 0, "lr", float("nan")),
    put("g", 0, "lr", 10**400), put("g", 0, "lr", DELETE), put("g", 0, "betas", 0.9), put("g", 0, "betas", [0.9]),
    put("g", 0, "betas", ["a", "b"]), put("g", 0, "eps", None), put("g", 0, "amsgrad", "no"),
    put("g", 0, "weight_decay", {}), put("b", []), put("b", None), put("b", [1]), put("b", [[1, 2]]),
    put("b", 0, 0, -6), put("b", 0, 0, HUGE), put("b", 0, 0, 10**30), put("b", 0, 0, "6"), put("b", 0, 1, 99),
    put("b", 0, 1, -1), put("b", 0, 2, -1), put("b", 0, 2, 7), put("b", 0, 4, HUGE), put("b", 0, 4, -1),
    put("b", 0, 4, 1), put("b", 1, 5, True), put("b", 0, 3, False), put("l", "x"), put("l", None),
    put("l", float("nan")),
    *(put("g", 0, "tensors", types) for types in (
        3, ["lr"], {"lr": "os"}, {"lr": "int64"}, {"lr": None}, {"lr": ["float32"]}, {"x": "float32"},
        {"betas": "float32"}, {"nesterov": "float32"})),
    put("w", None), put("w", ["x"]), put("w", 5), put("a", "x"), put("a", float("inf")), put("by", -1),
    put("by", HUGE), put("by", None), put("by", DELETE),
]


def first_step(change):
    def whole(words):
        return {**words, "steps": [change(entry) for entry in words["steps"]]} if words["steps"] else words

    def careful(words):
        try:
            return whole(words)
        # A step whose groups are those of the step before has none to change.
        except TypeError:
            return words

    return careful


def other(name, by):
    return lambda held: {**held, name: by(held[name])} if name in held else held


TENSORS = [
    other("columns", lambda t: t - 100), other("columns", lambda t: t + HUGE), other("columns", lambda t: t.double()),
    other("columns", lambda t: t[:1]), other("columns", lambda t: t.view(1, -1)), other("columns", lambda t: t.int()),
    other("gradient_norms", lambda t: t[:, :1]), other("gradient_norms", lambda t: t.float()),
    other("gradient_norms", lambda t: t[:0]), other("norms", lambda t: t[:, :1]), other("norms", lambda t: t[:0]),
    other("random", lambda t: t[:, :100]), other("random", lambda t: torch.full_like(t, 255)),
    other("random", lambda t: t.float()), other("random", lambda t: t[:0]), other("rows", lambda t: t[:, :-1]),
    other("rows", lambda t: t.float()), other("rows", lambda t: t[:0]), other("words", lambda t: t[:-1]),
    other("words", lambda t: t.float()), other("words", lambda t: t[:0]), other("words", lambda t: t + 200),
    other("words", lambda t: torch.frombuffer(bytearray(b"[" * 10**5), dtype=torch.uint8)),
    other("words", lambda t: torch.frombuffer(bytearray(b"{}"), dtype=torch.uint8)),
    other("words", lambda t: torch.frombuffer(bytearray(b"[]"), dtype=torch.uint8)),
    other("samples.0", lambda t: t - 50), other("samples.0", lambda t: t.float()), other("samples.1", lambda t: t[:1]),
    other("samples.1", lambda t: t.reshape(-1)),
    other("samples.0", lambda t: t * 0), other("drawn.0.0.0", lambda t: t[:2]), other("drawn.0.0.1", lambda t: t.sum()),
    lambda held: {name: t for name, t in held.items() if name != "words"},
    lambda held: {name: t for name, t in held.items() if name != "columns"},
    lambda held: {name: t for name, t in held.items() if not name.startswith("states.")},
    lambda held: {name: t[:1] if name.startswith("states.") and t.ndim else t for name, t in held.items()},
    lambda held: {name: t[:1] if name.startswith("buffers.") and t.ndim else t for name, t in held.items()},
    lambda held: {name: t.float() if name.startswith("averages.") else t for name, t in held.items()},
]
SEGMENTS = [put("place", -1), put("place", "0"), put("place", HUGE**2), put("place", DELETE), put("place", 3)]


# What may be said: it changes numbers and words, and what follows from them is refused when it is asked for.
LENIENT = [
    ("meta", put("loss_options", {"reduction": "sum"})), ("meta", put("loss_options", {"input": 1})),
    ("meta", put("loss", "huber_loss")), ("meta", put("keep", "all")), ("meta", put("environment", 3)),
    ("meta", put("fingerprint", None)), ("words", put("place", HUGE)), ("words", put("averages", {})),
    ("words", put("states", {"-7": []})), ("words", first_step(put("o", "Muon"))),
    ("words", first_step(put("o", "os.system"))), ("words", first_step(put("o", "__class__"))),
    ("words", first_step(put("g", []))), ("words", first_step(put("g", None))),
    ("tensors", other("samples.2", lambda t: t[:, :0])), ("segment", put("first", "x")),
    ("segment", put("steps", None)),
]


def forged(source, target, part, change):
    try:
        forge(source, target, **{part: change})
    except (KernelscopeError, KeyError, IndexError) as error:
        pytest.skip(f"the store itself does not write it: {type(error).__name__}")
    return target


@pytest.mark.parametrize(("part", "change"), [
    *(("meta", change) for change in META), *(("words", change) for change in WORDS),
    *(("words", first_step(change)) for change in STEPS), *(("tensors", change) for change in TENSORS),
    *(("segment", change) for change in SEGMENTS),
])
def test_a_forged_run_is_refused_when_it_is_opened(recorded, tmp_path, part, change):
    folder = forged(recorded[0], tmp_path / "forged", part, change)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    state = torch.get_rng_state()
    with pytest.raises(KernelscopeError):
        ks.load(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("part", "change"), LENIENT)
def test_a_run_with_other_words_is_read_or_refused(recorded, tmp_path, part, change):
    folder = forged(recorded[0], tmp_path / "forged", part, change)
    with suppress(KernelscopeError):
        everything(folder)


VALUES = [None, True, -1, 0, 7, HUGE, 10**30, 1.5, float("inf"), float("nan"), "", "x", "../x", [], [[]], {}, {"a": 1},
          [0] * 50, "0.weight", "float64", [1, 2, 3]]


def nodes(tree, path=()):
    yield path
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from nodes(value, (*path, key))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tries", [120, pytest.param(2000, marks=pytest.mark.slow)])
def test_whatever_is_written_into_a_run_ends_in_a_typed_error(recorded, tmp_path, tries):
    folder, _ = recorded
    dice = random.Random(tries)
    refused = 0
    for turn in range(tries):
        part = dice.choice(["meta", "words", "words", "words"])
        which = [dice.randrange(4)]

        def change(tree, which=which):
            which[0] -= 1
            path = dice.choice([path for path in nodes(tree) if path])
            return put(*path, dice.choice([*VALUES, DELETE]))(tree) if which[0] <= 0 else tree

        target = tmp_path / str(turn)
        try:
            forge(folder, target, **{part: change})
        except (KernelscopeError, IndexError):
            continue
        try:
            everything(target)
        except KernelscopeError:
            refused += 1
    assert refused > tries / 3


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "segment-00000000.safetensors/../../x",
                                  "outside.safetensors"])
def test_a_manifest_names_no_file_outside_its_folder(recorded, tmp_path, name):
    folder, _ = recorded
    forge(folder, tmp_path / "forged")
    canary = tmp_path / "outside.safetensors"
    first = tmp_path / "forged" / "segment-00000000.safetensors"
    canary.write_bytes(first.read_bytes())
    body = json.loads((tmp_path / "forged" / "manifest.json").read_text())["body"]
    body["segments"][0]["name"] = name
    (tmp_path / "forged" / "manifest.json").write_bytes(resealed(body))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(StoreError):
        ks.load(tmp_path / "forged")
    model, loader, _ = tools()
    with pytest.raises(StoreError):
        ks.record(model, loader, loss=F.mse_loss, out=tmp_path / "forged", resume=True).__enter__()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_missing_steps_are_noticed(recorded, tmp_path):
    folder, _ = recorded
    forge(folder, tmp_path / "forged")
    with Store.resume(tmp_path / "forged", "run") as store:
        store.drop([store.segments[1].name])
    with pytest.raises(StoreCorrupt, match="The steps . to . of .* are missing"):
        ks.load(tmp_path / "forged")


def test_a_model_made_anew_does_not_wipe_the_run_it_would_resume(tmp_path):
    def fresh():
        torch.manual_seed(0)
        return nn.Linear(3, 1)

    x, y = torch.randn(6, 3), torch.randn(6, 1)
    model = fresh()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y), loss=F.mse_loss, out=tmp_path / "run"):
        for _ in range(3):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    with pytest.raises(RecordingError, match="would drop all of them"):
        ks.record(fresh(), (x, y), loss=F.mse_loss, out=tmp_path / "run", resume=True).__enter__()
    assert len(ks.load(tmp_path / "run")) == 3


if __name__ == "__main__":
    torch.set_num_threads(1)
    model, loader, optimizer = tools()
    for x, _, y in loader:  # what torch loads on first use is loaded before the forks
        step(model, optimizer, x, y, Truth(), None)
    serve(record_until_killed)
