"""Every expert's own conditioning: text encoders, what a prompt carries, and the checks."""
