"""Two hundred prompts in a row through a live server, ensembles changed between them: does anything grow?"""
