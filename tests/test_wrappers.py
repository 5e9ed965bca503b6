"""A network may be called through a wrapper: what is recorded is the network within, as if there were none."""

import copy
import warnings

import pytest
import torch
import torch.distributed
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import kernelscope as ks
from kernelscope.errors import RecordingError
from kernelscope.run.autorecord import AutoRecording
from kernelscope.run.wrappers import network_behind, refuse_parts
from tests.recordings import complete, network, points, queries, share_of


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()
        self.norm = nn.BatchNorm1d(2).double()

    def forward(self, x):
        return self.norm(self.inner(x))


def in_place(backend):
    def wrap(model):
        model.compile(backend=backend)
        return model
    return wrap


@pytest.fixture
def alone(tmp_path):
    """A process group of this process alone."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS = {
    "compiled, eager": lambda model: torch.compile(model, backend="eager"),
    "compiled, aot_eager": lambda model: torch.compile(model, backend="aot_eager"),
    "compiled in place": in_place("aot_eager"),
    "data parallel": nn.DataParallel,
    "distributed": DistributedDataParallel,
    "twice": lambda model: nn.DataParallel(torch.compile(model, backend="eager")),
}


def loop(called, steps=4, **options):
    """Trains through ``called``, recorded."""
    x, y = points()
    optimizer = torch.optim.SGD(called.parameters(), lr=0.1, momentum=0.9)
    recording = ks.record(called, (x, y), loss=F.mse_loss, **options)
    with recording:
        for _ in range(steps):
            optimizer.zero_grad()
            F.mse_loss(called(x), y).backward()
            optimizer.step()
    return recording


@pytest.fixture(autouse=True)
def _quiet_compiler():
    # torch's compiler warns of torch's own deprecations when it is imported.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.compile(nn.Identity(), backend="eager")
        yield
        torch._dynamo.reset()


@pytest.mark.parametrize("make", [network, Own], ids=["plain layers", "code of its own"])
@pytest.mark.parametrize("warm", [False, True], ids=["never called before", "called before"])
@pytest.mark.parametrize("name", WRAPPERS)
def test_a_wrapped_network_is_recorded_as_the_network_within(name, warm, make, tmp_path, alone):
    model = make()
    called = WRAPPERS[name](model)
    if warm:
        called(points()[0]).sum().backward()
    fresh, before = make(), copy.deepcopy(model.state_dict())
    hooks = len(called._forward_hooks), len(model._forward_hooks)
    run = loop(called, out=tmp_path / "run").run
    assert (len(called._forward_hooks), len(model._forward_hooks)) == hooks
    assert run.names == [name for name, _ in fresh.named_parameters()]
    assert all(torch.equal(before[name], t) for name, t in run.parameters(0).items())
    model.eval()
    for d in (ks.decompose(run, queries()), ks.decompose(ks.load(tmp_path / "run", model=fresh), queries())):
        torch.testing.assert_close(d.final, model(queries()).detach(), rtol=1e-10, atol=1e-12)
        assert complete(d) <= 1e-12
        assert share_of(d, "unattributed") == 0


def test_a_compiled_copy_that_the_recording_does_not_hear_is_named():
    model = network()
    x, y = points()
    called = torch.compile(model, backend="eager")
    called(x).sum().backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(RecordingError, match="was not called on a batch.*torch.compile that is the compiled module"):  # noqa: PT012
        with ks.record(model, (x, y), loss=F.mse_loss):
            F.mse_loss(called(x), y).backward()
            optimizer.step()


def test_averaged_weights_may_be_those_of_a_compiled_network():
    called = torch.compile(network(), backend="eager")
    average = torch.optim.swa_utils.AveragedModel(called)
    run = loop(called, average=average).run
    assert run.has_average


def test_a_script_that_compiles_its_network_is_recorded_by_itself():
    x, y = points()
    model = Own()
    called = torch.compile(model, backend="eager")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        # The compiler does not like that modules are listened to.
        warnings.simplefilter("ignore", UserWarning)
        with AutoRecording() as recording:
            for inputs, targets in loader:
                optimizer.zero_grad()
                F.mse_loss(called(inputs), targets).backward()
                optimizer.step()
    run = recording.run
    assert len(run) == 2
    assert set(run.buffers(-1)) == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert not run.buffers(-1)["norm.running_mean"].any()
    model.eval()
    torch.testing.assert_close(ks.decompose(run, queries()).final, model(queries()).detach(), rtol=1e-10, atol=1e-12)


def test_a_recording_of_a_compiled_network_is_left_alone():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        with AutoRecording() as recording:
            run = loop(torch.compile(network(), backend="eager")).run
    assert recording.stood_down
    assert len(run) == 4


def test_a_network_of_which_other_processes_have_a_part_is_refused(alone):
    called = DistributedDataParallel(network())
    refuse_parts(called)
    called.process_group = type("Three", (), {"size": lambda self: 3})()
    with pytest.raises(RecordingError, match="DistributedDataParallel: its steps use .* 2 other processes saw"):
        ks.record(called, points(), loss=F.mse_loss)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    sharded = fully_shard(network(), mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(RecordingError, match="its parameters are spread over processes.*training that runs in one"):
        ks.record(sharded, points(), loss=F.mse_loss)


def test_a_module_that_wraps_nothing_is_itself():
    model = network()
    assert network_behind(model) is model
    assert network_behind(nn.DataParallel(nn.DataParallel(model))) is model
