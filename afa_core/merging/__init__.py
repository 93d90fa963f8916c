"""Static merges: what artists make of several checkpoints today, and what an ensemble has to beat."""
