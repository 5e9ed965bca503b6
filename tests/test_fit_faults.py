"""A fit under fire: killed, interrupted, called with other data; it goes on to the same coefficients, or refuses."""

import random
import time

import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError, StoreBusy, StoreCorrupt
from kernelscope.machine import checkpoint as checkpoints
from kernelscope.machine import plan as plans
from kernelscope.machine.watching import Telling
from kernelscope.solvers import ConjugateGradient, EigenPro
from kernelscope.storage import Store
from tests.interruptions import keyboard
from tests.killing import Server, serve

N, P = 300, 60
K = ks.kernels.Gaussian(bandwidth=1.0)
#: Many cheap passes, which end when there are no more.
SOLVER = ConjugateGradient("two-level", rank=2, steps=1, tolerance=1e-15, passes=20)


def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    return x, torch.stack([x.sin().sum(1), x[:, 0] * x[:, 1]], 1)


def fit(folder=None, **options):
    x, y = data()
    settings = {"centers": P, "ridge": [1e-6, 1e-3], "intercept": True, "solver": SOLVER, "progress": False,
                "validation": (x[:40], y[:40])}
    return ks.fit(options.pop("k", K), options.pop("x", x), options.pop("y", y), checkpoint=folder,
                  **{**settings, **options})


@pytest.fixture(autouse=True)
def _every_pass_is_written(monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", float("inf"))


@pytest.fixture(scope="module")
def whole():
    return fit()


def assert_same(found, true):
    assert torch.equal(found.fitting.coefficients, true.fitting.coefficients)
    assert torch.equal(found.fitting.intercepts, true.fitting.intercepts)
    assert found.fitting.history == true.fitting.history
    assert torch.equal(found.fitting.objective, true.fitting.objective)
    assert found.fitting.ridge == true.fitting.ridge
    assert found.fitting.notes == true.fitting.notes


# -- kills -----------------------------------------------------------------------------------------------------------


def fit_into(folder, say):
    fit(folder)


def stands(folder):
    """After which pass a fit stands; None where nothing is kept, and -1 where it is done."""
    if not (folder / "manifest.json").exists():
        return None
    store = Store.open(folder, kind="checkpoint")
    if not store.segments:
        return None
    return -1 if store.segments[-1].meta["done"] else store.segments[-1].meta["passes"]


def test_a_fit_that_is_killed_at_twenty_points_ends_at_the_same_coefficients(tmp_path, whole):
    dice, kills, amid, found = random.Random(0), 0, 0, 0
    with Server(__file__, tmp_path) as server:
        while kills < 20:
            folder = tmp_path / f"fit {found}"
            for _ in range(5):
                before = stands(folder)
                child = server.start(fit_into, folder)
                aim = dice.randint(-1, 6) + (before or 0)
                while child.lives() and (stands(folder) or -1) < aim:
                    time.sleep(0.001)
                time.sleep(dice.uniform(0, 0.02))
                child.kill()
                kills += 1
                after = stands(folder)
                # What was kept is never lost.
                assert before is None or after == -1 or (before != -1 and after is not None and after >= before)
                amid += after is not None and after > 0
            machine = fit(folder)
            found += 1
            assert_same(machine, whole)
            assert stands(folder) == -1
    assert found >= 4
    assert amid >= 5, "no kill came while the solver was at work"


# -- interruptions ---------------------------------------------------------------------------------------------------


def interrupted_after(monkeypatch, passes):
    """Lets the solver be interrupted in the pass after some."""
    step, made = ConjugateGradient._step, []

    def stopping(*arguments):
        made.append(1)
        if len(made) > passes:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(ConjugateGradient, "_step", stopping)


@pytest.mark.parametrize("share", [float("inf"), 1e-9], ids=["every pass is written", "nothing is written before"])
def test_ctrl_c_keeps_what_was_done_and_says_how_to_go_on(tmp_path, monkeypatch, whole, share, capsys):
    with monkeypatch.context() as patches:
        patches.setattr(checkpoints, "SHARE", share)
        interrupted_after(patches, 7)
        with pytest.raises(KeyboardInterrupt, match="Interrupted after pass 8. The same call goes on from .*fit"):
            fit(tmp_path / "fit")
    assert stands(tmp_path / "fit") == 8
    machine = fit(tmp_path / "fit", progress=None)
    assert "goes on after pass 8" in capsys.readouterr().out
    assert_same(machine, whole)


SOLVERS = {
    "cg": ConjugateGradient("full", passes=7),
    "two-level": ConjugateGradient("two-level", rank=9, passes=4),
    "eigenpro": EigenPro(sample=100, batch=64, tolerance=0.1),
    "eigenpro 2": EigenPro(2, batch=64, tolerance=0.1),
}


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_goes_on_from_every_pass_to_the_same_coefficients(solver, tmp_path, monkeypatch):
    options = {"solver": SOLVERS[solver], "centers": None if solver == "eigenpro 2" else P, "ridge": [1e-3, 1e-1]}
    true, heard = fit(**options), Telling.heard
    passes = len(true.fitting.history)
    assert passes > 2
    for last in range(1, passes + 1):

        def stopping(self, state, last=last):
            heard(self, state)
            if len(self.history) == last:
                raise KeyboardInterrupt
            return False

        with monkeypatch.context() as patches:
            patches.setattr(Telling, "heard", stopping)
            with pytest.raises(KeyboardInterrupt):
                fit(tmp_path / f"fit {last}", **options)
        assert_same(fit(tmp_path / f"fit {last}", **options), true)


@pytest.mark.gpu
def test_a_fit_on_a_gpu_goes_on_there(tmp_path, monkeypatch, device, whole):
    x, y = (t.to(device) for t in data())
    options = {"x": x, "y": y, "validation": None}
    true = fit(**options)
    with monkeypatch.context() as patches:
        interrupted_after(patches, 5)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "fit", **options)
    for _ in range(2):
        machine = fit(tmp_path / "fit", **options)
        assert machine.coefficients.device.type == x.device.type
        assert torch.equal(machine.fitting.coefficients, true.fitting.coefficients)
    assert torch.allclose(machine.fitting.objective, whole.fitting.objective, rtol=1e-3)


def test_ctrl_c_without_a_checkpoint_says_what_would_have_helped(monkeypatch):
    interrupted_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt, match="Nothing was kept; pass checkpoint="):
        fit()


def test_ctrl_c_at_any_moment_leaves_a_checkpoint_that_goes_on(tmp_path, whole):
    turns = 0
    with keyboard(seed=0, least=0.001, most=0.1) as hand:
        while turns < 8 and stands(tmp_path / "fit") != -1:
            hand.press()
            try:
                fit(tmp_path / "fit")
            except KeyboardInterrupt:
                turns += 1
                hand.heard()
            hand.heard()
    assert turns
    assert_same(fit(tmp_path / "fit"), whole)


# -- what belongs together -------------------------------------------------------------------------------------------


def test_a_fit_that_is_done_is_taken_from_its_folder(tmp_path, monkeypatch, whole, capsys):
    assert_same(fit(tmp_path / "fit"), whole)
    monkeypatch.setattr(ConjugateGradient, "solve", None)
    assert_same(fit(tmp_path / "fit", progress=None), whole)
    assert "and it is done" in capsys.readouterr().out


def test_a_solver_that_was_chosen_stays_chosen(tmp_path, monkeypatch):
    with monkeypatch.context() as patches:
        interrupted_after(patches, 4)
        patches.setitem(plans.CHOICES, "direct", plans.CHOICES["direct"]._replace(times=1e9))
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "fit", solver=None)
    assert fit(solver=None).plan.name == "direct"
    assert fit(tmp_path / "fit", solver=None).plan.name == "cg"


OTHERS = {
    "the points": lambda x, y: {"x": x + 1e-9},
    "the targets": lambda x, y: {"y": y.flip(0)},
    "the weights": lambda x, y: {"weights": torch.arange(1, N + 1)},
    "the centers": lambda x, y: {"seed": 1},
    "the kernel": lambda x, y: {"k": ks.kernels.Gaussian(bandwidth=1.01)},
    "ridge": lambda x, y: {"ridge": [1e-6, 1e-4]},
    "intercept": lambda x, y: {"intercept": False},
    "the solver": lambda x, y: {"solver": ConjugateGradient("two-level", rank=2, steps=1, tolerance=1e-14, passes=20)},
    "memory": lambda x, y: {"memory": "2GB"},
    "the precision": lambda x, y: {"x": x.float(), "y": y.float()},
}


@pytest.mark.parametrize("what", OTHERS)
def test_a_checkpoint_of_another_fit_is_refused_and_says_in_what_it_differs(what, tmp_path, monkeypatch):
    with monkeypatch.context() as patches:
        interrupted_after(patches, 1)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "fit")
    before = {path.name: path.read_bytes() for path in (tmp_path / "fit").iterdir() if path.is_file()}
    with pytest.raises(DataError, match=f"holds where another fit stands: it differs in .*{what}"):
        fit(tmp_path / "fit", **OTHERS[what](*data()))
    assert {path.name: path.read_bytes() for path in (tmp_path / "fit").iterdir() if path.is_file()} == before


def test_the_kernel_of_a_model_belongs_to_a_checkpoint_by_its_values(tmp_path):
    def tangent(seed):
        torch.manual_seed(seed)
        return ks.kernels.Tangent(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh()).double())

    kept = fit(tmp_path / "fit", k=tangent(0), solver="direct")
    assert_same(fit(tmp_path / "fit", k=tangent(0), solver="direct"), kept)
    with pytest.raises(DataError, match="it differs in the kernel"):
        fit(tmp_path / "fit", k=tangent(1), solver="direct")


def test_two_fits_do_not_write_into_one_folder(tmp_path):
    fit(tmp_path / "fit", solver="direct")
    held = Store.resume(tmp_path / "fit", kind="checkpoint")
    with pytest.raises(StoreBusy):
        fit(tmp_path / "fit", solver="direct")
    held.close()
    fit(tmp_path / "fit", solver="direct")


def test_a_damaged_checkpoint_is_refused(tmp_path):
    fit(tmp_path / "fit", solver="direct")
    (segment,) = (tmp_path / "fit").glob("segment-*")
    data = bytearray(segment.read_bytes())
    data[-3] ^= 1
    segment.write_bytes(bytes(data))
    with pytest.raises(StoreCorrupt):
        fit(tmp_path / "fit", solver="direct")


def test_writing_takes_little_of_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", 0.05)
    kept, keep = [], checkpoints.Checkpoint.keep

    def counting(self, *arguments):
        start = time.monotonic()
        keep(self, *arguments)
        kept.append(time.monotonic() - start)

    monkeypatch.setattr(checkpoints.Checkpoint, "keep", counting)
    start = time.monotonic()
    fit(tmp_path / "fit")
    # The first time, and the last, come whatever they take.
    assert sum(sorted(kept)[:-3]) < 0.2 * (time.monotonic() - start)


if __name__ == "__main__":
    torch.set_num_threads(1)
    checkpoints.SHARE = float("inf")
    fit(solver="direct")  # what torch loads on first use is loaded before the forks
    serve(fit_into)
