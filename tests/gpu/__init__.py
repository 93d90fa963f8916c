"""A short test of the device that ComfyUI finds on this machine."""
