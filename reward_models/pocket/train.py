"""Keeps the published command `python -m sync_r1.reward_models.pocket.train`; the code is in `training/train.py`."""

from sync_r1.reward_models.pocket.training.train import main

if __name__ == "__main__":
    main()
