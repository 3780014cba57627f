"""Repeatable measurements: each module prints one table and writes JSON under `benchmarks/results/`.

python -m benchmarks.ensemble
"""
