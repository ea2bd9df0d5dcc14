"""Helpers that know nothing of networks: dictionaries, downloads, command lines, run folders."""

from dnnlib import onednn
from dnnlib.util import EasyDict

onednn.choose()  # Before anything imports TensorFlow.

__all__ = ['EasyDict']
