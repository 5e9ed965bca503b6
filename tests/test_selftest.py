"""The battery, and its own honesty: rows that are wrong on purpose must be told."""

import errno
import json
import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch

import kernelscope as ks
from kernelscope.cli import main
from kernelscope.commands.opening import read
from kernelscope.data.columns import columns_of
from kernelscope.errors import DataError, KernelscopeError, StoreError
from kernelscope.nn.layers.layer import SNNKLinear
from kernelscope.selftest import Lost, Silent, exactness, run_battery
from kernelscope.selftest.deeds import Replacing
from kernelscope.selftest.kept import kinds
from kernelscope.selftest.rows import damage
from kernelscope.selftest.rows.hostile import contents
from kernelscope.selftest.rows.storage import failing
from kernelscope.selftest.traps import trapped
from kernelscope.storage import Store

ROWS = "tests.selftest_rows"


@pytest.fixture(scope="module")
def wrong():
    """All the rows that are wrong on purpose."""
    before = set(Path(tempfile.gettempdir()).glob("kernelscope-selftest-*"))
    found = run_battery(rows=ROWS)
    assert set(Path(tempfile.gettempdir()).glob("kernelscope-selftest-*")) <= before
    return found


def numbers(found, name):
    return next(row.numbers() for row in found.rows if row.id == name)


def outcomes(found, name):
    return [ending.outcome for ending in found.endings("survived", "typed", "broken", "silent", "not tried")
            if ending.row == name]


def test_a_wrong_answer_without_an_error_is_silent(wrong):
    assert outcomes(wrong, "F1") == ["survived", "survived", "survived", "silent"]
    assert wrong.endings("silent")[0].what == "the sum of 3 and 1"
    assert not wrong.ok


def test_an_untyped_error_and_one_that_says_too_little_are_broken(wrong):
    assert outcomes(wrong, "F2") == ["broken", "broken", "typed"]
    assert numbers(wrong, "F2")["survived"] == 1


def test_a_trial_that_hangs_is_stopped_and_the_next_one_is_made(wrong):
    assert outcomes(wrong, "F3") == ["survived", "broken", "survived"]
    assert "did not end within 1 s" in wrong.endings("broken")[2].message


def test_a_trial_that_ends_its_process_is_broken_and_the_next_one_is_made(wrong):
    assert outcomes(wrong, "F4") == ["broken"] * 4 + ["survived"]
    assert "its process ended, code -11" in next(e.message for e in wrong.endings("broken") if e.what == "segfault")


def test_what_is_lost_and_what_is_read_is_counted(wrong):
    assert numbers(wrong, "F5")["lost"] == 3
    assert numbers(wrong, "F5")["broken"] == 1
    assert numbers(wrong, "F5")["counts"] == {"reads": 7}


def test_what_cannot_be_tried_is_not_survived(wrong):
    for name in ("F6", "F7"):
        row = numbers(wrong, name)
        assert (row["tried"], row["survived"], row["not_tried"]) == (0, 0, 1)
    assert wrong.reasons() == {"F6: there is no GPU here": 1, "F7: this is not the moon": 1}


def test_a_row_that_is_wrong_before_any_fault_is_told(wrong):
    assert outcomes(wrong, "F8") == ["silent"]


def test_each_trial_has_an_empty_folder_of_its_own_in_a_temporary_one(wrong):
    assert outcomes(wrong, "F9") == ["survived"] * 5
    assert numbers(wrong, "F9")["counts"] == {"from": 5}


def test_a_trial_is_repeated_by_its_seed():
    found = run_battery(["F1"], seed=3, rows=ROWS)
    assert [(e.seed, e.outcome) for e in found.endings("silent", "survived")] == [(3, "silent")]
    with pytest.raises(DataError, match="F1 has 4 trials, and seed 4 was asked for"):
        run_battery(["F1"], seed=4, rows=ROWS)
    with pytest.raises(DataError, match="no row 'F99' in the battery"):
        run_battery(["F99"], rows=ROWS)


def test_a_share_of_a_row_is_always_the_same():
    seeds = [[e.seed for e in run_battery(["F9"], share=0.4, rows=ROWS).endings("survived")] for _ in range(2)]
    assert seeds[0] == seeds[1]
    assert len(seeds[0]) == 2


@pytest.fixture
def listening():
    """Ctrl-C is heard, also where the tests are run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_keeps_what_was_done(listening):
    threading.Timer(4.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    found = run_battery(["F1", "F3"], rows=ROWS, limit=60)
    assert time.monotonic() - began < 30
    assert numbers(found, "F1")["tried"] == 4
    assert found.stopped


def test_the_command_gives_the_table_and_says_how_to_repeat(capsys, monkeypatch):
    monkeypatch.setitem(run_battery.__kwdefaults__, "rows", ROWS)
    assert main(["selftest", "--faults", "--only", "f1,F5"]) == 1
    said = capsys.readouterr().out
    assert "Repeat one: kernelscope selftest --faults --only F1 --seed 3" in said
    assert "6 trials, 4 survived (0 of them with a typed error), 1 broken, 1 silent, 3 lost" in said
    assert main(["selftest", "--only", "F1", "--seed", "2"]) == 0
    said = capsys.readouterr().out
    assert "survived: F1 --seed 2 (the sum of 2 and 1)" in said
    assert "1 trial, 1 survived" in said
    assert main(["selftest", "--only", "F6", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["total"]["tried"] == 0
    assert data["not_tried"] == {"F6: there is no GPU here": 1}


def test_a_new_machine_is_tried_in_seconds(capsys, monkeypatch):
    assert main(["selftest"]) == 0
    said = capsys.readouterr().out
    assert "All 12 computations are exact to round-off" in said
    assert "kernelscope selftest --faults" in said
    monkeypatch.setattr(exactness, "_decomposed", lambda run: float("nan"))
    assert main(["selftest"]) == 1
    assert main(["selftest", "--seed", "3"]) == 2


# The battery itself


def tried(only, share):
    found = run_battery(only, share=share)
    wrong = [(e.row, e.seed, e.what, e.message) for e in found.endings("broken", "silent")]
    assert not wrong, wrong
    return found


def test_a_share_of_each_row_is_survived():
    found = tried((), 0.004)
    assert all(row.tried or row.count("not tried") for row in found.rows)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_every_trial_is_survived():
    found = tried((), 1.0)
    total = found.total()
    assert total["silent"] == total["broken"] == total["lost"] == 0
    assert total["tried"] >= 2500
    assert sum(row.numbers()["counts"].get("reads", 0) for row in found.rows) >= 1000


def test_the_row_hears_of_a_reader_that_believes_damage(tmp_path, monkeypatch):
    row, opened = damage.Flipped(), Store.open.__func__
    row.prepare(tmp_path)
    # A store that looks at sizes alone lets a flipped bit of a number through.
    monkeypatch.setattr(Store, "open", classmethod(lambda cls, path, kind=None: opened(cls, path, kind, "size")))
    silent = 0
    for trial in row.trials():
        if trial.what.startswith("result: bit") and "segment" in trial.what:
            try:
                trial.attempt(tmp_path)
            except Silent:
                silent += 1
            except KernelscopeError:
                pass
    assert silent > 10


def saved_run(folder):
    """How often a run that is saved over another one is lost where the disk fails; the row F2 tries every call."""
    deed = Replacing(next(kind for kind in kinds() if kind.name == "run"))
    (folder / "ground").mkdir()
    deed.prepare(folder / "ground")
    lost = typed = 0
    for count in (4, 7, 10):
        (folder / str(count)).mkdir()
        try:
            typed += failing(deed, folder / str(count), count, errno.EIO, StoreError, ("write", "replace")) is not None
        except Lost:
            lost += 1
    return lost, typed


def test_a_run_that_is_saved_over_another_leaves_one_of_them(tmp_path):
    assert saved_run(tmp_path) == (0, 3)


def test_a_run_that_is_saved_into_itself_is_as_it_was(tmp_path):
    kind = next(kind for kind in kinds() if kind.name == "run")
    before = kind.make(tmp_path / "run") and kind.read(tmp_path / "run")
    ks.load(tmp_path / "run").save(tmp_path / "run", overwrite=True)
    assert kind.read(tmp_path / "run") == before
    assert not list((tmp_path / "run").glob("*.part"))


def test_the_row_hears_of_a_run_that_is_gone_before_the_new_one_is_there(tmp_path, monkeypatch):
    def save(run, path, overwrite=False):
        with Store.create(path, kind="run", meta=run.meta, overwrite=overwrite) as store:
            for segment in run.store.segments:
                store.append(run.store.read(segment), segment.meta)

    monkeypatch.setattr(ks.Run, "save", save)
    assert saved_run(tmp_path) == (3, 0)


@pytest.mark.parametrize("data", ["a checkpoint of torch", "a zip bomb", "an array of deep brackets",
                                  "an array of 2^60 numbers"])
@pytest.mark.parametrize("reader", ["x.npy", "x.npz", "columns"])
def test_vicious_arrays_are_refused_with_a_word(data, reader, tmp_path):
    path = tmp_path / ("x.npy" if reader == "columns" else reader)
    path.write_bytes(contents(str(tmp_path / "mark"))[data])
    with pytest.raises(KernelscopeError):
        columns_of(str(path)) if reader == "columns" else read(str(path))


def test_a_folder_of_tiles_that_cannot_be_opened_is_told(tmp_path):
    def fail(name, arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with trapped(1, fail, ("open",)), pytest.raises(StoreError, match="cannot be written"):
        ks.Tiles(ks.kernels.Gaussian(1.0), torch.zeros(3, 2), tmp_path / "tiles", side=2)


def test_the_trials_of_a_row_are_the_same_whenever_it_is_prepared(tmp_path):
    found = []
    for place in ("a", "b"):
        row = damage.Truncated()
        (tmp_path / place).mkdir()
        row.prepare(tmp_path / place)
        found.append(len(list(row.trials())))
    assert found[0] == found[1] > 1000


def test_a_layer_is_not_read_from_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "layer")
    with pytest.raises(StoreError, match="a pipe or a device"):
        SNNKLinear.load(tmp_path / "layer")
