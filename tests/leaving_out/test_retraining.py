"""Networks that are trained again on subsets are those that an ordinary loop over the subset gives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.diagnostics.leaving_out import retraining
from kernelscope.diagnostics.leaving_out.batches import Batches, batches_of
from kernelscope.diagnostics.leaving_out.subsets import as_members, drawn_members
from kernelscope.errors import DataError, ModelError, NonFiniteError, OutOfBudget, RuleError

from .runs import OPTIMIZERS, network, normal, plain_loop, recorded, samples

SUBSETS = [list(range(10)), [1, 3, 5, 7, 19], list(range(20)), list(range(10, 20))]


@pytest.mark.parametrize(("optimizer", "schedule"), [*((name, False) for name in OPTIMIZERS), ("momentum", True)])
def test_a_member_is_the_plain_loop_over_its_subset(optimizer, schedule):
    run = recorded(optimizer, schedule=schedule)
    found = ks.retrain(run, SUBSETS)
    for j, subset in enumerate(SUBSETS):
        own = plain_loop(run.parameters(0), optimizer, [subset] * len(run), schedule=schedule)
        for name, value in found.state(0, j).items():
            # Twelve steps in float64, in another order of sums.
            torch.testing.assert_close(value, own[name].detach(), rtol=0, atol=1e-10)
    for name, value in run.parameters().items():
        torch.testing.assert_close(found.state(0, 2)[name], value, rtol=0, atol=1e-10)


def test_ctrl_c_keeps_the_subsets_that_were_trained_with_all_seeds(monkeypatch):
    run = recorded(batch=8)
    whole = ks.retrain(run, SUBSETS, seeds=2)
    calls, train = [], retraining.train

    def pressed(*args, **kwargs):
        calls.append(0)
        if len(calls) > stop:
            raise KeyboardInterrupt
        return train(*args, **kwargs)

    monkeypatch.setattr(retraining, "TOGETHER", 1)
    monkeypatch.setattr(retraining, "train", pressed)
    # Subsets of one size come together: the first and the last, then the second, then the third.
    for stop, kept in ((3, [0]), (5, [0, 3]), (6, [0, 1, 3])):
        calls.clear()
        words = f"after {stop} of 8 networks: {len(kept)} subsets were trained with all"
        with pytest.warns(UserWarning, match=words) as told:
            found = ks.retrain(run, SUBSETS, seeds=2)
        assert told[0].filename == __file__
        assert torch.equal(found.members, whole.members[kept])
        for name, value in found.parameters.items():
            torch.testing.assert_close(value, whole.parameters[name][:, kept], rtol=0, atol=1e-12)
    stop = 1
    calls.clear()
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="nothing of them is kept"):
        ks.retrain(run, SUBSETS, seeds=2)


@pytest.mark.parametrize(("batch", "drop"), [(8, False), (8, True), (5, False)])
def test_batches_are_drawn_anew_from_the_subset_by_as_many_steps(batch, drop):
    run = recorded(batch=batch, drop=drop, steps=13)
    found = ks.retrain(run, SUBSETS, seeds=[3, 4])
    held = found._setting.batches
    assert (held.scheme, held.size, held.drops) == ("reshuffling", batch, drop and 20 % batch > 0)
    for s, seed in enumerate((3, 4)):
        for j, subset in enumerate(SUBSETS):
            batches = list(held.of(torch.tensor(subset), seed, j))
            assert len(batches) == len(run)
            own = plain_loop(run.parameters(0), "momentum", batches)
            for name, value in found.state(s, j).items():
                torch.testing.assert_close(value, own[name].detach(), rtol=0, atol=1e-10)
    assert not torch.equal(found.state(0, 0)["0.weight"], found.state(1, 0)["0.weight"])


def test_an_epoch_holds_each_sample_of_the_subset_once():
    subset = torch.tensor([1, 4, 5, 8, 11, 12, 17])
    found = list(Batches("reshuffling", 6, 3, False, torch.arange(20)).of(subset, 0))
    assert [len(batch) for batch in found] == [3, 3, 1] * 2
    for epoch in (found[:3], found[3:]):
        assert torch.equal(torch.cat(epoch).sort().values, subset)
    dropped = list(Batches("reshuffling", 6, 3, True, torch.arange(20)).of(subset, 0))
    assert [len(batch) for batch in dropped] == [3] * 6
    # A batch that is larger than the subset is all of it.
    assert [len(batch) for batch in Batches("reshuffling", 2, 9, True, torch.arange(20)).of(subset, 0)] == [7, 7]
    assert all(len(batch) == 9 for batch in Batches("replacement", 4, 9, False, torch.arange(20)).of(subset, 0))
    alone = list(Batches("independent", 4, 3, False, torch.arange(20)).of(subset, 0))
    assert all(len(batch.unique()) == 3 and bool(torch.isin(batch, subset).all()) for batch in alone)


def test_a_fixed_order_stays_and_has_no_seeds():
    run = recorded(batch=8, shuffle=False, steps=9)
    found = ks.retrain(run, SUBSETS)
    assert found._setting.batches.scheme == "fixed"
    for j, subset in enumerate(SUBSETS):
        epoch = torch.tensor(subset).split(8)
        own = plain_loop(run.parameters(0), "momentum", [epoch[k % len(epoch)] for k in range(9)])
        for name, value in found.state(0, j).items():
            torch.testing.assert_close(value, own[name].detach(), rtol=0, atol=1e-10)
    with pytest.raises(DataError, match="nothing is drawn"):
        ks.retrain(run, SUBSETS, seeds=2)


def test_other_starts_are_those_that_the_modules_draw():
    run = recorded()
    before = torch.get_rng_state()
    found = ks.retrain(run, SUBSETS, seeds=[5, 6], start="anew")
    assert torch.equal(torch.get_rng_state(), before)
    for s, seed in enumerate((5, 6)):
        model = network()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model[0].reset_parameters()
            model[2].reset_parameters()
        own = plain_loop(model.state_dict(), "momentum", [SUBSETS[0]] * len(run))
        for name, value in found.state(s, 0).items():
            torch.testing.assert_close(value, own[name].detach(), rtol=0, atol=1e-10)


def test_what_was_not_drawn_by_its_modules_is_not_drawn_anew():
    large = network()
    with torch.no_grad():
        large[0].weight.mul_(6)
    with pytest.raises(DataError, match="begin with parameters as its modules draw them: 0.weight had the size"):
        ks.retrain(recorded(model=large), SUBSETS, start="anew")

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(normal(3, 3))

        def forward(self, x):
            return x @ self.weight

    with pytest.raises(DataError, match="Own.*no reset_parameters"):
        ks.retrain(recorded(model=Own()), SUBSETS, start="anew")
    assert len(ks.retrain(recorded(model=Own()), SUBSETS)) == 4


def test_what_members_answer_is_what_the_network_with_their_parameters_answers():
    run, (x, y) = recorded(), samples(7, seed=4)
    found = ks.retrain(run, SUBSETS, seeds=2, start="anew")
    model = network()
    for output, targets, own in ((None, None, lambda o: o), (1, None, lambda o: o[:, 1:2]),
                                 ("loss", y, lambda o: F.cross_entropy(o, y, reduction="none")[:, None]),
                                 (lambda o: o.square().sum(1), None, lambda o: o.square().sum(1, keepdim=True))):
        answers = found.outputs(x, output, targets)
        for s in range(2):
            for j in range(4):
                model.load_state_dict(found.state(s, j))
                torch.testing.assert_close(answers[s, j], own(model(x)).detach(), rtol=0, atol=1e-12)


def test_what_comes_out_does_not_hang_on_how_many_train_together():
    run = recorded(batch=8)
    few, many = (ks.retrain(run, drawn_members(9, 20, 0.5, 0), seeds=2, memory=memory) for memory in (2**16, 2**29))
    assert few._setting.together < 18 < many._setting.together
    for name, value in many.parameters.items():
        torch.testing.assert_close(few.parameters[name], value, rtol=0, atol=1e-12)


def test_what_cannot_be_trained_again_is_refused_by_name():
    run = recorded()
    with pytest.raises(DataError, match="Subset 1 must name training samples by their places"):
        ks.retrain(run, [[0], [20]])
    with pytest.raises(DataError, match="subset 1 is empty"):
        ks.retrain(run, [[0], []])
    with pytest.raises(DataError, match="slice"):
        ks.retrain(run[3:], SUBSETS)
    with pytest.raises(DataError, match="start must be"):
        ks.retrain(run, SUBSETS, start="other")
    with pytest.raises(DataError, match="different numbers"):
        ks.retrain(run, SUBSETS, seeds=[1, 1], start="anew")
    with pytest.raises(OutOfBudget, match="2000 networks"):
        ks.retrain(run, [[0]] * 2000, memory="512kB")
    with pytest.raises(DataError, match="never drew"):
        ks.retrain(recorded(batch=8, steps=1), SUBSETS)
    noisy = nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    with pytest.raises(ModelError, match="random numbers"):
        ks.retrain(recorded(model=noisy), SUBSETS)
    mixing = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()
    with pytest.raises(ModelError, match="mixes the samples"):
        ks.retrain(recorded(model=mixing), SUBSETS)
    x, y = samples()
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    with ks.record(model, (x, y), loss=F.cross_entropy) as recording:
        for _ in range(4):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.05)
            optimizer.step()
    with pytest.raises(RuleError, match="clipping"):
        ks.retrain(recording.run, SUBSETS)


def test_a_subset_that_diverges_is_named():
    x = torch.cat([torch.full((4, 1), 0.1), torch.full((4, 1), 1e3)]).double()
    model = nn.Linear(1, 1).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
    with ks.record(model, (x, x), loss=F.mse_loss) as recording:
        for _ in range(30):
            optimizer.param_groups[0]["lr"] = 1.9e-6
            optimizer.zero_grad()
            F.mse_loss(model(x), x).backward()
            optimizer.step()
    # Without the small inputs the curvature is twice as large, beyond what the rate bears.
    with torch.no_grad():
        longer = ks.retrain(recording.run, [range(8), range(4, 8)])
    sizes = [float(longer.state(0, j)["weight"].abs()) for j in (0, 1)]
    assert sizes[1] > 1e3 * sizes[0]


def test_batches_of_changing_sizes_are_refused():
    from kernelscope.decomposition.stochastic.sampling import sampling_of

    rows = [torch.tensor([0, 1, 2]), torch.tensor([3]), torch.tensor([4, 5])]
    with pytest.raises(DataError, match="change their size: 3 samples, and 1 at step 1"):
        batches_of(sampling_of(rows, 6), rows)


def test_subsets_are_read_in_each_form():
    table = drawn_members(5, 9, 0.4, 1)
    assert table.sum(1).tolist() == [4] * 5
    listed = [row.nonzero().flatten().tolist() for row in table]
    assert torch.equal(as_members(listed, 9), table)
    assert torch.equal(as_members(list(table), 9), table)
    for odd in (3, [[0.5]], torch.ones(2, 8, dtype=torch.bool), [[0, 0]], "ab"):
        with pytest.raises(DataError):
            as_members(odd, 9)


def test_training_that_ends_at_no_number_is_said_so():
    x, y = samples()
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with ks.record(model, (x, y.double()[:, None].expand(-1, 3)), loss=F.mse_loss) as recording:
        for k in range(40):
            optimizer.param_groups[0]["lr"] = 0.1 if k else 1e-3
            optimizer.zero_grad()
            F.mse_loss(model(x), y.double()[:, None].expand(-1, 3)).backward()
            optimizer.step()
    setting = ks.retrain(recording.run, [range(20)])._setting
    for numbers in setting.recipe.numbers:
        for name in numbers:
            numbers[name] = {**numbers[name], "lr": 1e200}
    with pytest.raises(NonFiniteError, match="subset 0 with seed 7"):
        list(setting.each(torch.ones(1, 20, dtype=torch.bool), [7], "own"))


class Warm(nn.Module):
    """A layer with a temperature, a parameter of no axis."""

    def __init__(self):
        super().__init__()
        self.layer, self.heat = nn.Linear(3, 3), nn.Parameter(torch.tensor(1.3))

    def forward(self, x):
        """The logits."""
        return self.layer(x) * self.heat


def of_classes(loss, ids=None, model=None, steps=6):
    """A run of a classifier of three classes on 12 samples, all of them at each step or those named."""
    torch.manual_seed(0)
    x, y = torch.randn(12, 3, dtype=torch.float64), torch.arange(12) % 3
    model = (nn.Linear(3, 3) if model is None else model).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_sampler=[ids or range(12)] * steps)
    with ks.record(model, loader, loss=loss) as recording:
        for a, b in loader:
            optimizer.zero_grad()
            loss(model(a), b).backward()
            optimizer.step()
    return recording.run, x


@pytest.mark.parametrize("loss", [
    nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64)),
    nn.CrossEntropyLoss(ignore_index=2),
    nn.CrossEntropyLoss(reduction="sum"),
    lambda outputs, targets, reduction="sum": F.cross_entropy(outputs, targets, reduction=reduction),
])
def test_losses_that_weigh_a_batch_by_more_than_its_size_are_refused(loss):
    with pytest.raises(RuleError, match="Train with a mean loss"):
        ks.retrain(of_classes(loss)[0], [range(4)])


def test_a_loss_that_is_halved_is_trained_again_as_it_was():
    half = lambda outputs, targets, reduction="mean": F.cross_entropy(outputs, targets, reduction=reduction) / 2
    run, x = of_classes(half)
    found = ks.retrain(run, [range(12)]).outputs(x)[0, 0]
    torch.testing.assert_close(found, run.network(run.parameters(), {}, (x,)).detach(), rtol=0, atol=1e-12)


def test_a_batch_that_holds_a_sample_twice_is_not_the_mean_over_all():
    run = of_classes(F.cross_entropy, [0, *range(12)])[0]
    assert ks.retrain(run, [range(12)]).batches.startswith("batches of 13 of the subset, drawn with replacement")


def test_parameters_without_axes_are_trained_again():
    run, x = of_classes(F.cross_entropy, model=Warm())
    found = ks.retrain(run, [range(12)]).outputs(x)[0, 0]
    torch.testing.assert_close(found, run.network(run.parameters(), {}, (x,)).detach(), rtol=0, atol=1e-12)
    judged = ks.evaluate(run, x[:4] + 0.1, torch.arange(4) % 3, subsets=8, seeds=2)
    assert not [why for why in judged.left_out.values() if "Dimension" in why]
