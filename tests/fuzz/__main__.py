"""Command line: fuzz all readers in turn until the time is over, and fail if there was a finding."""

from __future__ import annotations

import argparse
import collections
import random
import sys
import time
import traceback

from dnnlib import cli
from tests.fuzz import fuzzing

_FILES_PER_TURN = 100


def main() -> int:
    """Run the command. Returns its exit code."""
    parser = argparse.ArgumentParser(prog='python -m tests.fuzz', description=__doc__)
    parser.add_argument('--minutes', type=cli.positive_float, default=10, help='when to stop (default: %(default)s)')
    parser.add_argument('--seed', type=int, help='of the files (default: another one each time)')
    parser.add_argument('--only', default='', help='targets whose names contain this')
    args = parser.parse_args()
    seed = random.randrange(2 ** 32) if args.seed is None else args.seed
    targets = {name: target for name, target in fuzzing.all_targets().items() if args.only in name}
    print(f'Seed {seed}. Targets: {", ".join(targets)}.', flush=True)
    end = time.monotonic() + 60 * args.minutes
    turns: collections.Counter[str] = collections.Counter()
    found: set[str] = set()
    while time.monotonic() < end and len(found) < len(targets):
        for name, target in targets.items():
            if time.monotonic() >= end or name in found:
                continue
            turns[name] += 1
            try:
                fuzzing.fuzz(target, _FILES_PER_TURN, seed + turns[name])
            except fuzzing.Finding:
                traceback.print_exc(limit=-12)
                print(f'FOUND in: {name}', flush=True)
                found.add(name)
    for name in targets:
        print(f'{name:18} {turns[name] * _FILES_PER_TURN:8} files  {"FOUND" if name in found else "clean"}')
    return 1 if found else 0


sys.exit(main())
