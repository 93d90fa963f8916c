"""ComfyUI's models as frozen experts, and their training data encoded."""
