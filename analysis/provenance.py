"""Where a page comes from."""

import platform
import subprocess
from pathlib import Path
from typing import Any

import torch


def provenance(study: str, **more: Any) -> dict[str, Any]:
    """The study that makes a page, the state of the project and of the machine, and what else there is to say."""
    found = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=Path(__file__).parent, capture_output=True,
                           text=True, check=False)
    threads = torch.get_num_threads()
    machine = f"{threads} thread{'s' * (threads > 1)}, {platform.machine()}"
    return {"study": f"analysis/{Path(study).name}", "commit": found.stdout.strip() or "unknown",
            "torch": torch.__version__, "machine": machine} | more
