"""One evaluation of an ensemble without ComfyUI: fusion points, lockstep, and the rules that fuse."""
