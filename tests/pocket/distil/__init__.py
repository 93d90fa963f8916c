"""What distilling an ensemble of the scenes' experts is worth: python -m tests.pocket.distil"""
