"""The networks whose tangent kernels are measured, and points for them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: What the input of one point looks like.
SHAPES = {"mlp": (64,), "cnn": (1, 8, 8), "transformer": (8, 8), "resnet": (3, 32, 32)}


def network(kind: str, outputs: int = 10) -> nn.Module:
    """The MLP (85 k parameters), CNN (10 k), transformer (68 k) or ResNet-18 (11 M), at its first weights."""
    torch.manual_seed(0)
    if kind == "mlp":
        return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, outputs))
    if kind == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(512, outputs))
    return Transformer(outputs) if kind == "transformer" else ResNet(outputs)


def points(kind: str, count: int) -> Tensor:
    """Points, the same for the same count."""
    return torch.randn(count, *SHAPES[kind], generator=torch.Generator().manual_seed(1))


class Transformer(nn.Module):
    """An encoder of width 64 with two layers, for eight tokens."""

    def __init__(self, outputs: int):
        super().__init__()
        self.embed = nn.Linear(8, 64)
        self.blocks = nn.Sequential(Layer(64, 4, 128), Layer(64, 4, 128))
        self.norm = nn.LayerNorm(64)
        self.readout = nn.Linear(64, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The mean over tokens, read out."""
        return self.readout(self.norm(self.blocks(self.embed(x))).mean(1))


class Layer(nn.Module):
    """Attention, and two dense layers."""

    def __init__(self, width: int, heads: int, inner: int, causal: bool = False):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.contract = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """The stream with both added."""
        parts = self.attend(self.first_norm(x)).chunk(3, 2)
        q, k, v = (t.unflatten(2, (self.heads, -1)).transpose(1, 2) for t in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal).transpose(1, 2).flatten(2)
        x = x + self.project(mixed)
        return x + self.contract(F.gelu(self.expand(self.second_norm(x))))


class Block(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, inside: int, outside: int, stride: int):
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.first_norm = nn.GroupNorm(32, outside)
        self.second = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.second_norm = nn.GroupNorm(32, outside)
        self.shortcut = nn.Sequential() if inside == outside and stride == 1 else nn.Sequential(
            nn.Conv2d(inside, outside, 1, stride, bias=False), nn.GroupNorm(32, outside))

    def forward(self, x: Tensor) -> Tensor:
        """Their sum."""
        inner = self.second_norm(self.second(F.relu(self.first_norm(self.first(x)))))
        return F.relu(inner + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-18 for images of 32 by 32 pixels, with group normalisation."""

    def __init__(self, outputs: int):
        super().__init__()
        widths = (64, 64, 128, 256, 512)
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.GroupNorm(32, 64))
        self.blocks = nn.Sequential(*(
            Block(widths[stage] if second else widths[stage - (stage > 0)], widths[stage],
                  2 if stage > 1 and not second else 1)
            for stage in range(1, 5) for second in (False, True)))
        self.readout = nn.Linear(512, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """The mean over pixels, read out."""
        return self.readout(self.blocks(F.relu(self.stem(x))).mean((2, 3)))


class Decoder(nn.Module):
    """A language model of the size of GPT-2 small, or smaller, of plain layers."""

    def __init__(self, vocabulary: int = 50257, length: int = 1024, width: int = 768, depth: int = 12, heads: int = 12):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Layer(width, heads, 4 * width, causal=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.readout = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next token at each place."""
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        return self.readout(self.norm(self.blocks(x)))


def next_token(logits: Tensor, tokens: Tensor) -> Tensor:
    """The loss of each sequence: the mean over its places."""
    return F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none").mean(1)
