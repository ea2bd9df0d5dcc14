"""Run a function in a numbered run folder, as scripts for the original do: a form of `dnnlib.run_dir.RunDir`.

    sc = dnnlib.SubmitConfig()
    sc.run_dir_root, sc.run_desc = 'results', 'generate-images'
    dnnlib.submit_run(sc, 'my_script.generate_images', network_pkl='network-final.pkl', seeds=[1, 2])

Functions run on this machine, in this process. There is no other target.
"""

from __future__ import annotations

import enum
import getpass
import inspect
import json
import os
from typing import Any

from dnnlib.cli import UserError
from dnnlib.run_dir import RunDir
from dnnlib.util import EasyDict, get_obj_by_name

current: SubmitConfig | None = None  # That of the function that runs. None = no function runs.


class SubmitTarget(enum.Enum):
    """Where a function runs."""
    LOCAL = 1


class PathType(enum.Enum):
    """Kind of separators in a path."""
    WINDOWS = 1
    LINUX = 2
    AUTO = 3


class SubmitConfig(EasyDict):
    """Settings of a run.

    Attributes:
        run_dir_root:    Folder of all runs; <USERNAME> in it stands for the name of the user.
        run_desc:        Rest of the folder's name after the number.
        submit_target:   SubmitTarget.LOCAL.
        num_gpus:        Number of GPUs, for functions that have this argument.
        run_id, run_name, run_dir, task_name, run_func_name, run_func_kwargs: Set by `submit_run`.
        run_dir_ignore, run_dir_extra_files, print_info, nvprof, local, datasets, platform_extras, host_name,
        user_name, host_run_dir: Have no effect. Source files are not copied into the folder of a run.
    """

    def __init__(self):
        super().__init__()
        self.run_dir_root = 'results'
        self.run_desc = ''
        self.run_dir_ignore = []
        self.run_dir_extra_files = []
        self.submit_target = SubmitTarget.LOCAL
        self.num_gpus = 1
        self.print_info = False
        self.nvprof = False
        self.local = EasyDict(do_not_copy_source_files=True)
        self.datasets = []
        self.user_name: str | None = None
        self.run_id: int | None = None
        self.run_name: str | None = None
        self.run_dir: str | None = None
        self.run_func_name: str | None = None
        self.run_func_kwargs: dict[str, Any] | None = None
        self.task_name: str | None = None
        self.host_name = 'localhost'
        self.platform_extras = EasyDict()
        self.host_run_dir: str | None = None


def submit_run(submit_config: SubmitConfig, run_func_name: str, **run_func_kwargs: Any) -> SubmitConfig:
    """Make the run's folder, and call the function there; what it prints goes into log.txt as well.

    If the function has arguments submit_config, run_dir or num_gpus that are not given, they get the values of this
    run. training.training_loop.training_loop thus writes into the run's folder.

    Args:
        submit_config:   Settings of the run. They are changed.
        run_func_name:   'module.function', imported as Python imports modules.
        run_func_kwargs: Its arguments. submit_config.json gets those that JSON can hold, and the text of others.

    Returns:
        submit_config, with what is known about the run.

    Raises:
        UserError:  The target is another one, or the folder cannot be made.
        ImportError, AttributeError: There is no such function.
    """
    global current
    if getattr(submit_config.submit_target, 'name', submit_config.submit_target) != SubmitTarget.LOCAL.name:
        raise UserError(f'submit_target: expected SubmitTarget.LOCAL, received {submit_config.submit_target!r}',
                        'Runs are made on this machine only.')
    function = get_obj_by_name(run_func_name)
    shown = json.loads(json.dumps({str(key): value for key, value in run_func_kwargs.items()}, default=str))
    root = get_path_from_template(submit_config.run_dir_root)
    with RunDir(root, submit_config.run_desc, run_func_name, shown, submit_config.num_gpus) as folder:
        submit_config.run_dir = submit_config.host_run_dir = folder.path
        name = os.path.basename(folder.path)
        submit_config.run_name, submit_config.task_name, submit_config.run_id = name, name, int(name.split('-')[0])
        submit_config.run_func_name, submit_config.run_func_kwargs = run_func_name, run_func_kwargs
        own = dict(submit_config=submit_config, run_dir=folder.path, num_gpus=submit_config.num_gpus)
        parameters = inspect.signature(function).parameters
        outer, current = current, submit_config
        try:
            function(**{name: value for name, value in own.items() if name in parameters}, **run_func_kwargs)
        finally:
            current = outer
    return submit_config


def make_run_dir_path(*paths: str) -> str:
    """Path of a file in the folder of the function that runs, or in the working folder if none does."""
    folder = current.run_dir if current is not None else None
    return os.path.join(folder or os.getcwd(), *paths)


def get_path_from_template(path_template: str, path_type: PathType = PathType.AUTO) -> str:
    """`path_template` with the name of the user in place of <USERNAME>, and the separators of `path_type`."""
    if '<USERNAME>' in path_template:
        path_template = path_template.replace('<USERNAME>', getpass.getuser())
    return convert_path(path_template, path_type)


def get_template_from_path(path: str) -> str:
    """`path` with / as separator, as it is written into templates."""
    return path.replace('\\', '/')


def convert_path(path: str, path_type: PathType = PathType.AUTO) -> str:
    """`path` with the separators of `path_type`, AUTO = those of this machine."""
    windows = path_type == PathType.WINDOWS or (path_type == PathType.AUTO and os.name == 'nt')
    return path.replace('/', '\\') if windows else path.replace('\\', '/')
