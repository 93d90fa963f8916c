"""Static merges as patches of ComfyUI."""
