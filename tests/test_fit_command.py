"""``kernelscope fit``: what it finds, what it refuses, and how it goes on after an interruption."""

import json
import os
import signal
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

ROOT = Path(__file__).parents[1]
TRAIN, TEST = ks.data.digits("train"), ks.data.digits("test")


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


def test_an_interrupted_command_goes_on_to_the_same_machine(here, capsys, monkeypatch):
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
    words = ["digits.npz", "--kernel", "cnn1", "--float64", "--json", "-o"]
    done = subprocess.run(command(*words, "two", processes=2), capture_output=True, text=True, timeout=240, cwd=here,
                          env=environment())
    assert done.returncode == 0, done.stderr
    two, one = json.loads(done.stdout), answer(capsys, *words, "one")
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
def test_a_killed_command_goes_on_to_the_same_machine(here, capsys, processes):
    x, y = TRAIN.x[:1000].reshape(-1, 8, 8).numpy(), TRAIN.y[:1000].numpy()
    np.savez("more.npz", x=x, y=y)
    words = ["more.npz", "--kernel", "cnn2", "--ridge", "1e-8", "-o"]
    at_once = ks.KernelMachine.load(answer(capsys, *words, "one")["machine"])
    kills = 0
    for seconds in (5.0, 7.0, 9.0, 12.0, 15.0, 20.0):
        begun = subprocess.Popen(command(*words, "two", processes=processes), cwd=here, env=environment(),
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        # Where one of several is killed, torchrun ends the others.
        if begun.poll() is None:
            kills += killed(begun.pid, processes)
        begun.wait()
        if (here / "two").exists():
            break
    assert kills
    if not (here / "two").exists():
        done = subprocess.run(command(*words, "two", processes=processes), cwd=here, env=environment(), timeout=400,
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
    "y in bad.npz holds whole numbers, which are labels, and 16": lambda: saved(x=X, y=np.arange(20)),
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
