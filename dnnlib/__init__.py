"""Helpers that do not depend on the networks: dictionaries, downloads, command lines, run folders."""

from dnnlib import onednn
from dnnlib.util import EasyDict

onednn.choose()  # Before anything imports TensorFlow.

__all__ = ['EasyDict']
