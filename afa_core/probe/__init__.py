"""Whether checkpoints are worth an ensemble, measured before anything is trained."""
