"""Small networks of every kind that tangent kernels are held to, each with inputs it takes."""

import torch
import torch.nn.functional as F
from torch import nn

from tests.oracles import generator

normed = nn.utils.parametrizations


class Residual(nn.Module):
    """Two blocks of a residual network, with strides, an identity in place and a projection."""

    def __init__(self, norm):
        super().__init__()
        self.stem, self.norm1 = nn.Conv2d(2, 4, 3, padding=1, bias=False), norm(4)
        self.one, self.norm2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), norm(4)
        self.two, self.norm3 = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False), norm(6)
        self.shortcut, self.head = nn.Conv2d(4, 6, 1, stride=2, bias=False), nn.Linear(6, 3)
        for norm in (self.norm1, self.norm2, self.norm3):
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.uniform_(-0.5, 0.5)
                norm.running_var.uniform_(0.5, 2.0)

    def forward(self, x):
        h = F.relu(self.norm1(self.stem(x)), inplace=True)
        h = h + self.norm2(self.one(h)).relu_()
        h = F.relu(self.norm3(self.two(h)) + self.shortcut(h))
        return self.head(h.mean((2, 3)))


class Transformer(nn.Module):
    """A layer of attention with positions; with a causal mask, or positions first, on request."""

    def __init__(self, mask=False, batch_first=True, norm_first=False):
        super().__init__()
        self.embed, self.position = nn.Embedding(7, 4), nn.Parameter(0.5 * torch.randn(5, 4))
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.1, batch_first=batch_first, norm_first=norm_first)
        self.head = nn.Linear(4, 3)
        self.mask, self.batch_first = mask, batch_first

    def forward(self, tokens):
        h = self.embed(tokens) + self.position
        h = h if self.batch_first else h.transpose(0, 1)
        mask = nn.Transformer.generate_square_subsequent_mask(5).to(h) if self.mask else None
        h = self.layer(h, src_mask=mask)
        return self.head(h[:, -1] if self.batch_first else h[-1])


class Cross(nn.Module):
    """Learned queries that are the same for all samples, attending to each sample's keys."""

    def __init__(self):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 2, 4))
        self.attend, self.head = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.attend(self.queries.expand(len(x), -1, -1), x, x.tanh())[0].mean(1))


class Causal(nn.Module):
    """Attention by its fused function, one projection for queries, keys and values, RMS normalisation."""

    def __init__(self):
        super().__init__()
        self.embed, self.norm = nn.Embedding(7, 4), nn.RMSNorm(4)
        self.qkv, self.out, self.head = nn.Linear(4, 12, bias=False), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, tokens):
        h = self.embed(tokens)
        q, k, v = self.qkv(self.norm(h)).view(*tokens.shape, 3, 2, 2).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        return self.head(h + self.out(a))[:, -1]


class Tied(nn.Module):
    """An embedding that is the readout too, and positions that are the same for all samples."""

    def __init__(self, transposed=False):
        super().__init__()
        self.embed, self.position = nn.Embedding(7, 4), nn.Embedding(5, 4)
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.transposed = transposed

    def forward(self, tokens):
        h = self.embed(tokens) + self.position(torch.arange(5))
        h = torch.tanh(self.inner(h))[:, -1]
        return h @ self.embed.weight.T if self.transposed else self.head(h)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.embed, self.cells, self.head = nn.Embedding(7, 3), kind(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, tokens):
        return self.head(self.cells(self.embed(tokens))[0][:, -1])


class Twice(nn.Module):
    """One module used twice, and a scale of its own."""

    def __init__(self):
        super().__init__()
        self.inner, self.head, self.scale = nn.Linear(4, 4), nn.Linear(4, 3), nn.Parameter(torch.randn(4))

    def forward(self, x):
        return self.head(torch.tanh(self.inner(torch.tanh(self.inner(x)))) * self.scale)


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, x, z):
        return self.head(torch.tanh(self.left(x) + self.right(z)))


def vectors(n, width=4, dtype=torch.float64):
    return torch.randn(n, width, generator=generator(n), dtype=dtype)


def images(n, channels=2, side=6, dtype=torch.float64):
    return torch.randn(n, channels, side, side, generator=generator(n), dtype=dtype)


def sequences(n, dtype=torch.float64):
    return torch.randn(n, 5, 4, generator=generator(n), dtype=dtype)


def tokens(n, dtype=torch.float64):
    return torch.randint(0, 7, (n, 5), generator=generator(n))


def pairs(n, dtype=torch.float64):
    return vectors(n, 3, dtype), vectors(n + 100, 2, dtype)[:n]


def volumes(n, dtype=torch.float64):
    return torch.randn(n, 1, 3, 4, 4, generator=generator(n), dtype=dtype)


def convolutional():
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2),
                         nn.Conv2d(4, 6, 2, stride=2, padding=(0, 1), dilation=(1, 2), groups=2), nn.Tanh(),
                         nn.Flatten(), nn.Linear(12, 3))


#: Each network and the inputs it takes, by name.
NETWORKS = {
    "a perceptron": (lambda: nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)), vectors),
    "convolutions with stride, padding, dilation and groups": (convolutional, images),
    "circular convolution along one axis": (lambda: nn.Sequential(
        nn.Conv1d(5, 4, 3, padding="same", padding_mode="circular"), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3)),
        sequences),
    "transposed convolution along one axis": (lambda: nn.Sequential(
        nn.ConvTranspose1d(5, 4, 3, stride=2, output_padding=1, groups=1), nn.Tanh(), nn.Flatten(), nn.Linear(40, 2)),
        sequences),
    "transposed convolution": (lambda: nn.Sequential(
        nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2), nn.Tanh(),
        nn.Conv2d(4, 2, 3, stride=4), nn.Flatten(), nn.Linear(18, 2)), images),
    "convolution of volumes": (lambda: nn.Sequential(
        nn.Conv3d(1, 3, 3, padding=(0, 1, 1)), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2)), volumes),
    "a residual network with GroupNorm": (lambda: Residual(lambda c: nn.GroupNorm(2, c)), images),
    "a residual network with BatchNorm": (lambda: Residual(nn.BatchNorm2d), images),
    "a residual network with InstanceNorm": (lambda: Residual(lambda c: nn.InstanceNorm2d(c, affine=True)), images),
    "a transformer": (Transformer, tokens),
    "a transformer with a mask": (lambda: Transformer(mask=True), tokens),
    "a transformer with positions first": (lambda: Transformer(batch_first=False, norm_first=True), tokens),
    "attention of learned queries": (Cross, sequences),
    "fused causal attention": (Causal, tokens),
    "an embedding tied to its readout": (Tied, tokens),
    "an embedding tied to its readout by transposition": (lambda: Tied(transposed=True), tokens),
    "a GRU": (lambda: Recurrent(nn.GRU), tokens),
    "an LSTM": (lambda: Recurrent(nn.LSTM), tokens),
    "weight normalisation": (lambda: nn.Sequential(
        normed.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)), vectors),
    "spectral normalisation": (lambda: nn.Sequential(
        normed.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)), vectors),
    "a module used twice": (Twice, vectors),
    "normalisations and a learned slope": (lambda: nn.Sequential(
        nn.Linear(4, 6), nn.LayerNorm(6), nn.PReLU(6), nn.BatchNorm1d(6), nn.Linear(6, 3)), vectors),
    "two inputs": (TwoInputs, pairs),
}


def make(name, seed=0, dtype=torch.float64):
    """A network by its name, in float64, in train mode as it is made."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return NETWORKS[name][0]().to(dtype)


def inputs(name, n, dtype=torch.float64):
    """``n`` inputs of the network by its name."""
    return NETWORKS[name][1](n, dtype=dtype)
