"""`python -m sync_r1.reward_models.validity`."""

from sync_r1.reward_models.validity.measure import main

main()
