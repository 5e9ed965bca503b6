"""Runs that do not fit into memory, and runs that several processes decompose: the numbers are the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import kernelscope as ks
from kernelscope.decomposition import exact
from kernelscope.errors import DataError, OutOfBudget
from kernelscope.layers import Outer, Rows
from kernelscope.run.gradient import Tolerance, used_gradient
from kernelscope.run.run import Run
from kernelscope.run.step import MicroBatch, Step
from kernelscope.sizes import largest_of, norm_of
from tests.large_runs import QUERIES, arrays, trained
from tests.laws import assert_close

ROOT = Path(__file__).parents[1]
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}
OPTIMIZERS = ["momentum", "nesterov", "plain", "adamw", "nadam", "rmsprop"]
gloo = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(),
                          reason="this build of torch has no gloo")


@pytest.fixture
def little(monkeypatch):
    """Memory for one step, and for one query at a time."""
    monkeypatch.setattr(exact, "PART", 1)
    return {"memory": 1, "progress": False}


# -- less memory than the run takes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("optimizer", "keep"), [
    ("momentum", "all"), ("momentum", 5), ("adamw", 7),
    *(pytest.param(name, keep, marks=pytest.mark.slow) for name in OPTIMIZERS for keep in ("all", 5, 7)
      if (name, keep) not in (("momentum", "all"), ("momentum", 5), ("adamw", 7)))])
def test_a_run_that_does_not_fit_is_decomposed_into_the_same_numbers(optimizer, keep, little):
    run = trained(keep, optimizer)
    whole, some = (ks.decompose(run, QUERIES, "margin", progress=False), ks.decompose(run, QUERIES, "margin", **little))
    assert float(some.residual.abs().max()) < 1e-12
    # Moments that a recording keeps are those that its steps leave, to the last digits of what they are made of.
    for name, value in arrays(some).items():
        assert_close(value, arrays(whole)[name], 1e-9, scale=1.0)
    assert some.info["notes"] == whole.info["notes"]


@pytest.mark.parametrize("optimizer", ["momentum", pytest.param("adamw", marks=pytest.mark.slow)])
def test_a_slice_that_does_not_fit_begins_at_the_states_before_it(optimizer, little):
    for start, stop in ((3, 29), (10, 33), (0, 11)):
        whole = ks.decompose(trained("all", optimizer)[start:stop], QUERIES, "margin", progress=False)
        some = ks.decompose(trained(5, optimizer)[start:stop], QUERIES, "margin", **little)
        for name, value in arrays(some).items():
            assert_close(value, arrays(whole)[name], 1e-9, scale=1.0)


def test_what_single_precision_rounded_off_the_stored_states_is_rounding(little):
    run = trained(5, "momentum", torch.float32)
    whole, some = (ks.decompose(run, QUERIES, "margin", progress=False), ks.decompose(run, QUERIES, "margin", **little))
    assert float(some.residual.abs().max()) < 1e-12
    assert not some.channels["unattributed"].any()
    assert float(some.channels["rounding"].abs().max()) < 1e-5
    assert_close(some.contributions, whole.contributions, 1e-4)


def test_states_that_someone_wrote_to_are_booked_as_where_all_steps_are_held(little):
    def disturb(done, optimizer):
        for state in optimizer.state.values() if done == 20 else ():
            state["momentum_buffer"].mul_(2.0)

    run = trained(5, "momentum", disturb=disturb)
    assert run.anchors[4] == run.restarts[1] == 20
    whole, some = (ks.decompose(run, QUERIES, "margin", progress=False), ks.decompose(run, QUERIES, "margin", **little))
    assert float(some.channels["momentum"].abs().max()) > 0.1
    for name, value in arrays(some).items():
        assert_close(value, arrays(whole)[name], 1e-9, scale=1.0)
    assert some.info["notes"] == whole.info["notes"]


def test_momentum_that_no_step_left_is_unattributed_between_stretches(little, monkeypatch):
    run, states = trained(5), Run.states
    monkeypatch.setattr(Run, "states", lambda run, k: {
        word: value * (2 if k == 20 else 1) for word, value in (states(run, k) or {}).items()})
    d = ks.decompose(run, QUERIES, "margin", **little)
    assert float(d.residual.abs().max()) < 1e-12
    assert float(d.channels["unattributed"].abs().max()) > 1e-3
    assert "something beside the optimizer wrote to weights, or to the optimizer's states" in " ".join(d.info["notes"])


def test_steps_booked_as_a_whole_need_no_states(little):
    d = ks.decompose(trained(5, "adamw"), QUERIES, "margin", rule="displacement", **little)
    assert float(d.residual.abs().max()) < 1e-12
    assert_close(d.channels["unattributed"], d.final - d.initial, 1e-10)


def test_a_query_that_does_not_fit_is_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(exact, "LEAST", 0)
    run = trained(5)
    with pytest.raises(OutOfBudget, match=r"One query with 3 outputs and 51 parameters in float64 needs .* Raise memory"
                                          r".*output=\"margin\"; or pass dtype=torch.float32"):
        ks.decompose(run, QUERIES, memory=1000)
    with pytest.raises(OutOfBudget, match="in float32 needs about 190 MiB, and memory=1000 .* fewer outputs"):
        ks.decompose(run, QUERIES, memory=1000, dtype=torch.float32)


MEASURED = """
import sys, torch, torch.nn.functional as F
import kernelscope as ks
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(20, 700), nn.ReLU(), nn.Linear(700, 1400), nn.ReLU(), nn.Linear(1400, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
x, y = torch.randn(16, 20), torch.arange(16) % 3
with ks.record(model, (x, y), loss=F.cross_entropy, keep=5) as recording:
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
# The peak that getrusage tells begins with that of the process that started this one.
peak = lambda: 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
before = peak()
thin = int(sys.argv[2]) or None
d = ks.decompose(recording.run, torch.randn(4, 20), "margin", memory=sys.argv[1], thin=thin, progress=False)
print(d.info["bytes"], peak() - before, float(d.residual.abs().max()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of a process is read from /proc")
@pytest.mark.parametrize("thin", [0, 5])
def test_the_peak_of_a_million_parameters_is_below_what_was_planned(thin):
    call = [sys.executable, "-c", MEASURED, "400MB", str(thin)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=200, env=os.environ | QUIET)
    assert done.returncode == 0, done.stderr[-3000:]
    planned, peak, residual = map(float, done.stdout.split())
    assert peak <= planned <= 400e6
    # A plan that allowed for everything would tell nothing; what torch takes at first is up to a half of it.
    assert planned <= 5 * peak
    assert residual < 1e-12


def test_steps_for_which_the_disk_has_no_room_are_refused_before_anything_is_computed(monkeypatch, little):
    monkeypatch.setattr("kernelscope.decomposition.aside.shutil.disk_usage", lambda folder: type("", (), {"free": 10}))
    with pytest.raises(OutOfBudget, match=r"wait on the disk, .* TMPDIR .* record with a smaller keep"):
        ks.decompose(trained(16), QUERIES, **little)


def test_factors_meet_directions_as_the_gradients_they_make():
    a, b = torch.randn(3, 2, 4, 5), torch.randn(3, 2, 2, 4, 3)
    for factor in (Rows(torch.randn(3, 2, 11)), Outer(a, b), Outer(a, b, first=True), Outer(a[:, :1], b[:, :, :1]),
                   Outer(torch.randint(0, 6, (3, 4)), b[:, :, :1], first=True, size=6)):
        rows = factor.rows()
        directions = torch.randn(7, rows.shape[2])
        assert_close(factor.meet(directions), rows @ directions.T, 1e-5)


def test_many_chords_that_do_not_fit_are_decomposed_into_the_same_numbers(little):
    run = trained(5)
    whole, some = (ks.decompose(run, QUERIES, "margin", thin=5, **options) for options in ({"progress": False}, little))
    assert float(some.residual.abs().max()) < 1e-12
    for name, value in arrays(some).items():
        assert_close(value, arrays(whole)[name], 1e-9, scale=1.0)


def test_it_is_told_beforehand_how_long_a_large_run_takes(monkeypatch, capsys):
    monkeypatch.setattr(exact, "LONG", 0)
    d = ks.decompose(trained(5), QUERIES, "margin", progress=True)
    assert d.info["expected seconds"] >= 0
    assert "decompose (about" in capsys.readouterr().err


def test_norms_of_long_gradients_are_exact_and_show_no_clipping():
    long = torch.randn(5_000_000, generator=torch.Generator().manual_seed(0))
    assert abs(norm_of(long) / float(long.double().norm()) - 1) < 1e-7
    assert norm_of(1e30 * long) > 1e33
    assert norm_of(1e-30 * long) < 1e-26
    assert largest_of(torch.tensor([1.0, -3.0])) == 3.0
    found = float(long.double().norm())
    # A norm that was added up in single precision misses by 1e-4; the largest entry tells that nothing was clipped.
    for wrong in (1 + 1.5e-4, 1 - 5e-4):
        step = Step("SGD", [], [MicroBatch(torch.arange(2), 0, ())], torch.tensor([wrong * found], dtype=torch.float64),
                    largest_of(long))
        used = used_gradient(step, [[long]], [0], Tolerance.of(torch.float32, False))
        assert used.clip == 1.0
    clipped = Step("SGD", [], [MicroBatch(torch.arange(2), 0, ())], torch.tensor([0.9995 * found], dtype=torch.float64),
                   0.9995 * largest_of(long))
    assert abs(used_gradient(clipped, [[long]], [0], Tolerance.of(torch.float32, False)).clip - 0.9995) < 1e-6


# -- several processes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes found, started by torchrun."""
    out = tmp_path_factory.mktemp("together") / "found.pt"
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            str(ROOT / "tests" / "processes_of_a_run.py"), "together", str(out)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=200, cwd=ROOT, env=os.environ | QUIET)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(2)]


@gloo
def test_two_processes_decompose_into_what_one_does(together):
    run = trained("all")
    alone = {"many": ks.decompose(run, QUERIES), "one": ks.decompose(run, QUERIES[:1], "margin"),
             "groups": ks.decompose(run, QUERIES, "margin", groups=True),
             "none": ks.decompose(run[:0], QUERIES, "margin"), "thin": ks.decompose(trained(5), QUERIES, "margin")}
    assert set(together[0]["found"]) == set(alone)
    for name, found in together[0]["found"].items():
        # All of them have the same bits.
        assert all(torch.equal(value, together[1]["found"][name][what]) for what, value in found.items())
        assert float(found["residual"].abs().max()) < 1e-12
        true = arrays(alone[name])
        assert set(found) == set(true)
        for what, value in found.items():
            if what != "residual" and value.numel():
                assert_close(value, true[what], 1e-12, scale=1.0)


@gloo
def test_an_error_of_one_process_is_raised_by_both(together):
    (differing, failed), (other, told) = (part["said"] for part in together)
    assert differing[0] == other[0] == "DataError"
    assert "process 1 differs from process 0 in the outputs of the queries" in differing[1]
    assert failed == ("NonFiniteError", "Process 1 of 2: step 10 is no number.")
    assert told == ("NonFiniteError", "step 10 is no number.")


@gloo
@pytest.mark.slow
def test_a_process_that_ends_ends_the_others_with_a_sentence(tmp_path):
    call = [sys.executable, str(ROOT / "tests" / "processes_of_a_run.py"), "one_ends", str(tmp_path / "store")]
    started = [subprocess.Popen(call, env=os.environ | QUIET | {"RANK": str(rank)}, cwd=ROOT, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE) for rank in range(2)]
    outs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [3, 7], outs
    assert "Process 0 of 2 waited for the others, and one of them has ended" in outs[0][0]


def test_without_processes_it_says_what_to_call():
    with pytest.raises(DataError, match=r"A decomposition is shared out .*init_process_group\(\"gloo\"\)"):
        ks.decompose(trained("all"), QUERIES, distributed=True)
