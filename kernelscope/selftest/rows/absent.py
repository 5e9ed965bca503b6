"""F23: packages that are not installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

from ..judging import Case, Cases
from ..row import TYPED, Done, Silent

#: Hides packages from everything that is imported after it.
HIDING = """
import sys
sys.modules.update(dict.fromkeys({hidden!r}))
import kernelscope as ks
{code}
"""

#: Asks, and prints what was said.
ASKING = """
try:
    {call}
except (ImportError, ks.errors.KernelscopeError) as error:
    print("SAID", error)
else:
    print("ANSWERED")
"""

#: A run, in one expression.
RUN = "__import__('kernelscope.selftest.subjects').selftest.subjects.run()"

#: What is hidden, what is asked, and what the sentence has to name; None where it must work without.
TRIALS: dict[str, tuple[tuple[str, ...], str, str | None]] = {
    "scikit-learn, estimators": (("sklearn",), "ks.sklearn.KernelRegressor", "kernelscope[sklearn]"),
    "scikit-learn, photographs": (("sklearn",), "ks.data.patches()", "scikit-learn"),
    "gpytorch": (("gpytorch", "linear_operator"), "ks.integrations.as_gpytorch_kernel(ks.kernels.Gaussian(1.0))",
                 "gpytorch"),
    "linear_operator": (("linear_operator",), "import torch; ks.integrations.as_linear_operator(ks.KernelOperator("
                        "ks.kernels.Gaussian(1.0), torch.eye(3)))", "linear_operator"),
    "all optional packages": (("sklearn", "gpytorch", "linear_operator", "transformers", "lightning", "accelerate",
                               "wandb", "mlflow", "tensorboard", "diffusers", "numba", "triton", "captum"),
                              "import torch; x = torch.randn(9, 2); ks.fit(ks.kernels.Gaussian(1.0), x, x[:, 0], "
                              "progress=False)(x)", None),
    "numba": (("numba", "llvmlite", "triton"),
              "import torch; from kernelscope.kernels.infinite import Dense, ReLU, Serial; "
              "Serial(Dense(), ReLU(), Dense()).ntk(torch.eye(3))", None),
    "tensorboard": (("tensorboard",), f"ks.integrations.log_run({RUN}, to='tensorboard')", "kernelscope[tensorboard]"),
    "wandb": (("wandb",), f"ks.integrations.log_run({RUN}, to='wandb')", "kernelscope[wandb]"),
    "mlflow": (("mlflow",), f"ks.integrations.log_run({RUN}, to='mlflow')", "kernelscope[mlflow]"),
    "transformers, callback": (("transformers",), "ks.integrations.HFCallback()", "transformers"),
    "lightning, callback": (("lightning", "pytorch_lightning"), "ks.integrations.LightningCallback()", "lightning"),
    "matplotlib, computing": (("matplotlib",), "import torch; ks.kernels.Gaussian(1.0)(torch.eye(3))", None),
    "pandas and tqdm, import": (("pandas", "tqdm"), "ks.__version__", None),
    "transformers, blocks": (("transformers",), "import torch; ks.nn.find_blocks(torch.nn.Linear(2, 2))", None),
    "torch, import alone": (("torch", "numpy", "scipy", "pandas", "matplotlib"), "ks.__version__", None),
}


def without(hidden: tuple[str, ...], call: str, naming: str | None) -> Done | None:
    """Asks in a process that does not have some packages.

    Raises:
        Silent: If an answer came that needs them.
        AssertionError: If the error is another one, or names no way out.
    """
    code = HIDING.format(hidden=hidden, code=ASKING.format(call=call))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120)
    said = done.stdout.strip()
    if done.returncode or not said:
        raise AssertionError(f"without {', '.join(hidden)}: {done.stderr.strip()[-300:]}")
    if naming is None:
        if not said.endswith("ANSWERED"):
            raise AssertionError(f"what works without {', '.join(hidden)} was refused: {said}")
        return None
    if "SAID" not in said:
        raise Silent(f"an answer came without {', '.join(hidden)}")
    if naming not in said or "pip install" not in said:
        raise AssertionError(f"{naming} is not named: {said}")
    return TYPED


class Absent(Cases):
    """Packages that are hidden from a new process."""

    id, sentence, limit = "F23", "Packages are not installed.", 120.0

    def cases(self) -> Iterator[Case]:
        """What is optional is named with the way to get it; everything else works without."""
        for name, (hidden, call, naming) in TRIALS.items():
            attempt: Callable[[], Done | None] = partial(without, hidden, call, naming)
            yield name, attempt


ROWS = (Absent,)
