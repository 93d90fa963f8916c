"""One trained aggregator: its network, its configuration and its file."""
