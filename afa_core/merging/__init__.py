"""Static merges: one checkpoint made of several, which an ensemble is compared with."""
