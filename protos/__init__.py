"""The gRPC contract of Sync-R1 rewards and the stubs generated from it."""
