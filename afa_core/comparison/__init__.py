"""Pictures of several methods side by side: the grid and the table, without comfy."""
