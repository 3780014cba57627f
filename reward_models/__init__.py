"""What a score is: domain types, graphs, and the four rewards. No network, no gRPC."""
