"""A lock on a directory: keeps two commands from working in it, and ends with its process."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from jang_tools.errors import IoError

if sys.platform != "win32":
    import fcntl


class DirectoryLock:
    """Held from construction until ``release``. Locks nothing on Windows."""

    def __init__(self, path: Path, busy: str) -> None:
        """Raises IoError "PATH: BUSY" at once where another holds it."""
        self._descriptor = -1
        if sys.platform == "win32":
            return
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
