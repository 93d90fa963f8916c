"""Training: one loop, its state on disk, and the tasks it can train."""
