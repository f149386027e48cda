"""Models that others made, and models for others: reading and writing foreign checkpoints."""
