"""Generation: search over a step function, length penalties, forced scoring."""
