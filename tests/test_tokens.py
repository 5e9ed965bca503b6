"""Contributions of tokens: what they add up to, and each beside a loop over steps, texts and tokens."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kernelscope as ks
from kernelscope.errors import DataError, OutOfBudget

KINDS, LENGTH = 5, 4


class Tiny(nn.Module):
    """One head of causal attention between an embedding and a head."""

    def __init__(self, width=3):
        super().__init__()
        self.tokens, self.places = nn.Embedding(KINDS, width), nn.Embedding(LENGTH, width)
        self.qkv, self.head = nn.Linear(width, 3 * width), nn.Linear(width, KINDS)

    def forward(self, x):
        h = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        q, k, v = self.qkv(h).chunk(3, -1)
        h = h + F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.head(h).transpose(1, 2)


def texts(n=6, seed=0):
    draw = torch.Generator().manual_seed(seed)
    row = torch.randint(KINDS, (n, LENGTH + 1), generator=draw)
    return row[:, :-1], row[:, 1:]


def trained(optimizer, steps=4, batch=2, loss=F.cross_entropy, **options):
    torch.manual_seed(1)
    model, (x, y) = Tiny().double(), texts()
    made, states, seen = optimizer(model.parameters()), [], []
    order = [torch.randperm(len(x))[:batch] for _ in range(steps)]
    with ks.record(model, (x, y), loss=loss, **options) as recording:
        for ids in order:
            states.append(copy.deepcopy(model))
            seen.append(ids)
            recording.batch(ids)
            made.zero_grad()
            value = loss(model(x[ids]), y[ids])
            (value if value.ndim == 0 else value.mean()).backward()
            made.step()
    states.append(copy.deepcopy(model))
    return recording.run, states, seen


def gradient(model, value):
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])


def flat(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def at(model, vector):
    other = copy.deepcopy(model)
    torch.nn.utils.vector_to_parameters(vector, other.parameters())
    return other


def said(model, x, y, place):
    return F.log_softmax(model(x), 1)[0, y, place]


@pytest.mark.parametrize("mu", [0.0, 0.9])
def test_each_token_has_what_a_loop_over_steps_texts_and_tokens_gives(mu):
    lr = 0.3
    run, states, seen = trained(lambda p: torch.optim.SGD(p, lr=lr, momentum=mu))
    query, place = texts(1, seed=7)[0], 2
    y = int(states[-1](query)[0, :, place].argmax())
    found = ks.token_contributions(run, query, places=place)
    assert found.said.tolist() == [[y]]

    x, answers = texts()
    table = torch.zeros(len(x), LENGTH, dtype=torch.float64)
    for k in range(len(seen)):
        step = flat(states[k + 1]) - flat(states[k])
        middle = at(states[k], flat(states[k]) + step / 2)
        p = gradient(middle, said(middle, query, y, place))
        change = (said(states[k + 1], query, y, place) - said(states[k], query, y, place)).item()
        p = p + (change - p @ step) / (step @ step) * step
        for s in range(k + 1):
            for i in seen[s].tolist():
                for t in range(LENGTH):
                    token = F.cross_entropy(states[s](x[i:i + 1])[:, :, t], answers[i:i + 1, t])
                    weight = lr * mu ** (k - s) / len(seen[s]) / LENGTH
                    table[i, t] -= weight * float(p @ gradient(states[s], token))
    assert torch.allclose(found.contributions[0, 0], table, rtol=0, atol=1e-12 * float(table.abs().sum()))


@pytest.mark.parametrize("optimizer", [
    lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
    lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9, nesterov=True, weight_decay=0.01),
], ids=["AdamW", "Nesterov"])
def test_tokens_add_up_to_the_shares_of_texts_and_these_to_the_answer(optimizer):
    run, _, _ = trained(optimizer, steps=6)
    query = texts(3, seed=5)[0]
    found = ks.token_contributions(run, query, places=[0, -1])
    assert found.contributions.shape == (3, 2, 6, LENGTH)
    assert found.check().ok
    whole = ks.decompose(run, query, targets=found.said,
                         output=lambda o, y: torch.stack([F.log_softmax(o, 1)[..., place].gather(1, y[:, i:i + 1])[:, 0]
                                                          for i, place in enumerate((0, LENGTH - 1))], 1))
    scale = whole.magnitude.max()
    assert torch.allclose(found.contributions.sum(-1), whole.contributions, rtol=0, atol=1e-13 * float(scale))
    assert torch.allclose(found.ledger.final, whole.final)
    assert float((found.by_place().sum(-1) - found.ledger.channels["data"]).abs().max()) < 1e-13 * float(scale)


def test_ignored_tokens_have_no_share():
    torch.manual_seed(0)
    model, (x, y) = Tiny().double(), texts()
    y = y.clone()
    y[:, 0] = -100
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets, reduction="none")

    with ks.record(model, (x, y), loss=loss) as recording:
        for _ in range(3):
            optimizer.zero_grad()
            loss(model(x), y).mean().backward()
            optimizer.step()
    found = ks.token_contributions(recording.run, x[:1], targets=y[:1])
    assert found.contributions[..., 0].abs().max() == 0
    assert found.contributions[..., 1:].abs().max() > 0
    assert found.check().ok


@pytest.mark.parametrize(("loss", "ignored"), [(F.cross_entropy, -100), (nn.CrossEntropyLoss(ignore_index=4), 4)])
def test_an_ignored_token_is_nothing_to_explain(loss, ignored):
    run, *_ = trained(lambda p: torch.optim.SGD(p, lr=0.1), loss=loss)
    x, y = texts(2, 7)
    y = y.clamp(max=3)
    y[1, 2] = ignored
    with pytest.raises(DataError, match=f"query 1 at place 2 is {ignored}, which the loss ignores"):
        ks.token_contributions(run, x, targets=y, places=[0, 2])
    assert ks.token_contributions(run, x, targets=y, places=[0, 1]).check().ok


def test_what_is_shown_are_the_tokens():
    run, _, _ = trained(lambda p: torch.optim.SGD(p, lr=0.3))
    found = ks.token_contributions(run, texts(1, 7)[0], vocabulary="abcde")
    best = found.top(1).iloc[0]
    place = found.contributions[0, 0].abs().argmax()
    i, t = divmod(int(place), LENGTH)
    assert best["sample"] == i
    assert best.place == t
    assert best.token == "abcde"[texts()[1][i, t]]
    assert best.before == "".join("abcde"[c] for c in texts()[0][i, :t + 1])
    assert best.token in repr(found)
    assert repr(found).startswith("Training changed the log-probability")
    kinds = found.by_token()
    assert kinds.times.sum() == int((found.answers >= 0).sum())
    assert float(kinds.contribution.sum()) == pytest.approx(
        float(found.contributions.sum()))
    assert len(found.to_frame()) == 6
    ax = found.plot()
    assert f"{best.token!r} in text {i} did most" in ax.get_title(loc="left")


def test_a_saved_one_is_the_same(tmp_path):
    run, _, _ = trained(lambda p: torch.optim.SGD(p, lr=0.3))
    found = ks.token_contributions(run, texts(1, 7)[0])
    again = ks.TokenContributions.load(found.save(tmp_path / "tokens"))
    assert torch.equal(again.contributions, found.contributions)
    assert repr(again) == repr(found)


def test_what_does_not_fit_is_refused():
    run, _, _ = trained(lambda p: torch.optim.SGD(p, lr=0.3))
    query = texts(1, 7)[0]
    with pytest.raises(DataError, match="places"):
        ks.token_contributions(run, query, places=[])
    with pytest.raises(DataError, match="4 places"):
        ks.token_contributions(run, query, places=9)
    with pytest.raises(DataError, match="vocabulary"):
        ks.token_contributions(run, query, vocabulary=[1, 2])
    with pytest.raises(DataError, match=r"\(q, T\)"):
        ks.token_contributions(run, query, targets=torch.tensor([1]))
    with pytest.raises(DataError, match="no text"):
        ks.token_contributions(run, query[:0])
    with pytest.raises(OutOfBudget, match="memory"):
        ks.token_contributions(run, query, memory=100)
    model, x = nn.Linear(2, 1), torch.randn(4, 2)
    with ks.record(model, (x, x[:, :1]), loss=F.mse_loss) as recording:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        F.mse_loss(model(x), x[:, :1]).backward()
        optimizer.step()
    with pytest.raises(DataError, match="token for each place"):
        ks.token_contributions(recording.run, x[:1])


def test_windows_of_text_are_of_their_split():
    train, test = ks.data.text(count=64, length=20), ks.data.text("test", count=64, length=20)
    assert train.x.shape == test.y.shape == (64, 20)
    assert torch.equal(train.x[:, 1:], train.y[:, :-1])
    held = [" ".join(part.split()).lower() for part in ks.data.paragraphs()]
    own = [" ".join(train.decode(train.encode(part)).split()) for i, part in enumerate(held) if i % 5 == 4]
    lines = [train.decode(row) for row in test.x]
    assert all(any(line.strip() in part for part in own) for line in lines[:20])
    assert torch.equal(ks.data.text(count=64, length=20).x, train.x)
    with pytest.raises(DataError, match="characters"):
        ks.data.text(length=10**6)
