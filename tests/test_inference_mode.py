"""In ``torch.inference_mode()`` a run is asked as outside of it, and gives the same answers."""

import pytest
import torch
import torch.nn.functional as F

import kernelscope as ks
from kernelscope.run.checking import check_run
from tests.recordings import network, points


def recorded(folder, dtype, keep):
    torch.manual_seed(0)
    model, (x, y) = network(dtype=dtype), points(dtype=dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    with ks.record(model, (x, y), loss=F.mse_loss, keep=keep, out=folder) as recording:
        for _ in range(7):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
    return recording.run, x, y


@pytest.mark.parametrize("keep", ["all", 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_answers_are_those_outside(dtype, keep, tmp_path):
    run, x, y = recorded(tmp_path / "run", dtype, keep)
    truth, why, check = ks.decompose(run, x[:2]), ks.explain(run, x[:2], targets=y[:2]), check_run(run)
    losses = ks.decompose(run, x[:2], "loss", targets=y[:2])
    with torch.inference_mode():
        q, t = x[:2] + 0, y[:2] + 0
        runs = [run, ks.load(tmp_path / "run"), ks.load(tmp_path / "run", model=network(dtype=dtype), data=(x + 0, y))]
        for one in runs:
            one.parameters(3)
            d = ks.decompose(one, q)
            assert torch.equal(d.contributions, truth.contributions)
            assert not d.contributions.is_inference()
            assert torch.equal(ks.decompose(one, q, "loss", targets=t).contributions, losses.contributions)
            assert ks.explain(one, q, targets=t).sentence() == why.sentence()
            assert [row.value for row in check_run(one).rows[1:]] == [row.value for row in check.rows[1:]]
        assert torch.is_inference_mode_enabled()
    for one in runs:
        # What was read in inference mode serves afterwards too.
        assert torch.equal(ks.decompose(one, q).contributions, truth.contributions)
        assert [row.value for row in check_run(one).rows[1:]] == [row.value for row in check.rows[1:]]
