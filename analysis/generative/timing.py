"""How long each part takes, and who waits for whom."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

__all__ = ["Clock", "timed"]


def timed(part: Callable[..., Any], *given: Any) -> tuple[Any, float]:
    """What a part gives, and the CPU seconds it took."""
    begun = time.process_time()
    found = part(*given)
    return found, time.process_time() - begun


class Clock:
    """The CPU seconds of parts, by name, printed as they end."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, part: Callable[..., Any], *given: Any) -> Any:
        """What a part gives."""
        found, seconds = timed(part, *given)
        self.note(name, seconds)
        return found

    def note(self, name: str, seconds: float) -> None:
        """Adds to the seconds of a part."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        print(f"{name}: {seconds:.1f} CPU seconds", flush=True)
