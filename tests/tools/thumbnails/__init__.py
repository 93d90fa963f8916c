"""The thumbnails of the workflow templates: python -m tests.tools.thumbnails [NAME ...]

Templates that paint are run as they are, but for small pictures, on the scenes' near experts (runner.py, files.py), and
shown by layouts.py. What small networks cannot show, diagrams.py draws. look.py has what all of them share.
"""
