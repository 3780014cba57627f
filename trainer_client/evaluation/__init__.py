"""UnifyBench, UnifyBench++ and PocketBench: what is measured on held-out conditions, and how."""
