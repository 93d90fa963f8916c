"""A real ComfyUI for the tests and the commands: fetched, fed with toy checkpoints, run in process or as a server."""
