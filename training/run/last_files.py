"""The last files of a run, which are written even if the disk is full: in place if room can be made, or elsewhere."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable

from dnnlib import storage
from dnnlib.cli import UserError


class NotInPlace(UserError):
    """The last files of a run could not be written into its folder.

    Attributes:
        moves: Shell commands that put the checkpoint into the run folder, each followed by ' && '. '' = none is needed.
    """

    def __init__(self, fact: str, remedy: str, moves: str):
        super().__init__(fact, remedy)
        self.moves = moves


class LastFiles:
    """Writes files whose loss would be the loss of the training.

    If the disk is full, `make_room` is called. If that does not help, or a file cannot be written for another reason,
    it is written into a new folder among the temporary files of the system.

    Args:
        run_dir:   Folder of the run. None = write nothing, as workers other than the chief.
        make_room: Deletes what can be spared, and returns whether there was anything.
    """

    def __init__(self, run_dir: str | None, make_room: Callable[[], bool]):
        self._run_dir, self._make_room = run_dir, make_room
        self._folder: str | None = None     # Among the temporary files. None = it has not been needed.
        self._failures: list[str] = []      # What could not be written into the run folder, in sentences.
        self._elsewhere: list[str] = []     # Names of what is in the temporary folder.

    def write(self, name: str, write: Callable[[str], None]) -> None:
        """Write a file or folder.

        Args:
            name:  Path of it within the run folder.
            write: Function that is called with the path to write. It raises a UserError if that is not possible.
        """
        assert self._run_dir is not None
        path = os.path.join(self._run_dir, name)
        try:
            try:
                write(path)
            except UserError as err:
                if not storage.is_full(err) or not self._make_room():
                    raise
                print(f'Note: {err.fact}. Older checkpoints were deleted, to make room.')
                write(path)
        except UserError as err:
            self._write_elsewhere(name, write, err.fact)

    def _write_elsewhere(self, name: str, write: Callable[[str], None], failure: str) -> None:
        try:
            if self._folder is None:
                self._folder = tempfile.mkdtemp(prefix=f'{os.path.basename(os.path.abspath(self._run_dir or ""))}-')
            other = os.path.join(self._folder, os.path.basename(name))
            write(other)
        except (UserError, OSError) as err:
            reason = err.fact if isinstance(err, UserError) else str(err)
            self._failures.append(f'{failure}; it is lost: {reason}')
        else:
            self._failures.append(f'{failure}; it is in {other}')
            self._elsewhere.append(name)
        print(f'Note: {self._failures[-1]}')

    def check(self) -> None:
        """Check that all of them are in the run folder.

        Raises:
            NotInPlace: They are not. It says where they are.
        """
        if not self._failures:
            return
        assert self._run_dir is not None
        moves = ''
        for name in self._elsewhere:
            if os.path.dirname(name):  # A checkpoint. The other files are written again by a run that continues.
                assert self._folder is not None
                target = os.path.dirname(os.path.join(self._run_dir, name))
                moves += '' if os.path.isdir(target) else f'{shlex.join(["mkdir", "-p", target])} && '
                moves += shlex.join(['mv', os.path.join(self._folder, os.path.basename(name)), target]) + ' && '
        raise NotInPlace('. '.join(self._failures), f'Make room for {self._run_dir}, then go on.', moves)
