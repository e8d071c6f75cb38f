"""Directories that commands work in, and locks on them, or on a file for a part of the work: they
keep two commands from working in one place, and end with their process."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from jang_tools.errors import IoError

if sys.platform != "win32":
    import fcntl


# Of network file systems that have no such locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF, errno.EINVAL)


def make_directory(path: Path) -> bool:
    """Whether it was not there yet. Raises IoError for what is in the way, a link to a directory
    included: what works there removes it later."""
    try:
        path.mkdir()
    except FileExistsError:
        if path.is_symlink() or not path.is_dir():
            raise IoError(
                f"{path}: in the way, and not a directory", code="output_exists"
            ) from None
        return False
    return True


class DirectoryLock:
    """Held from construction until ``release``. Locks nothing on Windows."""

    def __init__(
        self, path: Path, busy: str, *, shared: bool = False, optional: bool = False
    ) -> None:
        """Raises IoError "PATH: BUSY" at once where another holds it.

        ``shared``: together with others that share it. ``optional``: for work that checksums
        protect as well, done without a lock where the file system has none.
        """
        self._descriptor = -1
        if sys.platform == "win32":
            return
        self._descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        wish = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        try:
            try:
                fcntl.flock(self._descriptor, wish | fcntl.LOCK_NB)
            except OSError as error:
                if not (optional and error.errno in _NO_LOCKS):
                    raise
            # Between opening and locking, its holder may have renamed the directory, or removed it.
            gone = not os.path.samestat(os.fstat(self._descriptor), os.lstat(path))
        except (BlockingIOError, FileNotFoundError):
            gone = True
        except BaseException:
            self.release()
            raise
        if gone:
            self.release()
            raise IoError(f"{path}: {busy}", code="io")

    def release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
