"""One file a family of networks: what it matches, its fusion points, its streams, its memory."""
