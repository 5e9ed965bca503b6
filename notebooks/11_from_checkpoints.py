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
# # From checkpoints alone
#
# Most trainings were not recorded; what is left of them is a folder of checkpoints. Between two checkpoints the change of
# an output is known exactly. How it splits over samples is known only in part: gradients are known at the two ends, and
# who was drawn when is not known at all. What that misses is **unattributed**, and it is printed.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import cross_entropy

import kernelscope as ks

train, test = ks.data.digits("train"), ks.data.digits("test")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 10))
loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)


def save(step):
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, f"net-{step}.pt")


save(0)
with ks.record(model, loader, loss=cross_entropy) as recording:      # to compare with: nobody else would have it
    step = 0
    for epoch in range(4):
        for x, y in loader:
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
            step += 1
            if step % 23 == 0:
                save(step)
sorted(path.name for path in Path().glob("net-*.pt"))

# %% [markdown]
# ## Open them
#
# The files are read as tensors and never unpickled. Steps and learning rate are in them.

# %%
run = ks.from_checkpoints("net-*.pt", model=model, data=train, loss=cross_entropy)
ledger = ks.decompose(run, test.x[:20])
assert ledger.completeness() < 1e-12
assert torch.allclose(ledger.final, ks.decompose(recording.run, test.x[:20]).final)
print(run)
ledger.gaps()

# %% [markdown]
# ## How much is missing
#
# The unattributed part as a share *of the absolute terms* flatters, since terms cancel. Beside what training changed it is far
# larger. `gaps` names the chords on which more checkpoints would help most.

# %%
of_terms, of_change = ledger.unattributed_share(), ledger.unattributed_of_change()
assert of_change > 5 * of_terms
print(f"unattributed: {of_terms:.1%} of the terms, {of_change:.0%} of the change")
figure, ax = plt.subplots(figsize=(8, 4), layout="constrained")
ks.decompose(run, test.x[:1], output=int(test.y[0])).plot(ax);

# %% [markdown]
# ## What can be trusted
#
# Single samples, and their order, are better than their sum: the errors of many small shares add up to the gap. Beside the
# recording, which knows the truth:

# %%
exact = ks.decompose(recording.run, test.x[:20]).contributions
error = float((ledger.contributions - exact).norm() / exact.norm())
ranks = float(torch.corrcoef(torch.stack([exact[0, 0].argsort().argsort(), ledger.contributions[0, 0].argsort().argsort()]).double())[0, 1])
assert error < of_change
assert ranks > 0.9
print(f"single shares are off by {error:.0%}; rank correlation with the exact ones {ranks:.3f}")

# %% [markdown]
# ## More checkpoints
#
# A recorded run can be thinned to chords of any length, which tells what the distance of checkpoints costs.

# %%
lengths = [2, 5, 10, 23]
missing = [ks.decompose(recording.run.thinned(k), test.x[:4]).unattributed_of_change() for k in lengths]
assert missing[0] < missing[-1]
dict(zip(lengths, (f"{part:.1%}" for part in missing)))
