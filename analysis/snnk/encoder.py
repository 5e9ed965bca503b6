"""A small transformer that reads passages, and how it learns words from the words around them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .text import FIRST, MASK, PADDING

#: The share of words that are hidden and have to be found.
HIDDEN = 0.15


class Attention(nn.Module):
    """Each word looks at the others of its passage."""

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(d, d) for _ in range(4))

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for layer in (self.query, self.key, self.value))
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=there[:, None, None])
        return self.output(found.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a layer of hidden neurons, each added to what it reads; adapters come after each."""

    def __init__(self, d: int, heads: int, hidden: int):
        super().__init__()
        self.before, self.attention = nn.LayerNorm(d), Attention(d, heads)
        self.between, self.mlp = nn.LayerNorm(d), nn.Sequential(nn.Linear(d, hidden), nn.GELU(), nn.Linear(hidden, d))

    def forward(self, x: Tensor, there: Tensor) -> Tensor:
        x = x + self.attention(self.before(x), there)
        return x + self.mlp(self.between(x))


class Encoder(nn.Module):
    """Passages to vectors, one for each word."""

    def __init__(self, words: int, length: int, d: int, layers: int, heads: int, hidden: int):
        super().__init__()
        self.words, self.places = nn.Embedding(words, d, padding_idx=PADDING), nn.Embedding(length, d)
        self.blocks = nn.ModuleList(Block(d, heads, hidden) for _ in range(layers))
        self.after = nn.LayerNorm(d)
        for table in (self.words, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, passages: Tensor) -> Tensor:
        there = passages != PADDING
        x = self.words(passages) + self.places.weight[:passages.shape[1]]
        for block in self.blocks:
            x = block(x, there)
        return self.after(x)


class Classifier(nn.Module):
    """An encoder and a linear head on the mean over the words of a passage."""

    def __init__(self, encoder: Encoder, classes: int):
        super().__init__()
        self.encoder, self.head = encoder, nn.Linear(encoder.places.embedding_dim, classes)

    def forward(self, passages: Tensor) -> Tensor:
        there = (passages != PADDING).to(self.head.weight.dtype)[..., None]
        return self.head((self.encoder(passages) * there).sum(1) / there.sum(1))


def pretrained(encoder: Encoder, passages: Tensor, steps: int, batch: int, rate: float, seed: int) -> float:
    """Lets an encoder find hidden words; the loss over the last tenth of all steps, in nats a word."""
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    losses = []
    for _ in range(steps):
        x = passages[torch.randint(0, len(passages), (batch,), generator=draw)]
        hidden = (torch.rand(x.shape, generator=draw) < HIDDEN) & (x >= FIRST)
        found = encoder(x.masked_fill(hidden, MASK))[hidden] @ encoder.words.weight.T
        loss = F.cross_entropy(found, x[hidden])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    last = losses[-max(1, steps // 10):]
    return sum(last) / len(last)
