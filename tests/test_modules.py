"""The ledger is exact for the modules people use, and reading through them changes nothing."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from tests.networks import Recurrent
from tests.oracles import Diary
from tests.recordings import (
    assert_the_explicit_shares,
    batches,
    complete,
    points,
    queries,
    relative,
    share_of,
    train,
)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 2)
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, tokens):
        h = self.embed(tokens)
        return self.head(self.attend(h, h, h, need_weights=False)[0].mean(1))


class Transformer(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=dropout, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, tokens):
        return self.head(self.layer(self.embed(tokens)).mean(1))


class ScaledDotProduct(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.head = (nn.Linear(4, 4) for _ in range(4))
        self.embed = nn.Embedding(7, 4)

    def forward(self, tokens):
        h = self.embed(tokens)
        return self.head(F.scaled_dot_product_attention(self.q(h), self.k(h), self.v(h), is_causal=True))[:, -1, :2]


def images(n=8):
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def tokens(n=8):
    return torch.randint(0, 7, (n, 5), generator=torch.Generator().manual_seed(7))


def vectors(n=8):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def convolutional():
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 2))


# For each module: how it is made, what it is fed, and the way of the training side that it should find.
MODULES = {
    "MLP": (lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), vectors),
    "GELU, SiLU, LeakyReLU": (lambda: nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 4), nn.SiLU(),
                                                    nn.Linear(4, 4), nn.LeakyReLU(), nn.Linear(4, 2)), vectors),
    "CNN": (convolutional, images),
    "strided CNN with average pooling": (lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.Tanh(),
        nn.Conv2d(4, 4, 3, padding=2, groups=2, dilation=2), nn.ELU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), images),
    "GroupNorm": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(),
                                        nn.Linear(64, 2)), images),
    "InstanceNorm": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.InstanceNorm2d(2, affine=True), nn.Flatten(),
                                           nn.Linear(32, 2)), images),
    "LayerNorm": (lambda: nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)), vectors),
    "embedding": (lambda: nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(15, 2)), tokens),
    "embedding with padding": (lambda: nn.Sequential(nn.Embedding(7, 3, padding_idx=0), nn.Flatten(), nn.Linear(15, 2)),
                               tokens),
    "attention": (Attention, tokens),
    "transformer": (Transformer, tokens),
    "scaled dot product": (ScaledDotProduct, tokens),
    "GRU": (lambda: Recurrent(nn.GRU), tokens),
    "LSTM": (lambda: Recurrent(nn.LSTM), tokens),
    "RNN": (lambda: Recurrent(nn.RNN), tokens),
    "weight norm": (lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.Tanh(),
                                          nn.Linear(4, 2)), vectors),
    "PReLU": (lambda: nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2)), vectors),
    "bilinear": (lambda: Square(), vectors),
}


class Square(nn.Module):
    def __init__(self):
        super().__init__()
        self.form = nn.Bilinear(3, 3, 2)
        self.scale = nn.Parameter(torch.ones(2))

    def forward(self, x):
        return self.scale * self.form(x, x)


def targets(n=8):
    return torch.randint(0, 2, (n,), generator=torch.Generator().manual_seed(8))


def momentum_sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def fingerprint(model):
    """Everything a call could change: states, modes, gradients, hooks, random state."""
    return ({k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()],
            [None if p.grad is None else p.grad.clone() for p in model.parameters()],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()], torch.get_rng_state())


def same(a, b):
    equal = lambda u, v: (u is v) if u is None or v is None else torch.equal(u, v)
    return (a[0].keys() == b[0].keys() and all(torch.equal(a[0][k], b[0][k]) for k in a[0]) and a[1] == b[1]
            and all(map(equal, a[2], b[2])) and a[3] == b[3] and torch.equal(a[4], b[4]))


def untouched(model, call):
    before = fingerprint(model)
    result = call()
    assert same(before, fingerprint(model))
    return result


@pytest.mark.parametrize("name", MODULES)
def test_shares_through_a_module_are_those_of_plain_loops(name):
    make, inputs = MODULES[name]
    model = make().double()
    x, y = inputs(), targets()
    run, notes = train(model, x, y, momentum_sgd(model), loss=F.cross_entropy, steps=5)
    d = untouched(model, lambda: ks.decompose(run, x[:2]))
    truth = assert_the_explicit_shares(d, notes, x[:2])
    assert truth.moved <= 1e-12
    assert complete(d) <= 1e-12
    assert share_of(d, "rounding") <= 1e-11
    assert not d.channels["unattributed"].any()
    assert not d.channels["buffers"].any()


@pytest.mark.parametrize(("name", "way"), [
    ("MLP", "layers"), ("CNN", "layers"), ("strided CNN with average pooling", "layers"), ("GroupNorm", "layers"),
    ("LayerNorm", "layers"), ("embedding", "layers"), ("embedding with padding", "layers"),
    ("scaled dot product", "layers"), ("weight norm", "layers"), ("attention", "layers"), ("transformer", "layers"),
])
def test_common_modules_need_no_loop(name, way):
    make, inputs = MODULES[name]
    model = make().double()
    run, _ = train(model, inputs(), targets(), momentum_sgd(model), loss=F.cross_entropy, steps=2, diary=False)
    d = ks.decompose(run, inputs()[:2])
    assert d.info["engine"]["training"] == way
    assert d.info["engine"]["queries"] != "loop"
    assert d.info["notes"] == []


def test_a_module_that_cannot_be_transformed_is_read_one_sample_at_a_time():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return torch.stack([(self.left if float(row[0]) > 0 else self.right)(row).tanh() for row in x])

    model = Branching().double()
    x, y = vectors(), targets()
    run, notes = train(model, x, y, momentum_sgd(model), loss=F.cross_entropy, steps=5)
    d = untouched(model, lambda: ks.decompose(run, x[:2]))
    assert_the_explicit_shares(d, notes, x[:2])
    assert complete(d) <= 1e-12
    assert d.info["engine"]["queries"] == "loop"
    assert len(d.info["notes"]) >= 1


def test_a_module_may_take_another_branch_as_its_parameters_change():
    class Switching(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.switch = nn.Linear(3, 3), nn.Linear(3, 2), nn.Parameter(torch.ones(()))
            self.taken = []

        def forward(self, x):
            self.taken.append(float(self.switch.detach()) > 1.05)
            h = self.first(x).tanh()
            return self.second(self.first(h) if self.taken[-1] else h) * self.switch

    model = Switching().double()
    x, y = vectors(), targets()
    optimizer = torch.optim.SGD([{"params": [model.switch], "lr": 0.5},
                                 {"params": [*model.first.parameters(), *model.second.parameters()]}], lr=0.1)
    run, notes = train(model, x, y, optimizer, loss=F.cross_entropy, steps=12)
    assert set(model.taken) == {True, False}
    d = ks.decompose(run, x[:2])
    assert_the_explicit_shares(d, notes, x[:2])
    assert complete(d) <= 1e-12


# -- samples that meet ------------------------------------------------------------------------------------------------


def normalised():
    return nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_batch_normalisation_shares_the_loss_terms_given_the_batch(kind):
    model = normalised()
    optimizer = momentum_sgd(model) if kind == "SGD" else torch.optim.AdamW(model.parameters(), lr=0.05)
    run, notes = train(model, *points(), optimizer, steps=6, size=4, together=True)
    d = untouched(model, lambda: ks.decompose(run, queries()))
    truth = assert_the_explicit_shares(d, notes, queries())
    assert truth.moved <= 1e-12
    assert complete(d) <= 1e-12
    assert share_of(d, "rounding") <= 1e-12
    assert not d.channels["unattributed"].any()
    assert d.info["engine"]["training"] == "batch"


def test_running_statistics_have_a_channel():
    model = normalised()
    run, notes = train(model, *points(), momentum_sgd(model), steps=6, size=4, together=True)
    d = ks.decompose(run, queries())
    # By hand: at each change of the buffers, the output after it minus the output before it, at the same parameters.
    states = [notes.first_buffers] + [e.buffers for e in notes.entries] + [notes.last_buffers]
    thetas = [notes.entries[0].theta] + [e.theta for e in notes.entries] + [notes.last]
    by_hand = 0
    for k in range(len(states) - 1):
        theta = thetas[k + 1]
        by_hand = by_hand + notes.outputs(theta, states[k + 1], queries()) - notes.outputs(theta, states[k], queries())
    assert relative(d.channels["buffers"], by_hand.detach()) <= 1e-10
    assert float(d.channels["buffers"].abs().max()) > 1e-2
    assert torch.allclose(d.final, model.eval()(queries()).detach(), rtol=1e-12)


def test_frozen_statistics_leave_the_samples_alone():
    model = normalised()
    model[1].eval()
    run, notes = train(model, *points(), momentum_sgd(model), steps=5)
    d = ks.decompose(run, queries())
    assert_the_explicit_shares(d, notes, queries())
    assert complete(d) <= 1e-12
    assert not d.channels["buffers"].any()


@pytest.mark.parametrize("momentum", [None, 0.3])
def test_batch_normalisation_in_a_convolutional_network(momentum):
    model = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2, momentum=momentum), nn.ReLU(), nn.Flatten(),
                          nn.Linear(32, 2)).double()
    x, y = images(), targets()
    run, notes = train(model, x, y, momentum_sgd(model), loss=F.cross_entropy, steps=5, size=4, together=True)
    d = untouched(model, lambda: ks.decompose(run, x[:2]))
    assert_the_explicit_shares(d, notes, x[:2])
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()


# -- random numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 2)),
    lambda: nn.Sequential(nn.Linear(3, 6), nn.AlphaDropout(0.3), nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 2)),
    lambda: nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 2)),
], ids=["dropout", "two kinds", "after batch normalisation"])
def test_dropout_is_read_under_the_mask_that_was_drawn(make):
    model = make().double()
    x, y = vectors(), targets()
    run, notes = train(model, x, y, momentum_sgd(model), loss=F.cross_entropy, steps=5, size=4, together=True)
    d = untouched(model, lambda: ks.decompose(run, x[:2]))
    truth = assert_the_explicit_shares(d, notes, x[:2])
    assert truth.moved <= 1e-12
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()
    assert d.info["engine"]["training"] == "batch"


def test_a_transformer_with_dropout_is_read_under_its_masks():
    model = Transformer(dropout=0.2).double()
    x, y = tokens(), targets()
    run, notes = train(model, x, y, torch.optim.AdamW(model.parameters(), lr=0.02), loss=F.cross_entropy, steps=4,
                       size=4, together=True)
    d = untouched(model, lambda: ks.decompose(run, x[:2]))
    truth = assert_the_explicit_shares(d, notes, x[:2])
    assert truth.moved <= 1e-12
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()


def test_dropout_replayed_between_stored_steps_is_that_of_the_run():
    def once(keep):
        torch.manual_seed(2)
        model = nn.Sequential(nn.Linear(3, 6), nn.Dropout(0.4), nn.Linear(6, 2)).double()
        return train(model, vectors(), targets(), momentum_sgd(model), loss=F.cross_entropy, steps=7, keep=keep,
                     diary=False)[0]

    for a, b in zip(once("all").trajectory(0, 7), once(3).trajectory(0, 7), strict=True):
        assert torch.equal(a, b)


# -- parametrisations -------------------------------------------------------------------------------------------------


def test_spectral_norm_keeps_its_singular_vectors_as_buffers():
    model = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4)), nn.Tanh(), nn.Linear(4, 2)).double()
    run, notes = train(model, *points(), momentum_sgd(model), steps=5)
    d = untouched(model, lambda: ks.decompose(run, queries()))
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()
    assert float(d.channels["buffers"].abs().max()) > 0
    assert torch.allclose(d.final, model.eval()(queries()).detach(), rtol=1e-10)


# -- what recording and reading leave as they found it ----------------------------------------------------------------


@pytest.mark.parametrize("make", [normalised, lambda: Recurrent(nn.GRU).double()], ids=["normalised", "GRU"])
def test_training_is_the_same_with_and_without_recording(make):
    x, y = points() if make is normalised else (tokens(), targets())
    loss = F.mse_loss if make is normalised else F.cross_entropy

    def loop(model):
        optimizer = momentum_sgd(model)
        for _ in range(4):
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()

    plain = make()
    recorded = copy.deepcopy(plain)
    torch.manual_seed(3)
    loop(plain)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    with ks.record(recorded, (x, y), loss=loss) as recording:
        loop(recorded)
    assert len(recording.run) == 4
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(plain.state_dict().values(), recorded.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in recorded.modules())


def test_reading_leaves_train_and_eval_mode_as_they_were():
    model = normalised()
    run, _ = train(model, *points(), momentum_sgd(model), steps=3, together=True)
    for mode in (True, False):
        model.train(mode)
        model[1].training = not mode
        untouched(model, lambda: ks.decompose(run, queries(), output="margin"))


def test_embeddings_that_share_a_table_with_the_last_layer():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.last = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
            self.last.weight = self.embed.weight

        def forward(self, t):
            return self.last(torch.tanh(self.embed(t).mean(1)))

    model = Tied().double()
    x, y = tokens(), tokens()[:, 0]
    run, notes = train(model, x, y, torch.optim.Adam(model.parameters(), lr=0.02), loss=F.cross_entropy, steps=5)
    d = ks.decompose(run, x[:2])
    assert_the_explicit_shares(d, notes, x[:2])
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()


def test_a_part_that_no_output_reaches_moves_by_decay_alone():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.spare = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return self.used(x)

    model = Spare().double()
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizers = [torch.optim.SGD(model.used.parameters(), lr=0.1),
                  torch.optim.SGD(model.spare.parameters(), lr=0.1, weight_decay=0.1)]
    x, y = points()
    with ks.record(model, (x, y), loss=F.mse_loss) as recording:
        for _ in range(3):
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=False)
            F.mse_loss(model(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
    d = ks.decompose(recording.run, queries())
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()
    assert not d.channels["decay"].any()


# -- what the first batch does not show --------------------------------------------------------------------------------


def loop(model, optimizers, x, y, passes, loss=F.mse_loss):
    """A recorded loop with a diary; ``passes`` are ids, or pairs of ids and something to do before the pass."""
    notes = Diary(model, x, y, loss)
    with ks.record(model, (x, y), loss=loss) as recording:
        for ids, prepare in passes:
            if prepare is not None:
                prepare(model)
            notes.forward(ids, 1 / len(ids), together=True)
            recording.batch(ids)
            model.zero_grad()
            loss(model(x[ids]), y[ids]).backward()
            for optimizer in optimizers:
                notes.step(optimizer, keep_passes=optimizer is not optimizers[-1])
                optimizer.step()
    notes.close()
    return recording.run, notes


def assert_read_right(model, run, notes, x):
    d = untouched(model, lambda: ks.decompose(run, x))
    assert_the_explicit_shares(d, notes, x)
    assert complete(d) <= 1e-12
    assert not d.channels["unattributed"].any()
    return d


@pytest.mark.parametrize("make", [
    normalised, lambda: nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 2)).double(),
], ids=["batch normalisation", "dropout"])
def test_a_network_may_be_put_in_train_mode_later(make):
    model = make().eval()
    passes = [([0, 1, 2, 3], None), ([4, 5, 6], None), ([1, 3, 5, 7], nn.Module.train), ([0, 2, 4], None)]
    run, notes = loop(model, [momentum_sgd(model)], *points(), passes)
    assert_read_right(model, run, notes, queries())


@pytest.mark.parametrize("closed", [None, 4])
def test_a_branch_that_is_nought_at_one_end_counts_in_between(closed):
    class Gated(nn.Module):
        """A tied weight is used by hand behind a gate that begins closed, as in residual blocks and adapters."""

        def __init__(self):
            super().__init__()
            self.first, self.second, self.gate = nn.Linear(3, 3), nn.Linear(3, 2), nn.Linear(3, 2)
            nn.init.zeros_(self.gate.weight)
            nn.init.zeros_(self.gate.bias)

        def forward(self, x):
            h = torch.tanh(self.first(x))
            return self.second(h) + self.gate(torch.tanh(F.linear(h, self.first.weight)))

    def close(model):
        with torch.no_grad():
            for p in model.gate.parameters():
                p.zero_()

    model = Gated().double()
    passes = [(ids, close if k == closed else None) for k, ids in enumerate(batches(5, 4))]
    run, notes = loop(model, [momentum_sgd(model)], *points(), passes)
    d = ks.decompose(run, queries())
    truth = assert_the_explicit_shares(d, notes, queries())
    assert complete(d) <= 1e-12
    assert float((d.channels["unattributed"] - truth.unexplained).abs().max()) <= 1e-12
    assert bool(d.channels["unattributed"].any()) == (closed is not None)


@pytest.mark.parametrize("cuts", [([0], [1, 2, 3], [4, 5], [6, 7]), ([1, 2, 3], [4, 5], [6, 7], [0])],
                         ids=["first", "last"])
def test_a_batch_of_one_does_not_hide_that_samples_meet(cuts):
    class Centered(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = torch.tanh(self.first(x))
            return self.last(h - 0.5 * h.mean(0) if self.training else h)

    model = Centered().double()
    run, notes = loop(model, [momentum_sgd(model)], *points(), [(ids, None) for ids in cuts])
    assert_read_right(model, run, notes, queries())


def test_the_second_optimizer_may_move_layers_of_another_kind():
    model = nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2)).double()
    optimizers = [torch.optim.SGD([*model[0].parameters(), *model[2].parameters()], lr=0.1, momentum=0.9),
                  torch.optim.Adam(model[1].parameters(), lr=0.05)]
    run, notes = loop(model, optimizers, *points(), [(ids, None) for ids in batches(4, 3)])
    assert_read_right(model, run, notes, queries())


def test_parts_that_are_unfrozen_later_may_be_of_another_kind():
    model = nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2)).double()
    x, y = points()
    optimizer = momentum_sgd(model)

    def forget(k):
        if k < 2:
            model[1].weight.grad = None

    run, notes = train(model, x, y, optimizer, before_step=forget, steps=5)
    assert_read_right(model, run, notes, queries())


def test_layers_that_are_used_twice_or_in_place_or_not_at_all():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.last, self.never = nn.Linear(3, 3), nn.Linear(3, 2), nn.Linear(3, 3)
            self.conv, self.act = nn.Conv1d(1, 2, 3, padding="same", dilation=2), nn.ReLU(inplace=True)

        def forward(self, x):
            h = self.act(self.twice(torch.tanh(self.twice(x))))
            return self.last(self.act(self.conv(h.unsqueeze(1))).mean(1))

    model = Odd().double()
    run, notes = train(model, *points(), momentum_sgd(model), steps=5)
    d = assert_read_right(model, run, notes, queries())
    assert d.info["engine"]["training"] == "layers"


@pytest.mark.parametrize("memory", [4000, 20_000, 10**8])
@pytest.mark.parametrize("name", ["MLP", "GRU", "batch normalisation", "LayerNorm"])
def test_blocks_of_any_size_give_the_same_ledger(name, memory):
    make, inputs = (normalised, vectors) if name == "batch normalisation" else MODULES[name]
    model = make().double()
    x = inputs()
    run, _ = train(model, x, targets(), momentum_sgd(model), loss=F.cross_entropy, steps=5, diary=False)
    whole, some = ks.decompose(run, x[:5]), ks.decompose(run, x[:5], memory=memory)
    assert relative(some.contributions, whole.contributions) <= 1e-12
    assert relative(some.path, whole.path) <= 1e-12
    assert complete(some) <= 1e-12
    for q in range(5):
        alone = ks.decompose(run, x[q:q + 1])
        assert relative(alone.contributions[0], whole.contributions[q]) <= 1e-11
        assert relative(alone.path[0], whole.path[q]) <= 1e-12


def test_queries_that_go_back_in_turn_have_the_same_ledger_and_take_less_memory(monkeypatch):
    model, x = MODULES["MLP"][0]().double(), vectors()
    run, _ = train(model, x, targets(), momentum_sgd(model), loss=F.cross_entropy, steps=5, diary=False)
    whole = ks.decompose(run, x[:5])
    monkeypatch.setattr("kernelscope.decomposition.exact.ROWS", 1)
    some = ks.decompose(run, x[:5])
    assert some.info["bytes"] < whole.info["bytes"]
    assert relative(some.contributions, whole.contributions) <= 1e-12
    assert relative(some.path, whole.path) <= 1e-12
    assert complete(some) <= 1e-12


def meeting():
    class Centered(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            h = torch.tanh(self.first(x))
            return self.last(h - 0.5 * h.mean(0))

    return Centered()


@pytest.mark.parametrize("make", [
    lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)), meeting,
], ids=["batch normalisation", "by hand"])
def test_a_query_that_does_not_stand_for_itself_is_refused(make):
    model = make().double()
    run, _ = train(model, *points(), momentum_sgd(model), steps=3, size=4, diary=False)
    with pytest.raises(ks.errors.ModelError, match="by itself"):
        ks.decompose(run, queries())


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-8), (torch.float32, 0.5)])
def test_a_bias_whose_gradient_is_round_off_moves_by_rounding_alone(dtype, rounding):
    """Batch normalisation takes a bias before it out again; Adam makes whole steps of what round-off leaves."""
    x, y = points(dtype=dtype)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)
    run, _ = train(model, x, y, torch.optim.AdamW(model.parameters(), lr=1e-2), size=6, diary=False)
    ledger = ks.decompose(run, queries(dtype=dtype))
    assert complete(ledger) < 1e-13
    assert share_of(ledger, "unattributed") == 0
    assert share_of(ledger, "rounding") < rounding
