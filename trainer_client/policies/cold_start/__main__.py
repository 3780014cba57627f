"""`python -m sync_r1.trainer_client.policies.cold_start`."""

from sync_r1.trainer_client.policies.cold_start.main import main

main()
