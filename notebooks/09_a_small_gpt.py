# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A small GPT, token by token
#
# A network of text says one token after the other. Each that it says can be split, to the last digit, over every token
# that it was *trained* to say: which words of which training texts made it say this one?
#
# The text is real English, the reference of the Python language, which comes with Python. The network is a transformer
# of two blocks that reads characters. It learns for half a minute, so it does not write well; the sums close all the
# same.

# %%
import torch
from torch import nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

import kernelscope as ks


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.before, self.after = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        n, t, width = x.shape
        q, k, v = self.qkv(self.before(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(n, t, width))
        return x + self.down(gelu(self.up(self.after(x))))


class GPT(nn.Module):
    def __init__(self, kinds, length, width=32, heads=2, depth=2):
        super().__init__()
        self.tokens, self.places = nn.Embedding(kinds, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*[Block(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, kinds)

    def forward(self, x):
        h = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        return self.head(self.norm(self.blocks(h))).transpose(1, 2)


text = ks.data.text(count=512, length=24)
print(repr(text.decode(text.x[3])), "->", repr(text.decode(text.y[3])))

# %%
torch.manual_seed(0)
model = GPT(len(text.characters), 24)
loader = torch.utils.data.DataLoader(text, batch_size=32, shuffle=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
with ks.record(model, loader, loss=cross_entropy) as recording:
    for _ in range(5):
        for x, y in loader:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
run = recording.run
with torch.no_grad():
    print(f"{run}; loss {cross_entropy(model(text.x), text.y):.2f}, at first {torch.tensor(len(text.characters)).log():.2f}")

# %% [markdown]
# ## Why this letter?
#
# After *whic* comes an *h*; after *in th* an *e*. The question is a text, and the answer is about the token that the
# network finds most likely after it (`targets=` asks about another one, `places=` about other places).

# %%
query = text.encode("the names of modules in th")[None, -24:]
why = ks.token_contributions(run, query, vocabulary=text.characters)
assert why.check().ok
assert float(why.ledger.residual.abs().max()) < 1e-10
why

# %% [markdown]
# The texts that moved it most, each letter in the colour of what having had to say it added. What stands *before* a
# letter matters: it is in these places that the network had to do the same.

# %%
why.plot(k=8)

# %%
why.top(8)

# %% [markdown]
# ## What cancels
#
# Every *e* of the training texts made an *e* more likely, wherever it stood, and every other letter less. These two
# nearly cancel, so no percentage of the sum is given; the order of the tokens is what can be read.

# %%
kinds = why.by_token()
print(f"the terms are {float(why.cancellation()[0, 0]):.0f} times as large as their sum")
said = text.characters[int(why.said)]
assert kinds.token[0] == said
assert kinds.contribution[1:].sum() < 0
kinds.head(3)

# %% [markdown]
# ## Whole texts
#
# The same split by text is an ordinary decomposition, which the tokens of a text add up to. All else works on a run of
# text as on any other: `ks.explain`, `ks.influence`, `ks.evolution`.

# %%
whole = why.ledger
assert (why.contributions.sum(-1) - whole.contributions).abs().max() < 1e-12 * whole.magnitude.max()
[text.decode(text.x[i]) for i in whole.top(3)["sample"]]
