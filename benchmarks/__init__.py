"""Speed and memory, as ratios to one plain training step: ``python -m benchmarks``."""
