"""Scripts of other frameworks, recorded as they are; and losses of tokens against a plain double loop."""

import json
import os
import subprocess
import sys

import pytest
import torch

from kernelscope.losses import named_loss

from .killed import ROOT

TRAINER = """
import torch, transformers
torch.manual_seed(0)
ids = torch.randint(1, 50, (30, 8))
data = [{"input_ids": row, "labels": int(row[0]) % 2} for row in ids]
model = transformers.BertForSequenceClassification(transformers.BertConfig(
    vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    max_position_embeddings=16, num_labels=2))
args = transformers.TrainingArguments("out", max_steps=5, per_device_train_batch_size=5, use_cpu=True, report_to=[],
                                      save_strategy="no", disable_tqdm=True)
transformers.Trainer(model, args, train_dataset=data).train()
"""

ACCELERATE = """
import torch, torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
accelerator = Accelerator(cpu=True)
model = torch.nn.Linear(4, 3)
data = TensorDataset(torch.randn(30, 4), torch.randint(0, 3, (30,)))
model, optimizer, loader = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1),
                                               DataLoader(data, batch_size=8, shuffle=True))
for x, y in loader:
    optimizer.zero_grad()
    accelerator.backward(F.cross_entropy(model(x), y))
    optimizer.step()
"""

LIGHTNING = """
import torch, lightning, torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
torch.manual_seed(0)
class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 3)
    def training_step(self, batch, _):
        return F.cross_entropy(self.net(batch[0]), batch[1])
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)
data = TensorDataset(torch.randn(30, 4), torch.randint(0, 3, (30,)))
lightning.Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False,
                  enable_checkpointing=False).fit(Module(), DataLoader(data, batch_size=8, shuffle=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("package", "text", "steps"), [
    ("transformers", TRAINER, 5), ("accelerate", ACCELERATE, 4), ("lightning", LIGHTNING, 4)])
def test_a_script_is_recorded_as_it_is(tmp_path, package, text, steps):
    pytest.importorskip(package)
    (tmp_path / "train.py").write_text(text)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    for words in (["record", "--json", "train.py"], ["check", "--json", "runs/train"]):
        done = subprocess.run([sys.executable, "-m", "kernelscope", *words], cwd=tmp_path, env=environment, text=True,
                              capture_output=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        if words[0] == "record":
            assert json.loads(done.stdout)["steps"] == steps


def test_tokens_count_alike_however_long_a_text():
    torch.manual_seed(0)
    outputs = torch.randn(3, 5, 7, dtype=torch.float64)
    targets = torch.randint(0, 7, (3, 5))
    targets[0, 3:] = targets[2, 1:] = -100
    for shift, smoothing in ((0, 0.0), (1, 0.0), (1, 0.2)):
        loss = named_loss("token_cross_entropy", {"shift": shift, "label_smoothing": smoothing})
        each, count = [], 0
        for i in range(3):
            total = torch.zeros((), dtype=torch.float64)
            for t in range(5 - shift):
                word = int(targets[i, t + shift])
                if word >= 0:
                    logs = outputs[i, t].log_softmax(0)
                    total -= (1 - smoothing) * logs[word] + smoothing * logs.mean()
                    count += 1
            each.append(total)
        torch.testing.assert_close(loss(outputs, targets), torch.stack(each), atol=1e-13, rtol=0)
        torch.testing.assert_close(loss.mean(outputs, targets), sum(each) / count, atol=1e-13, rtol=0)


def test_nothing_of_these_packages_is_imported_with_this_one():
    text = ("import sys, kernelscope, kernelscope.integrations; "
            "assert not {'transformers', 'lightning', 'accelerate', 'pytorch_lightning'} & set(sys.modules)")
    done = subprocess.run([sys.executable, "-c", text], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0
