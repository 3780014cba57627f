"""Are the rewards still worth learning from? Figures of a batch, alarms over a run, and two rewards compared.

`statistics.py` measures one batch, `alarms.py` judges a run's figures, `training/reward_monitor.py` does both while
training, `calibration.py` keeps each reward's mean and spread, `evaluation/compare_scores.py` is behind `sync-r1
compare`. What each alarm means and what to do: docs/reward-hygiene.md.
"""
