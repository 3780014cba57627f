"""Repeatable measurements: each module prints one table and writes JSON under `benchmarks/results/`.

python -m benchmarks.ensemble

What was asked once and is kept as evidence is in `experiments/`.
"""
