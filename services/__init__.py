"""How a score is served: one gRPC front per reward, and the Triton behind it."""
