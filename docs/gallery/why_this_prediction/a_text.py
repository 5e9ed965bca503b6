"""A letter of a text, explained by letters of other texts
==========================================================

A small transformer reads English, the reference of the Python language, and says the next letter. Each letter that it
was trained to say has a share in the one that it says now.
"""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import kernelscope as ks

LENGTH = 20
text = ks.data.text(count=256, length=LENGTH)


class Reader(nn.Module):
    def __init__(self, kinds, width=24):
        super().__init__()
        self.letters, self.places = nn.Embedding(kinds, width), nn.Embedding(LENGTH, width)
        self.block = nn.TransformerEncoderLayer(width, 2, 48, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(width, kinds)
        self.register_buffer("later", torch.full((LENGTH, LENGTH), -1e9).triu(1))

    def forward(self, x):
        h = self.letters(x) + self.places.weight
        return self.head(self.block(h, src_mask=self.later)).transpose(1, 2)


torch.manual_seed(0)
model = Reader(len(text.characters))
loader = torch.utils.data.DataLoader(text, batch_size=32, shuffle=True)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
with ks.record(model, loader, loss=cross_entropy) as recording:
    for _ in range(4):
        for x, y in loader:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()

query = text.encode("the names of modules in th")[None, -LENGTH:]
why = ks.token_contributions(recording.run, query, vocabulary=text.characters)
assert why.check().ok
why.plot(k=8)
