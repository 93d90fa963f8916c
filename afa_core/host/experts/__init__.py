"""Checkpoints as experts: which fit together, whose weights they are, and how a file finds them again."""
