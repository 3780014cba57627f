"""What is done with scores: the thin SDK, Sync-GRPO with Dynamic Group Scaling, policies and evaluation."""
