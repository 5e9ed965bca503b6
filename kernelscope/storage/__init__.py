"""What must survive: segments, checksums, a manifest, and one atomic step from commit to commit.

A store is a folder of write-once segments, named by ``manifest.json``. A segment is written beside its final name,
brought to the disk, and renamed; then the manifest goes the same way. The manifest's rename is the commit: before it
the folder holds the old store, after it the new one, and never anything between. Every byte is covered by a checksum,
so that what is read is what was written, or an error.
"""

from .copies import joined
from .files import write_atomically
from .manifest import Segment
from .memory import MemoryStore
from .store import Store

__all__ = ["MemoryStore", "Segment", "Store", "joined", "write_atomically"]
