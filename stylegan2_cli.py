"""The console command stylegan2, which `pip install` puts next to python: all commands under one name."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import signal
import sys
from typing import NamedTuple


class _Command(NamedTuple):
    """A command.

    Args:
        module: Module whose `main` takes the arguments.
        help:   What it does.
        prefix: Arguments that come before those of the user.
        usual:  Subcommand that is meant if the first argument is a flag. '' = there are none, or it must be given.
    """
    module: str
    help: str
    prefix: tuple[str, ...] = ()
    usual: str = ''


COMMANDS = {
    'dataset': _Command('dataset_tool', 'make, view, unpack and compare datasets'),
    'train': _Command('run_training', 'train networks on a dataset'),
    'generate': _Command('run_generator', 'pictures, mixtures, films and directions of a network',
                         usual='generate-images'),
    'project': _Command('run_projector', 'find the latents of images', usual='project-real-images'),
    'metrics': _Command('run_metrics', 'measure the quality of a network'),
    'export': _Command('run_generator', 'write a network for other programs', prefix=('export',)),
    'explore': _Command('run_explorer', 'explore a network in the browser'),
}

# What is installed at the top of site-packages. Packages of other projects can have the same names.
TOP_LEVEL = ('dnnlib', 'custom_ops', 'training', 'metrics', 'latents', 'export', 'explorer', 'projector',
             'pretrained_networks', 'stylegan2_cli', *dict.fromkeys(command.module for command in COMMANDS.values()))


def _usage() -> str:
    lines = [f'  {name:10}{command.help}' for name, command in COMMANDS.items()]
    return '\n'.join(['usage: stylegan2 COMMAND ...', '', 'StyleGAN2 for TensorFlow 2.', '', 'commands:', *lines, '',
                      'stylegan2 COMMAND --help lists the flags of a command; stylegan2 --version prints the version.'])


def clash() -> str:
    """What is wrong if Python finds a package of another project under one of our names, in two lines; '' = nothing."""
    own = os.path.dirname(os.path.realpath(__file__))
    for name in TOP_LEVEL:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue  # The import will say that it is missing.
        path = os.path.realpath(spec.origin)
        path = os.path.dirname(path) if spec.submodule_search_locations else path
        folder = os.path.dirname(path)
        if folder != own:
            listed = [entry for entry in os.environ.get('PYTHONPATH', '').split(os.pathsep) if entry]
            in_variable = folder in map(os.path.realpath, listed)
            remedy = (f'Remove {folder} from PYTHONPATH.' if in_variable else
                      'Run the command in another folder.' if folder == os.path.realpath('') else
                      'Install this project into a virtual environment of its own.')
            return (f'{path} belongs to another project, but has the name of a part of this one, '
                    f'{os.path.join(own, name)}, and comes before it\n{remedy}')
    return ''


def main() -> None:
    """Run the command that the arguments of the process name, and exit."""
    argv = sys.argv[1:]
    if argv[:1] in (['--help'], ['-h'], ['help']):
        print(_usage())
        sys.exit()
    if argv[:1] == ['--version']:
        print(importlib.metadata.version('stylegan2-tf2'))
        sys.exit()
    name = argv[0] if argv else ''
    if name not in COMMANDS:
        wrong = f'there is no command {ascii(name)}' if name else 'missing command'
        print(f'{_usage()}\n\nError: {wrong}, expected one of {", ".join(COMMANDS)}', file=sys.stderr)
        sys.exit(2)
    problem = clash()
    if problem:
        print(f'Error: {problem}', file=sys.stderr)
        sys.exit(1)

    from dnnlib import cli  # Only now: it may have been that of another project.
    command, rest = COMMANDS[name], argv[1:]
    for other, each in reversed(COMMANDS.items()):
        if not each.prefix:
            cli.commands[f'{each.module}.py'] = f'stylegan2 {other}'
    if command.prefix:
        cli.commands[f'{command.module}.py'] = 'stylegan2'
    if command.usual and rest and rest[0].startswith('-') and rest[0] not in ('-h', '--help'):
        rest = [command.usual, *rest]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Clean up on SIGTERM as on Ctrl-C.
    cli.run(importlib.import_module(command.module).main, [*command.prefix, *rest])


if __name__ == '__main__':
    main()
