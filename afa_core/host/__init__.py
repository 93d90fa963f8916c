"""The part of AFA that uses ComfyUI: its networks, its model patchers, its memory manager, its files."""
