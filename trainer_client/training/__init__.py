"""Sync-GRPO with Dynamic Group Scaling: from tasks to an updated policy. `loop.py` is the main job, top to bottom."""
