"""Keeps the published command `python -m sync_r1.reward_models.export`; the code is in `backends/graph_store.py`."""

from sync_r1.reward_models.backends.graph_store import main

if __name__ == "__main__":
    main()
