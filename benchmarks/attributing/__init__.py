"""What benchmarks/attribution.py compares: the task, and ways to score training samples."""
