"""A small transformer that reads passages from left to right, and how it learns to guess the next word."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .text import PADDING, next_words


class Attention(nn.Module):
    """Each word looks at those before it."""

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(d, d) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for layer in (self.query, self.key, self.value))
        found = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.output(found.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a layer of hidden neurons, each added to what it reads; adapters come after the latter."""

    def __init__(self, d: int, heads: int, hidden: int):
        super().__init__()
        self.before, self.attention = nn.LayerNorm(d), Attention(d, heads)
        self.between, self.mlp = nn.LayerNorm(d), nn.Sequential(nn.Linear(d, hidden), nn.GELU(), nn.Linear(hidden, d))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return x + self.mlp(self.between(x))


class Encoder(nn.Module):
    """Passages to vectors, one for each word."""

    def __init__(self, words: int, length: int, d: int, layers: int, heads: int, hidden: int):
        super().__init__()
        self.words, self.places = nn.Embedding(words, d, padding_idx=PADDING), nn.Embedding(length, d)
        self.blocks = nn.ModuleList(Block(d, heads, hidden) for _ in range(layers))
        self.after = nn.LayerNorm(d)
        for table in (self.words, self.places):
            nn.init.normal_(table.weight, std=d**-0.5)

    def forward(self, passages: Tensor) -> Tensor:
        x = self.words(passages) + self.places.weight[:passages.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.after(x)


class Classifier(nn.Module):
    """An encoder and a linear head on the mean over the words of a passage, standardised as it was at the start.

    Args:
        encoder: The encoder; it becomes a part of this.
        classes: The number of classes.
        passages: Those whose means are standardised.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, encoder: Encoder, classes: int, passages: Tensor):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.places.embedding_dim, classes)
        with torch.no_grad():
            means = torch.cat([self.means(x) for x in passages.split(512)])
        self.register_buffer("center", means.mean(0))
        self.register_buffer("scale", means.std(0))

    def means(self, passages: Tensor) -> Tensor:
        """The mean vectors over the words of passages."""
        there = (passages != PADDING).to(self.head.weight.dtype)[..., None]
        return (self.encoder(passages) * there).sum(1) / there.sum(1)

    def forward(self, passages: Tensor) -> Tensor:
        return self.head((self.means(passages) - self.center) / self.scale)


class NextWord(nn.Module):
    """An encoder that guesses the next word after each, by its products with the vectors of all words."""

    def __init__(self, encoder: Encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, passages: Tensor) -> Tensor:
        return self.encoder(passages) @ self.encoder.words.weight.T


def pretrained(encoder: Encoder, passages: Tensor, steps: int, batch: int, rate: float, seed: int) -> float:
    """Lets an encoder guess each next known word; the loss over the last tenth of all steps, in nats a word."""
    draw = torch.Generator().manual_seed(seed)
    model = NextWord(encoder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    losses = []
    for _ in range(steps):
        x, y = next_words(passages[torch.randint(0, len(passages), (batch,), generator=draw)])
        loss = mean_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    last = losses[-max(1, steps // 10):]
    return sum(last) / len(last)


def mean_loss(found: Tensor, y: Tensor) -> Tensor:
    """The cross-entropy of classes or words, over all that are asked for."""
    return F.cross_entropy(found.flatten(0, -2), y.flatten(), ignore_index=PADDING - 1)
