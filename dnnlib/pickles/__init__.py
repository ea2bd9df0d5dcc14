"""Pickles read without running code from them: official network files, and the weights of PyTorch."""
