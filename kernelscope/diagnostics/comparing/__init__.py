"""Two recorded runs, asked about the same probes: what changed, each number beside its null."""
