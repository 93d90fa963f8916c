"""The prompt folder: pictures and captions, the held-out split, buckets and batches."""
