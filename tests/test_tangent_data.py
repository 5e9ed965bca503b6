"""Kernels of a language model that is called by name, on the batches of a tokenizer, from wherever they come."""

from collections import UserDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

import kernelscope as ks
from kernelscope.errors import ModelError

WORDS, WIDTH, CLASSES, N, LONGEST = 11, 6, 3, 9, 7


@dataclass
class Output:
    """What models of a hub give: several things by name, of which the logits are explained."""

    loss: torch.Tensor | None
    logits: torch.Tensor


class Classifier(nn.Module):
    """A small transformer that is called by name, masks its padding, and answers with an object."""

    def __init__(self, form):
        super().__init__()
        self.form = form
        self.embed = nn.Embedding(WORDS, WIDTH, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, dropout=0.3, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids=None, attention_mask=None, labels=None):
        hidden = self.layer(self.embed(input_ids), src_key_padding_mask=attention_mask == 0)
        weights = attention_mask.unsqueeze(-1).to(hidden)
        logits = self.head((hidden * weights).sum(1) / weights.sum(1))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return self.form(loss=loss, logits=logits)


@pytest.fixture
def model():
    return Classifier(Output).double()


def sentences():
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(2, LONGEST, (N,), generator=generator).tolist()
    lengths[4] = LONGEST
    return [torch.randint(1, WORDS, (length,), generator=generator) for length in lengths], torch.arange(N) % CLASSES


def padded(texts, labels):
    ids = nn.utils.rnn.pad_sequence(texts, batch_first=True)
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.as_tensor(labels)}


class Tokenized(Dataset):
    def __init__(self):
        self.texts, self.labels = sentences()

    def __len__(self):
        return N

    def __getitem__(self, i):
        return {"input_ids": self.texts[i], "labels": self.labels[i]}


def collator(samples):
    return UserDict(padded([s["input_ids"] for s in samples], [s["labels"] for s in samples]))


def gradients(model, batch, value):
    """The gradients of ``value(outputs)``, one number at a time: shape (n, c, p)."""
    model = model.eval()
    rows = []
    for i in range(N):
        outputs = model(batch["input_ids"][[i]], attention_mask=batch["attention_mask"][[i]])
        each = value(outputs.logits, batch["labels"][[i]]).flatten()
        rows.append(torch.stack([torch.cat([g.flatten() for g in torch.autograd.grad(
            v, list(model.parameters()), retain_graph=True)]) for v in each]))
    return torch.stack(rows)


SOURCES = {
    "dictionary": lambda _: padded(*sentences()),
    "batch of a tokenizer": lambda _: UserDict(padded(*sentences())),
    "arrays": lambda _: {name: values.numpy() for name, values in padded(*sentences()).items()},
    "loader that pads": lambda _: DataLoader(Tokenized(), batch_size=4, collate_fn=collator),
    "files": lambda folder: {name: stored(folder / f"{name}.npy", values)
                             for name, values in padded(*sentences()).items()},
}


def stored(path, values):
    np.save(path, values.numpy())
    return path


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_the_kernel_is_that_of_the_logits(model, source, tmp_path):
    J = gradients(model, padded(*sentences()), lambda logits, _: logits)
    model.train()
    x = source(tmp_path)
    truth = torch.einsum("icp,jdp->icjd", J, J)
    assert torch.allclose(ks.kernels.Tangent(model, outputs="full")(x), truth, rtol=0, atol=1e-10)
    k = ks.kernels.Tangent(model)
    assert torch.allclose(k(x), truth.diagonal(dim1=1, dim2=3).sum(-1), rtol=0, atol=1e-10)
    v = torch.randn(N, 2, dtype=torch.float64)
    assert torch.allclose(ks.KernelOperator(k, x) @ v, truth.diagonal(dim1=1, dim2=3).sum(-1) @ v, rtol=0, atol=1e-10)
    assert model.training


@pytest.mark.parametrize("form", [dict, UserDict])
def test_an_answer_may_be_a_mapping(form, model):
    x = padded(*sentences())
    other = Classifier(form).double()
    other.load_state_dict(model.state_dict())
    assert torch.equal(ks.kernels.Tangent(other)(x), ks.kernels.Tangent(model)(x))


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES.keys())
def test_the_kernel_of_losses_takes_the_labels(model, source, tmp_path):
    J = gradients(model, padded(*sentences()), lambda logits, y: F.cross_entropy(logits, y, reduction="none"))[:, 0]
    k = ks.kernels.Tangent(model, loss=F.cross_entropy)
    assert torch.allclose(k(source(tmp_path)), J @ J.T, rtol=0, atol=1e-10)
    assert torch.allclose(k.diagonal(source(tmp_path)), (J @ J.T).diagonal(), rtol=0, atol=1e-10)


def test_parts_that_are_padded_to_different_lengths_fit_together(model):
    J = gradients(model, padded(*sentences()), lambda logits, _: logits).flatten(1)
    x = DataLoader(Tokenized(), batch_size=4, collate_fn=collator)
    for memory in ("200KB", "60KB", "45KB"):
        k = ks.kernels.Tangent(model, memory=memory)
        K = ks.KernelOperator(k, x)
        assert torch.allclose(K.dense(), J @ J.T, rtol=0, atol=1e-10)
        v = torch.randn(N, dtype=torch.float64)
        assert torch.allclose(K @ v, J @ J.T @ v, rtol=0, atol=1e-10)
        assert torch.allclose(K[[7, 1, 4], 2:5].dense(), (J @ J.T)[[7, 1, 4], 2:5], rtol=0, atol=1e-10)
        assert torch.allclose(K.diagonal(), (J @ J.T).diagonal(), rtol=0, atol=1e-10)


def test_every_token_of_a_language_model_is_an_output():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Embedding(WORDS, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WORDS)).double()
    ids = torch.randint(WORDS, (4, 5))
    each = lambda logits, y: F.cross_entropy(logits.transpose(1, 2), y, reduction="none").mean(1)
    losses = each(model(ids), ids)
    J = torch.stack([torch.cat([g.flatten() for g in torch.autograd.grad(
        loss, list(model.parameters()), retain_graph=True)]) for loss in losses])
    assert torch.allclose(ks.kernels.Tangent(model, loss=each)((ids, ids)), J @ J.T, rtol=0, atol=1e-10)
    assert ks.kernels.Tangent(model, outputs="full")(ids[:2]).shape == (2, 5 * WORDS, 2, 5 * WORDS)


@pytest.mark.parametrize("form", [Output, dict])
@pytest.mark.parametrize("loss", [lambda o, y: F.cross_entropy(o["logits"], y, reduction="none"),
                                  lambda o, y: F.cross_entropy(o.logits, y, reduction="none")])
def test_a_loss_of_whole_answers_is_told_that_it_is_given_the_logits(form, loss):
    x = padded(*sentences())
    with pytest.raises(ModelError, match=r"answers with a (Output|dict).*given the logits.*\(2, 3\).*lambda logits"):
        ks.gradient_scores(Classifier(form), x, loss=loss)


def test_labels_beside_a_dictionary_are_those_within_it(model):
    x = padded(*sentences())
    labels = x.pop("labels")
    within, beside = ({**x, "labels": labels}, (x, labels))
    k = ks.kernels.Tangent(model, loss=F.cross_entropy)
    assert torch.equal(k(beside), k(within))
    scores = ks.gradient_scores(model, beside, loss=F.cross_entropy)
    assert torch.equal(scores.labels, labels)
