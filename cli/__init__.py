"""The `sync-r1` command."""
