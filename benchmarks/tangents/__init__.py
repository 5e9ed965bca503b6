"""What ``benchmarks/tangent.py`` is made of: networks, rivals, limits, measuring."""
