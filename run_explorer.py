"""Command line: explore trained networks in the browser."""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Sequence

from dnnlib import cli
from training.options import PRECISIONS

_EXAMPLES = '''examples:
  # A network, in a browser on this machine
  python run_explorer.py --network=results/00000-stylegan2-mine-1gpu-config-f/network-final.pkl

  # All snapshots of a training run side by side, and a file of directions whose names can be changed
  python run_explorer.py --run=results/00000-stylegan2-mine-1gpu-config-f
  python run_explorer.py --network=NETWORK --directions=results/00001-find-directions/directions.npz

  # For others in the same network of computers
  python run_explorer.py --network=NETWORK --listen --auth=guest:a-long-password
'''


def _parser() -> argparse.ArgumentParser:
    parser = cli.ArgumentParser(
        prog='run_explorer.py', description='Explore trained networks in the browser.', epilog=_EXAMPLES,
        formatter_class=cli.help_formatter, allow_abbrev=False)
    parser.add_argument('--network', dest='networks', type=cli.path, action='append', default=[], metavar='PKL',
                        help='network pickle: a path, a URL, gdrive:networks/... or ada:...; or the folder of a '
                             'training run; may be given several times')
    parser.add_argument('--run', type=cli.path, metavar='DIR',
                        help='folder of a training run, whose snapshots are all added')
    parser.add_argument('--directions', type=cli.path, metavar='FILE',
                        help='directions.npz of run_generator.py find-directions; names are written into it')
    parser.add_argument('--precision', choices=PRECISIONS, default='float32', metavar='NAME',
                        help=f'precision that the page begins with: {", ".join(PRECISIONS)} (default: %(default)s)')
    parser.add_argument('--port', type=_port, default=7860, metavar='N',
                        help='port of the page; 0 = any that is free (default: %(default)s)')
    parser.add_argument('--listen', action='store_true',
                        help='let other computers open the page, too; needs --auth')
    parser.add_argument('--auth', type=_auth, metavar='USER:PASSWORD', help='what the browser has to ask for')
    cli.add_impl_flag(parser)
    cli.add_tf32_flag(parser)
    cli.add_debug_flag(parser)
    return parser


def _port(text: str) -> int:
    """Argument that is the number of a port."""
    value = cli.non_negative_int(text)
    if value > 65535:
        raise argparse.ArgumentTypeError(f'expected a port from 0 to 65535, got {text!r}')
    return value


def _auth(text: str) -> str:
    """Argument that is a user and a password. It is not quoted in messages."""
    user, _, password = text.partition(':')
    if not user or not password:
        raise argparse.ArgumentTypeError('expected USER:PASSWORD')
    if not text.isprintable():
        raise argparse.ArgumentTypeError('expected USER:PASSWORD without control characters')
    return text


def main(argv: Sequence[str]) -> None:
    """Run the command with these arguments."""
    kwargs = vars(_parser().parse_args(argv))
    if not kwargs['networks'] and kwargs['run'] is None:
        raise cli.UsageError('expected --network, --run, or both.  Re-run with --help for usage.')
    if kwargs['listen'] and kwargs['auth'] is None:
        raise cli.UserError('--listen: expected --auth with it, because everybody who reaches this machine could use '
                            'the explorer', 'Add --auth=USER:PASSWORD, or leave --listen out and use ssh -L.')
    if kwargs['directions'] is not None and not os.path.isfile(kwargs['directions']):
        raise cli.UserError(f'--directions={kwargs["directions"]}: there is no such file',
                            'Give the directions.npz of a run of run_generator.py find-directions.')
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as err:
        raise cli.UserError(f'run_explorer.py needs {err.name}, which is not installed',
                            "pip install -e '.[explorer]'") from err
    explore(**kwargs)


def explore(networks: list[str], run: str | None = None, directions: str | None = None, precision: str = 'float32',
            port: int = 7860, listen: bool = False, auth: str | None = None, impl: str | None = None,
            tf32: bool = False, debug: bool = False) -> None:
    """Show the page until Ctrl-C.

    Args:
        networks:   Paths, URLs or official names of networks.
        run:        Folder of a training run. None = none.
        directions: File of directions. None = none.
        precision:  Key of PRECISIONS.
        port:       0 = any that is free.
        listen:     Listen on all addresses of the machine, instead of 127.0.0.1?
        auth:       'USER:PASSWORD'. None = everybody may open the page.
        impl:       Form of the custom ops: 'auto', 'native' or 'ref'. None = the one set already.
        tf32:       Allow TF32 on GPUs?
        debug:      Print the tracebacks of mistakes?

    Raises:
        cli.UserError: A network or file cannot be read, or the port cannot be used.
    """
    import dnnlib.tflib  # noqa: F401  First, so that TensorFlow loads quietly.

    # isort: split
    import custom_ops
    from dnnlib.tflib import hardware, tfutil
    from explorer import server
    from explorer.shelf import Shelf
    from latents import directions as directions_module
    sock = server.listen(port, listen)  # First, because loading takes longer.
    with sock:
        if impl is not None:
            custom_ops.set_impl(impl)
        tfutil.set_tf32(tf32)
        print(hardware.describe(precision=precision))
        shelf = Shelf(networks, run)
        print(f'Loading networks from "{shelf.named[0].path}"...')
        shelf.load(0)
        print(custom_ops.impl_report())
        if directions is not None:
            directions_module.load(directions)
        hosts = None if listen else ['127.0.0.1', 'localhost']
        explorer = server.Explorer(shelf, directions, hosts, auth, precision, debug)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ends as Ctrl-C does.
        try:
            print('Drawing a first picture...')
            with cli.out_of_memory_explained('--precision=bfloat16 needs less.'):
                explorer.warm_up()
            print(f'Explorer: http://127.0.0.1:{sock.getsockname()[1]}  (Ctrl-C ends it)', flush=True)
            if listen:
                print('Other computers can open it under the name or address of this one. The connection is not '
                      'encrypted: who can listen to it sees the password.', flush=True)
            server.server(explorer).run(sockets=[sock])
        except KeyboardInterrupt:
            print('Ended.')
        finally:
            explorer.worker.close()


if __name__ == '__main__':
    cli.run(main)
