"""Are the rewards still worth learning from? Figures of a batch, alarms over a run, and two rewards compared.

`figures.py` measures one batch, `alarms.py` judges a run's figures, `watch.py` does both while training,
`calibration.py` keeps each reward's mean and spread, `comparison.py` is behind `sync-r1 compare`. What each alarm means
and what to do: docs/reward-hygiene.md.
"""
