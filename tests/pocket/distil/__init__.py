"""What distilling an ensemble of the scenes' near experts is worth: python -m tests.pocket.distil"""
