"""What ``benchmarks/infinite.py`` is made of: cases, our worker, the rival's worker."""
