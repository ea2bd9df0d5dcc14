"""The explorer: a page in the browser that shows what a generator draws. run_explorer.py starts it."""
