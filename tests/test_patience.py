"""A fit with patience ends when the validation error has not been lower for a while, at the machine that had it."""

import pytest
import torch

import kernelscope as ks
from kernelscope.errors import DataError
from kernelscope.kernels import Laplacian
from kernelscope.machine import watching
from kernelscope.machine.watching import Errors, Telling
from kernelscope.solvers import PCG, ConjugateGradient, EigenPro, Newton, WarmStart
from tests.laws import assert_close

K, PATIENCE = Laplacian(2.0), 3


def noisy(n, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    y = torch.stack([(2 * x[:, 0]).sin(), x[:, 1]], 1)
    return x, y + 1.5 * torch.randn(n, 2, generator=generator, dtype=torch.float64)


X, Y = noisy(150, 0)
OTHERS = noisy(60, 1)
CLASSES, SIDES = (Y > 0).double(), (OTHERS[0], (OTHERS[1] > 0).double())
SOLVERS = {
    "pcg": (PCG(None, tolerance=1e-10), {}),
    "cg": (ConjugateGradient("two-level", rank=2, steps=1, tolerance=1e-12), {"centers": 60}),
    "eigenpro": (EigenPro(3, sample=20, batch=10, tolerance=1e-6), {"centers": 60}),
    "warm": (WarmStart(EigenPro(epochs=2, sample=20, batch=10)), {"centers": 60}),
    "newton": (Newton("logistic", tolerance=1e-12), {"y": CLASSES, "validation": SIDES}),
}
every = pytest.mark.parametrize("name", SOLVERS)


def fit(name, **more):
    solver, settings = SOLVERS[name]
    return ks.fit(K, X, **{"y": Y, "ridge": 1e-7, "validation": OTHERS, "solver": solver, "patience": PATIENCE,
                           "progress": False} | settings | more)


@pytest.fixture
def walked(monkeypatch):
    """The coefficients after each pass."""
    heard, found = Telling.heard, []

    def listening(watch, state):
        found.append([t.clone() for t in state.coefficients()])
        return heard(watch, state)

    monkeypatch.setattr(Telling, "heard", listening)
    return found


@every
@pytest.mark.parametrize("ridge", [1e-7, [1e-7, 1e-1]])
def test_it_is_the_machine_of_the_pass_with_the_lowest_error(name, ridge, walked):
    fit(name, ridge=ridge, patience=None)
    whole, (_, settings) = list(walked), SOLVERS[name]
    walked.clear()
    machine = fit(name, ridge=ridge)
    x, y = settings.get("validation", OTHERS)
    loss = SOLVERS[name][0].loss
    centers = K.points(machine.centers)
    measured = Errors(K, centers, K.points(x), y, loss, 10**9)
    errors = torch.stack([measured(*state) for state in whole])
    # The pass after which the last of the ridges had no lower error for so many passes.
    ends = [end for end in range(len(whole)) if end - int(errors[:end + 1].argmin(0).max()) >= PATIENCE]
    end = ends[0] if ends else len(whole) - 1
    assert len(walked) == end + 1
    for r in range(errors.shape[1]):
        best = int(errors[:end + 1, r].argmin())
        assert torch.equal(machine.fitting.coefficients[r], whole[best][0][r])
        assert torch.equal(machine.fitting.intercepts[r], whole[best][1][r])
        assert_close(machine.fitting.validation[r], errors[best, r], 1e-12)
    if name == "pcg" and ridge == 1e-7:
        assert end < len(whole) - 1
        assert any(f"since for {PATIENCE} of them none was lower" in note for note in machine.fitting.notes)


@every
def test_after_an_interruption_at_any_pass_it_ends_with_the_same_bits(name, tmp_path, monkeypatch):
    whole, heard = fit(name), Telling.heard
    monkeypatch.setattr("kernelscope.machine.checkpoint.Checkpoint.due", lambda self: True)
    count = len(whole.fitting.history)
    for stop in sorted({1, count // 2, count} - {0}):
        said = []

        def pressed(watch, state, stop=stop, said=said):
            answer = heard(watch, state)
            said.append(answer)
            if len(said) == stop:
                raise KeyboardInterrupt
            return answer

        folder = tmp_path / f"stopped-{stop}"
        with monkeypatch.context() as patches:
            patches.setattr(Telling, "heard", pressed)
            with pytest.raises(KeyboardInterrupt):
                fit(name, checkpoint=folder)
        for _ in range(2):
            again = fit(name, checkpoint=folder)
            assert torch.equal(again.coefficients, whole.coefficients)
            assert again.fitting.history == whole.fitting.history


def test_a_fit_with_other_patience_or_other_validation_points_is_not_gone_on_with(tmp_path):
    fit("pcg", checkpoint=tmp_path / "kept")
    for other in ({"patience": 4}, {"patience": None}, {"validation": noisy(60, 2)}):
        with pytest.raises(DataError, match="it differs in patience, or what the error is looked at on"):
            fit("pcg", checkpoint=tmp_path / "kept", **other)


def test_what_patience_cannot_be_is_told():
    with pytest.raises(DataError, match="there is no validation"):
        fit("pcg", validation=None)
    for odd in (0, -1, 2.5, True):
        with pytest.raises(DataError, match="patience must be a whole number from 1 on"):
            fit("pcg", patience=odd)


class Counted(Laplacian):
    def __init__(self):
        super().__init__(2.0)
        self.looks = []

    def __call__(self, x, z=None):
        self.looks += [1] * (len(self.points(x)) == len(OTHERS[0]))
        return super().__call__(x, z)

    def matmul(self, x, z, v):
        self.looks += [1] * (len(self.points(x)) == len(OTHERS[0]))
        return super().matmul(x, z, v)


def test_the_kernel_of_validation_points_is_computed_once_where_there_is_room(monkeypatch):
    kernel = Counted()
    kept = ks.fit(kernel, X, Y, ridge=1e-7, validation=OTHERS, solver=PCG(None), progress=False)
    assert len(kernel.looks) == 1
    monkeypatch.setattr(watching, "ROOM", 0.0)
    again = ks.fit(kernel, X, Y, ridge=1e-7, validation=OTHERS, solver=PCG(None), progress=False)
    looked = [one["validation"] for one in again.fitting.history]
    assert looked[0] is not None
    for one, other in zip(kept.fitting.history, looked, strict=True):
        assert other is None or other == pytest.approx(one["validation"], rel=1e-10)
    assert_close(again.fitting.validation, kept.fitting.validation, 1e-10)


def test_where_there_is_no_room_looks_take_a_small_share_of_the_time(monkeypatch):
    monkeypatch.setattr(watching, "ROOM", 0.0)
    clock = [0.0]
    monkeypatch.setattr(watching.time, "monotonic", lambda: clock[0])

    class Dear(Errors):
        def __call__(self, *solution):
            clock[0] += 5.0
            return super().__call__(*solution)

    monkeypatch.setattr("kernelscope.machine.fit.Errors", Dear)
    monkeypatch.setattr(Dear, "of_some", lambda self, most: self)
    heard = Telling.heard

    def passing(watch, state):
        clock[0] += 1.0
        return heard(watch, state)

    monkeypatch.setattr(Telling, "heard", passing)
    machine = fit("pcg", patience=None)
    looks = [one["validation"] for one in machine.fitting.history if one["validation"] is not None]
    assert 1 <= len(looks) <= 2 + 0.1 * clock[0] / 5.0
