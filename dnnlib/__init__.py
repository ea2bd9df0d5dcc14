"""Helpers that do not depend on the networks: dictionaries, downloads, command lines, run folders."""

from typing import Any

from dnnlib import onednn
from dnnlib.submission import submit
from dnnlib.submission.run_context import RunContext
from dnnlib.submission.submit import (
    PathType,
    SubmitConfig,
    SubmitTarget,
    convert_path,
    get_path_from_template,
    make_run_dir_path,
    submit_run,
)
from dnnlib.util import EasyDict

onednn.choose()  # Before anything imports TensorFlow.

__all__ = ['EasyDict', 'PathType', 'RunContext', 'SubmitConfig', 'SubmitTarget', 'convert_path',
           'get_path_from_template', 'make_run_dir_path', 'submit_run']


def __getattr__(name: str) -> Any:
    """dnnlib.submit_config: the settings of the run that is going on, None = there is none."""
    if name == 'submit_config':
        return submit.current
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
