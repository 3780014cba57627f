"""Fault drills: one small module each, real parts only (Triton, gRPC, Envoy, processes that are killed).

    python -m benchmarks.reliability             all of them, and the page RELIABILITY.md (`make soak`)
    python -m benchmarks.reliability NAME …      some of them; the page keeps the last figures of the others
    python -m benchmarks.reliability --short …   in seconds, to see that a drill works; writes nothing

Every drill checks scores by what was sent: a picture holds a number, its score is that number (`coded.py`).
"""
