"""The part of AFA that knows ComfyUI: its networks, its model patchers, its memory manager, its files."""
