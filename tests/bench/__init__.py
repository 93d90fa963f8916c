"""Speed and memory, measured: ratios from interleaved runs in one process, never absolute times."""
