"""An ensemble as a MODEL of ComfyUI, from its patcher to one sampling step."""
