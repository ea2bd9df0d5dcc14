"""Helpers that know nothing of networks: dictionaries, downloads, command lines, run folders."""

from dnnlib.util import EasyDict

__all__ = ['EasyDict']
