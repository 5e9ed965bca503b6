"""``kernelscope fit``: what it finds, what it refuses, and how it goes on after an interruption."""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import kernelscope as ks
from kernelscope.cli import main
from kernelscope.kernels.infinite.named import named
from kernelscope.machine.watching import Telling
from tests import tiled

ROOT = Path(__file__).parents[1]
TRAIN, TEST = ks.data.digits("train"), ks.data.digits("test")


@pytest.fixture
def one_side(monkeypatch):
    """Tiles of one size: it is told by a clock, and sums over tiles of other sizes are rounded otherwise."""
    monkeypatch.setattr("kernelscope.tiles.tiles.suited", lambda each, count: 128)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with some digits, where the commands run."""
    monkeypatch.chdir(tmp_path)
    x, z = (data.x.reshape(-1, 8, 8).numpy() for data in (TRAIN, TEST))
    np.savez("digits.npz", x=x[:200], y=TRAIN.y[:200].numpy(), x_test=z[:50], y_test=TEST.y[:50].numpy())
    return tmp_path


def answer(capsys, *words, code=0):
    assert main(["fit", *words, "--json"]) == code
    said = capsys.readouterr()
    assert said.err == ""
    return json.loads(said.out)


def refused(capsys, *words):
    assert main(["fit", *words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_the_machine_is_ridge_regression_with_centred_columns(here, capsys):
    found = answer(capsys, "digits.npz", "--kernel", "fc2", "--limit", "ntk", "--ridge", "1e-4", "--float64")
    kernel = named("fc2").ntk
    x, y = TRAIN.x[:200].double(), torch.nn.functional.one_hot(TRAIN.y[:200], 10).double() - 0.1
    wanted = torch.linalg.solve(kernel(x) + 200 * 1e-4 * torch.eye(200), y)
    machine = ks.KernelMachine.load(found["machine"])
    assert float((machine.coefficients - wanted).norm() / wanted.norm()) <= 1e-4
    right = (kernel(TEST.x[:50].double(), x) @ wanted).argmax(1) == TEST.y[:50]
    assert found["accuracy"] == float(right.double().mean())
    assert (found["samples"], found["test_points"], found["classes"]) == (200, 50, list(range(10)))
    assert found["residual"] <= 1e-6


def test_noise_is_a_share_of_the_mean_of_the_diagonal(here, capsys):
    found = answer(capsys, "digits.npz", "--kernel", "fc1", "--noise", "0.01")
    diagonal = float(named("fc1").nngp.diagonal(TRAIN.x[:200]).mean())
    assert found["ridge"] == pytest.approx(0.01 * diagonal / 200, rel=1e-6)


def test_what_is_said_is_what_was_done(here, capsys):
    assert main(["fit", "digits.npz", "--kernel", "cnn1"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "digits.npz: 200 samples of shape (1, 8, 8), 10 classes, 50 test points." in said.out
    assert "% of 50 test points." in said.out
    assert "The machine is in machines/digits-cnn1: ks.KernelMachine.load(" in said.out
    assert "--tiles machines/digits-cnn1.work/tiles reads it again" in said.out
    assert sorted(path.name for path in (here / "machines").iterdir()) == ["digits-cnn1", "digits-cnn1.work"]
    tiles = {path: path.stat().st_mtime_ns for path in (here / "machines/digits-cnn1.work/tiles").glob("*.tile")}
    assert main(["fit", "digits.npz", "--kernel", "cnn1", "--ridge", "1e-3", "-o", "other", "--tiles",
                 "machines/digits-cnn1.work/tiles"]) == 0
    assert tiles
    assert all(path.stat().st_mtime_ns == then for path, then in tiles.items())
    assert not (here / "other.work").exists()


def test_real_targets_are_quantities_and_some_samples_are_kept_apart(here, capsys):
    x = TRAIN.x[:200].numpy()
    np.savez("mean.npz", x=x, y=x.mean(1) + 5)
    found = answer(capsys, "mean.npz", "--kernel", "laplacian", "--test-share", "0.25", "-o", "mean")
    assert (found["samples"], found["test_points"], found["classes"]) == (150, 50, None)
    assert found["rmse"] < 0.5 * found["spread"]
    machine = ks.KernelMachine.load("mean")
    assert abs(float(machine(TEST.x[:50]).mean()) - 5 - float(TEST.x[:50].mean())) <= 0.05
    assert answer(capsys, "mean.npz", "--kernel", "fc1", "--test-share", "0")["test_points"] == 0


def test_labels_need_not_be_numbered_from_nought(here, capsys):
    np.savez("odd.npz", x=TRAIN.x[:200].numpy(), y=TRAIN.y[:200].numpy() * 3 - 7, x_test=TEST.x[:50].numpy(),
             y_test=np.where(np.arange(50) < 25, TEST.y[:50].numpy() * 3 - 7, 1000))
    assert main(["fit", "odd.npz", "--kernel", "fc2"]) == 0
    said = capsys.readouterr().out
    assert "the classes -7, -4, -1, 2, 5, 8, 11, 14, 17, 20, in this order" in said
    share = float(said.split("Right on ")[1].split(" %")[0])
    # Of a class that no sample has, none can be right.
    assert 35 <= share <= 50


def test_an_interrupted_command_goes_on_to_the_same_machine(here, capsys, monkeypatch, one_side):
    words = ["digits.npz", "--kernel", "cnn1", "--ridge", "1e-5", "-o"]
    at_once = ks.KernelMachine.load(answer(capsys, *words, "one")["machine"])
    heard, passes = Telling.heard, []

    def pressed(watch, state):
        said = heard(watch, state)
        passes.append(state.passes)
        if len(passes) == 6:
            raise KeyboardInterrupt
        return said

    monkeypatch.setattr(Telling, "heard", pressed)
    assert main(["fit", *words, "two", "--json"]) == 130
    assert "the same command goes on from two.work" in capsys.readouterr().err
    assert not (here / "two").exists()
    found = answer(capsys, *words, "two")
    assert passes[6] > passes[5]
    gone_on = ks.KernelMachine.load(found["machine"])
    assert torch.equal(gone_on.coefficients, at_once.coefficients)
    assert not (here / "two.work" / "checkpoint").exists()


def command(*words, processes=0):
    head = [sys.executable, "-m"]
    head += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"] if processes else []
    return [*head, "kernelscope", "fit", *words]


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def test_two_processes_find_what_one_finds_and_one_answers(here, capsys):
    words = [str(here / "digits.npz"), "--kernel", "cnn1", "--float64", "--json", "-o"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tiled"])
    ranks = [context.Process(target=tiled.alone, daemon=True,
                             args=("command", port, rank, 2, here / "said", "fit", *words, str(here / "two")))
             for rank in range(2)]
    for rank in ranks:
        rank.start()
    one = answer(capsys, *words, "one")
    for rank in ranks:
        rank.join(100)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    two = json.loads((here / "said-0").read_text())
    assert not (here / "said-1").read_text()
    assert two["accuracy"] == one["accuracy"]
    pair = [ks.KernelMachine.load(here / name).coefficients for name in ("one", "two")]
    assert float((pair[0] - pair[1]).abs().max()) <= 1e-12 * float(pair[0].abs().max())


def killed(process, processes):
    """Kills a command, or one of its workers if it has several; whether there was one."""
    victims = [process]
    if processes:
        victims = [int(pid) for children in Path(f"/proc/{process}/task").glob("*/children")
                   for pid in children.read_text(encoding="utf-8").split()]
    for pid in victims[-1:]:
        os.kill(pid, signal.SIGKILL)
    return bool(victims)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are found in /proc")
@pytest.mark.parametrize("processes", [0, 2])
def test_a_killed_command_goes_on_to_the_same_machine(here, capsys, processes, one_side):
    x, y = TRAIN.x[:1000].reshape(-1, 8, 8).numpy(), TRAIN.y[:1000].numpy()
    np.savez("more.npz", x=x, y=y)
    words = ["more.npz", "--kernel", "cnn2", "--ridge", "1e-8", "-o"]
    at_once = ks.KernelMachine.load(answer(capsys, *words, "one")["machine"])
    shutil.copytree("one.work/tiles", "kept", ignore=shutil.ignore_patterns("*.tile"))
    words, kills = [*words, "two", "--tiles", "kept"], 0
    for tiles in (1, 10, 27):
        begun = subprocess.Popen(command(*words, processes=processes), cwd=here, env=environment(),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # The more tiles it has written, the later it is killed.
        while begun.poll() is None and len(list((here / "kept").glob("*.tile"))) < tiles:
            time.sleep(0.001)
        # Where one of several is killed, torchrun ends the others.
        if begun.poll() is None:
            kills += killed(begun.pid, processes)
        begun.wait()
        if (here / "two").exists():
            break
    assert kills
    if not (here / "two").exists():
        done = subprocess.run(command(*words, processes=processes), cwd=here, env=environment(), timeout=400,
                              capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    gone_on = ks.KernelMachine.load(here / "two")
    assert float((gone_on.coefficients - at_once.coefficients).norm() / at_once.coefficients.norm()) <= 1e-12


class Hostile:
    def __reduce__(self):
        return (os.mkdir, ("pwned",))


def saved(**arrays):
    np.savez("bad.npz", **arrays)


X, Y = np.random.default_rng(0).normal(size=(20, 3)), np.arange(20) % 2
BAD = {
    "There is no file bad.npz": lambda: None,
    "bad.npz is no .npz file, or was cut short": lambda: Path("bad.npz").write_bytes(b"not a zip"),
    "bad.npz holds points, y, and x is missing": lambda: saved(points=X, y=Y),
    "bad.npz holds nothing, and x and y are missing": lambda: saved(),
    "x in bad.npz holds Python objects": lambda: saved(x=np.array([Hostile()] * 20, dtype=object), y=Y),
    "In bad.npz x has 20 rows, and y 19": lambda: saved(x=X, y=Y[:19]),
    "Row 3 of x in bad.npz holds NaN": lambda: saved(x=np.where(np.arange(20)[:, None] == 3, np.nan, X), y=Y),
    "Row 4 of y in bad.npz holds NaN": lambda: saved(x=X, y=np.where(np.arange(20) == 4, np.inf, X[:, 0])),
    "Number the labels": lambda: saved(x=X, y=np.array(["cat", "dog"] * 10)),
    "y in bad.npz holds whole numbers, which are labels, and 20": lambda: saved(x=X, y=np.arange(20)),
    "y in bad.npz has shape (20, 1, 1)": lambda: saved(x=X, y=Y.reshape(20, 1, 1)),
    "x in bad.npz is complex128": lambda: saved(x=X * 1j, y=Y),
    "holds x_test and no y_test": lambda: saved(x=X, y=Y, x_test=X),
    "Save both in one type": lambda: saved(x=X, y=Y, x_test=X, y_test=Y / 2),
    "Save points of one kind": lambda: saved(x=X, y=Y, x_test=X[:, :2], y_test=Y),
}


@pytest.mark.parametrize("match", BAD)
def test_what_is_wrong_with_a_file_is_said_and_nothing_is_run(match, here, capsys):
    BAD[match]()
    assert match in refused(capsys, "bad.npz", "--kernel", "fc1")
    assert not (here / "pwned").exists()
    assert not (here / "machines").exists()


def test_a_file_that_was_cut_short_or_changed_is_refused_at_every_byte(here, capsys):
    saved(x=X, y=Y)
    whole = (here / "bad.npz").read_bytes()
    for length in range(0, len(whole), 97):
        (here / "bad.npz").write_bytes(whole[:length])
        assert "was cut short" in refused(capsys, "bad.npz", "--kernel", "fc1")
    with zipfile.ZipFile("bad.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + b"\xff" * 60)
        archive.writestr("y.npy", whole)
    assert "cannot be read" in refused(capsys, "bad.npz", "--kernel", "fc1")


@pytest.mark.parametrize(("words", "match"), [
    (["--kernel", "resnet50"], "--kernel is gaussian, laplacian or the name of a network"),
    (["--kernel", "gaussian", "--limit", "ntk"], "--limit is one of a network"),
    (["--kernel", "fc1", "--ridge", "-1"], "--ridge is a number from 0 on"),
    (["--kernel", "fc1", "--noise", "nan"], "--noise is a number from 0 on"),
    (["--kernel", "fc1", "--ridge", "1", "--noise", "1"], "not allowed with"),
    (["--kernel", "fc1", "--test-share", "1"], "--test-share is a share from 0 on, below 1"),
    (["--kernel", "fc1", "--memory", "much"], 'such as "1GB"'),
    (["--kernel", "fc1", "--memory", "1KB"], "memory"),
])
def test_what_cannot_be_done_is_refused_in_one_sentence(words, match, here, capsys):
    assert match in refused(capsys, "digits.npz", *words)


def test_images_have_their_channels_first(here, capsys):
    images = np.zeros((20, 8, 8, 3))
    saved(x=images, y=Y)
    assert "x.transpose(0, 3, 1, 2)" in refused(capsys, "bad.npz", "--kernel", "cnn1")
    saved(x=X, y=Y)
    assert "Such a network takes images" in refused(capsys, "bad.npz", "--kernel", "cnn1")


def test_a_machine_is_replaced_only_where_that_is_asked_for(here, capsys):
    first = answer(capsys, "digits.npz", "--kernel", "fc1")
    assert "is there already" in refused(capsys, "digits.npz", "--kernel", "fc1", "--ridge", "1e-3")
    second = answer(capsys, "digits.npz", "--kernel", "fc1", "--ridge", "1e-3", "--overwrite")
    assert (first["machine"], first["ridge"] == second["ridge"]) == (second["machine"], False)


# -- the work of another fit -----------------------------------------------------------------------------------------


def stopped(monkeypatch, *words):
    """A command that is interrupted after its second product."""
    heard, count = Telling.heard, []

    def pressed(watch, state):
        said = heard(watch, state)
        count.append(said)
        if len(count) == 2:
            raise KeyboardInterrupt
        return said

    with monkeypatch.context() as patches:
        patches.setattr(Telling, "heard", pressed)
        assert main(["fit", *words, "--json"]) == 130


def test_the_work_of_another_fit_is_replaced_only_where_that_is_asked_for(here, capsys, monkeypatch):
    words = ["--kernel", "cnn1", "-o", "one"]
    stopped(monkeypatch, "digits.npz", *words)
    capsys.readouterr()
    np.savez("others.npz", x=TRAIN.x[200:300].reshape(-1, 8, 8).numpy(), y=TRAIN.y[200:300].numpy())
    said = refused(capsys, "others.npz", *words)
    assert "one.work holds the work of another fit, which differs in the samples" in said
    assert "--overwrite to replace it, delete one.work, or name another machine with -o" in said
    assert "the ridge" in refused(capsys, "digits.npz", *words, "--ridge", "0.5")
    tiles = {path: path.stat().st_mtime_ns for path in (here / "one.work" / "tiles").glob("tile-*")}
    # Tiles know no ridge.
    assert answer(capsys, "digits.npz", *words, "--ridge", "0.5", "--overwrite")["ridge"] == 0.5
    assert tiles
    assert all(path.stat().st_mtime_ns == then for path, then in tiles.items())
    assert answer(capsys, "others.npz", *words, "--overwrite")["samples"] == 80
    assert not any(path.exists() for path in tiles)


def test_a_folder_that_the_command_did_not_make_is_left_alone(here, capsys):
    (here / "one.work" / "checkpoint").mkdir(parents=True)
    (here / "one.work" / "checkpoint" / "diary").write_text("mine")
    (here / "one.work" / "tiles").mkdir()
    (here / "one.work" / "tiles" / "diary").write_text("mine")
    main(["fit", "digits.npz", "--kernel", "cnn1", "-o", "one", "--overwrite", "--checkpoint", "state"])
    assert (here / "one.work" / "checkpoint" / "diary").read_text() == "mine"
    assert (here / "one.work" / "tiles" / "diary").read_text() == "mine"
    capsys.readouterr()


# -- what the file holds ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "kernel"), [((-1, 8, 8), "cnn1"), ((-1, 1, 8, 8), "cnn1"), ((-1, 64), "fc1")])
def test_the_line_that_is_said_last_answers_for_the_samples_of_the_file(here, capsys, shape, kernel):
    x = np.round(TRAIN.x[:60].reshape(shape).numpy() * 16).astype(np.uint8)
    np.savez("bytes.npz", x=x, y=TRAIN.y[:60].numpy())
    assert main(["fit", "bytes.npz", "--kernel", kernel, "-o", "bytes"]) == 0
    line = capsys.readouterr().out.split("The machine is in bytes: ")[1].split(" answers for points x")[0]
    assert len(eval(line, {"ks": ks, "x": np.load("bytes.npz")["x"]})) == 60


def test_rows_with_a_single_one_are_labels_and_other_whole_numbers_quantities(here, capsys):
    x, y = TRAIN.x[:100].numpy(), TRAIN.y[:100].numpy()
    found = []
    for name, targets in (("labels", y), ("columns", np.eye(10, dtype=np.int64)[y]), ("flags", np.eye(10)[y] > 0)):
        np.savez(f"{name}.npz", x=x, y=targets)
        found.append(answer(capsys, f"{name}.npz", "--kernel", "laplacian"))
    assert [one["classes"] for one in found] == [list(range(10))] * 3
    assert len({one["accuracy"] for one in found}) == 1
    np.savez("counts.npz", x=x, y=np.eye(10, dtype=np.int64)[y] * 2)
    assert answer(capsys, "counts.npz", "--kernel", "laplacian")["classes"] is None


NUMBERS = {
    "too large for single precision. Pass --float64": (lambda: saved(x=X * 1e200, y=Y), []),
    "numbers as large as 2.": (lambda: saved(x=X * 1e200, y=Y), ["--float64"]),
    "y in bad.npz holds 1.0e+200, which is too large": (lambda: saved(x=X, y=Y * 1e200), []),
    "holds the label 9223372036854775809, and labels are below 2^63": (
        lambda: saved(x=X, y=Y.astype(np.uint64) + np.uint64(2**63)), []),
    "x of bad.npz has shape (n, 3)": (lambda: saved(x=X, y=Y), ["--kernel", "cnn1"]),
    "kept apart to see when to stop": (lambda: saved(x=X[:4], y=Y[:4]), ["--patience", "3"]),
    "patience must be a whole number from 1 on": (lambda: saved(x=X, y=Y), ["--patience", "0"]),
}


@pytest.mark.parametrize("match", NUMBERS)
def test_numbers_that_are_too_large_or_too_few_are_told_as_they_are(match, here, capsys):
    made, words = NUMBERS[match]
    made()
    assert match in refused(capsys, "bad.npz", *(["--kernel", "fc1"] if "--kernel" not in words else []), *words)


def test_with_patience_a_tenth_of_the_samples_says_when_to_stop(here, capsys):
    y = TRAIN.y[:300].numpy().copy()
    y[::2] = np.random.default_rng(0).permutation(y[::2])
    np.savez("noisy.npz", x=TRAIN.x[:300].numpy(), y=y, x_test=TEST.x.numpy(), y_test=TEST.y.numpy())
    words = ["noisy.npz", "--kernel", "laplacian", "--noise", "1e-6", "-o"]
    plain, patient = answer(capsys, *words, "plain"), answer(capsys, *words, "patient", "--patience", "2")
    assert (plain["samples"], patient["samples"]) == (300, 270)
    machine = ks.KernelMachine.load("patient").fitting
    errors = [one["validation"] for one in machine.history]
    assert float(machine.validation[0]) == pytest.approx(min(errors), rel=1e-5)
