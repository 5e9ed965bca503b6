"""Several processes find what one finds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from kernelscope.errors import DataError
from kernelscope.solvers.shards import Ranks, shared
from tests import processes
from tests.laws import assert_close

ROOT = Path(__file__).parents[1]
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)}

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(),
                                reason="this build of torch has no gloo")


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What two processes found, started by torchrun."""
    out = tmp_path_factory.mktemp("together") / "found.pt"
    call = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
            str(ROOT / "tests" / "processes.py"), "together", str(out)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=200, cwd=ROOT, env=os.environ | QUIET)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(out, weights_only=True) | {"printed": done.stdout}


@pytest.fixture(scope="module")
def alone():
    return processes.solutions(lambda problem: problem)


def test_two_processes_find_what_one_finds(together, alone):
    assert together["size"] == 2
    assert set(together["found"]) == set(alone)
    for name, found in together["found"].items():
        for what, value in found.items():
            assert_close(value, alone[name][what], 1e-10)


def test_all_processes_have_the_same_bits(together):
    assert together["alike"]


def test_a_pass_takes_one_sum_for_each_block_of_rows_and_puts_the_parts_together_once(together):
    first, *others = together["counts"]
    assert together["blocks"] == 1
    assert set(others) == {2}


def test_processes_with_different_problems_are_told_apart(together):
    differing, many, _ = together["said"]
    assert "process 1 differs from process 0 in ridge" in differing
    assert "2 processes cannot share 1 centers" in many


def test_a_machine_that_two_processes_fit_is_that_of_one(together):
    assert_close(together["machines"]["at once"], processes.fitted(progress=False), 1e-10)


def test_a_fit_of_two_processes_goes_on_after_an_interruption_to_the_same_bits(together):
    machines = together["machines"]
    assert torch.equal(machines["gone on"], machines["at once"])
    assert torch.equal(machines["again"], machines["at once"])
    assert "it differs in ridge" in together["said"][2]


def test_only_the_first_process_prints(together):
    lines = together["printed"].splitlines()
    assert sum(line.startswith("Laplacian(bandwidth=2), 300 points") for line in lines) == 4
    assert sum("goes on after pass" in line for line in lines) == 1
    assert sum("it is done" in line for line in lines) == 1


def test_a_process_that_ends_ends_the_others_with_a_sentence(tmp_path):
    call = [sys.executable, str(ROOT / "tests" / "processes.py"), "one_ends", str(tmp_path / "store")]
    started = [subprocess.Popen(call, env=os.environ | QUIET | {"RANK": str(rank)}, cwd=ROOT, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE) for rank in range(2)]
    outs = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [3, 7], outs
    assert "Process 0 of 2 waited for the others, and one of them has ended" in outs[0][0]


def test_without_processes_it_says_what_to_call():
    with pytest.raises(DataError, match=r"torch.distributed.init_process_group\(\"gloo\"\)"):
        shared(processes.problem())


@pytest.fixture
def one_process(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_one_process_has_all_centers(one_process):
    problem = processes.problem()
    assert shared(problem) is problem
    assert Ranks().size == 1
    assert_close(Ranks().sum(torch.ones(3)), torch.ones(3))
