"""Measurements: `python -m bench PAGE`. Everything on a page is timed side by side in one run; see bench/timing.py."""
