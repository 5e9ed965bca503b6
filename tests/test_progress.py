"""Long work tells how far it is where it is asked to, and leaves nothing behind when it is broken off."""

import copy
import io
import re
import sys
import types
from functools import partial

import pytest
import torch
from tqdm import tqdm

import kernelscope as ks
from kernelscope import linalg, progress
from kernelscope.kernels import FeatureKernel
from tests.maps import Laplacian, Lopsided, Waves, tangent
from tests.networks import vectors

N = 40


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(progress, "Bar", partial(tqdm, file=screen))
    return screen


KERNELS = {
    "only a matrix": Laplacian,
    "only a matrix that is not symmetric": Lopsided,
    "features": lambda: FeatureKernel(Waves()),
    "features by pairs of outputs": lambda: FeatureKernel(Waves(), outputs="full"),
    "tangent": lambda: tangent(torch.float64, "cpu"),
    "tangent by pairs of outputs": lambda: tangent(torch.float64, "cpu", outputs="full"),
    "tangent by angles": lambda: tangent(torch.float64, "cpu", cosine=True),
}
each = pytest.mark.parametrize("make", KERNELS.values(), ids=KERNELS.keys())


@each
def test_all_of_a_product_is_counted_once(make, monkeypatch):
    bars = []

    class Counted(tqdm):
        def __init__(self, **options):
            super().__init__(**(options | {"disable": False, "delay": 1e6}))
            bars.append(self)

    monkeypatch.setattr(progress, "Bar", Counted)
    K = ks.KernelOperator(make(), vectors(N))
    K @ torch.ones(*K.shape[len(K.shape) // 2:]).double()
    assert [bar.n for bar in bars] == [bar.total for bar in bars]
    assert sum(bar.n for bar in bars) >= 2 * N


def test_a_bar_tells_the_share_that_is_done_and_the_time_that_is_left(terminal):
    K = ks.KernelOperator(Laplacian(), vectors(300), progress=True)
    K @ torch.ones(300).double()
    assert re.search(r"K @ v: +\d+%.*\[\d\d:\d\d<", terminal.getvalue())
    K.eigenpairs(2)
    assert re.search(r"eigenpairs: product 2, residual \S+, K @ v", terminal.getvalue())
    K.trace(probes=6)
    assert "trace: the rest, K @ v" in terminal.getvalue()
    K.norm()
    assert "norm:" in terminal.getvalue()


def test_a_part_and_the_transpose_tell_as_much_as_the_whole(terminal):
    K = ks.KernelOperator(Lopsided(), vectors(N), progress=True)
    for count, part in enumerate((K.T, K[:9], K[[3, 1]]), 1):
        part @ torch.ones(part.shape[1]).double()
        assert terminal.getvalue().count("K @ v:   0%") == count


def test_what_is_soon_done_tells_nothing(terminal):
    ks.KernelOperator(Laplacian(), vectors(N)) @ torch.ones(N).double()
    assert terminal.getvalue() == ""


def test_on_a_terminal_long_work_tells_without_being_asked(terminal, monkeypatch):
    monkeypatch.setattr(progress, "AFTER", 0.0)
    ks.KernelOperator(Laplacian(), vectors(N), progress=False) @ torch.ones(N).double()
    assert terminal.getvalue() == ""
    ks.KernelOperator(Laplacian(), vectors(N)) @ torch.ones(N).double()
    assert "K @ v" in terminal.getvalue()


def test_a_log_is_not_filled(capsys, monkeypatch):
    monkeypatch.setattr(progress, "AFTER", 0.0)
    ks.KernelOperator(Laplacian(), vectors(N)) @ torch.ones(N).double()
    assert capsys.readouterr().err == ""


def test_in_a_notebook_long_work_tells_without_being_asked_and_short_work_does_not(monkeypatch):
    shell = type("Shell", (), {"kernel": None})()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    screen = io.StringIO()
    for late in (0.0, 2.0):
        with progress.Bar(total=2, desc="decompose", file=screen) as bar:
            bar.start_t -= late
            bar.update(1)
            bar.refresh() if late else None
        assert ("decompose" in screen.getvalue()) == bool(late)


def test_ipython_without_a_notebook_tells_on_a_terminal_only(monkeypatch):
    shell = object()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert not progress.in_notebook()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not progress.in_notebook()


@each
def test_what_is_broken_off_can_be_asked_again(make):
    kernel = make()
    model = getattr(getattr(kernel, "features", None), "network", None)
    state = None if model is None else copy.deepcopy(model.parameters)
    K = ks.KernelOperator(kernel, vectors(N))
    v = torch.randn(*K.shape[len(K.shape) // 2:]).double()
    true, random = K @ v, torch.get_rng_state()
    reads, stop = [], 0
    read = K.x._read

    def broken_off(numbers):
        reads.append(len(numbers))
        if len(reads) == stop:
            raise KeyboardInterrupt
        return read(numbers)

    K.x._read = broken_off
    K @ v
    for stop in range(1, len(reads) + 1):  # noqa: B007
        reads.clear()
        with pytest.raises(KeyboardInterrupt):
            K @ v
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.is_grad_enabled()
    K.x._read = read
    assert torch.equal(K @ v, true)
    assert progress._title.get() == ""
    assert state is None or all(torch.equal(model.parameters[name], p) for name, p in state.items())


def test_a_search_that_is_broken_off_leaves_no_title():
    calls = []

    def multiply(v):
        calls.append(progress._title.get())
        if len(calls) == 2:
            raise KeyboardInterrupt
        return torch.arange(50.0)[:, None] * v

    with pytest.raises(KeyboardInterrupt):
        linalg.eigenpairs(multiply, 50, 2)
    assert calls[0] == "eigenpairs: first product"
    assert progress._title.get() == ""


def test_words_behind_a_bar_are_drawn_no_more_often_than_the_bar():
    written = io.StringIO()
    with progress.Bar(desc="long", disable=False, delay=100.0, file=written) as bar:
        for i in range(50):
            bar.tell(f"product {i}")
    assert written.getvalue() == ""
    with progress.Bar(desc="long", disable=False, file=written) as bar:
        for i in range(50):
            bar.tell(f"product {i}")
    assert written.getvalue().count("\r") <= 5
    assert "product 49" in written.getvalue()
    progress.Bar(disable=True).tell("nothing")
