"""A Hub repository as the source of a conversion that begins before its weights are here.

OUTPUT.download holds a model directory in which every weight file has its size and header from the
beginning, as a file without content; the core plans with these and says in which order it wants
whole files (cpp/convert/source_feed.h). The next one is downloaded while one is converted. Whole
files lie in the Hub's cache, or, where each is to be deleted after use, in OUTPUT.download.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from jang_tools.directory_lock import DirectoryLock, make_directory
from jang_tools.errors import ArgumentError, FormatError, IoError
from jang_tools.hub import ResolvedModel
from jang_tools.hub_files import HubFile, HubRevision, hub_cache
from jang_tools.output_files import check_space, copy_file
from jang_tools.partial_output import PASSING, add_hint, io_error

Notice = Callable[[str], None]
Steps = Sequence[tuple[Sequence[str], Sequence[str]]]  # files to bring, files done with behind

RECORD = "download.json"  # which revision; also says that the directory is ours
_MODEL = "model"  # what the core opens
_HEADERS = "headers"  # weight files without content
_FILES = "files"  # whole ones, where they are deleted after use
_LOOK = 0.2  # seconds between two looks at signals while waiting
_KEPT_HINT = "{} goes with it"


class HubStream:
    """``with HubStream(...) as stream:`` gives ``stream.model`` to open, and the core its files."""

    def __init__(
        self,
        text: str,
        output: Path,
        *,
        delete_after_use: bool,
        notice: Notice | None = None,
    ) -> None:
        self.path = output.with_name(output.name + ".download")
        self.waiting: Callable[[str], None] | None = None  # told a file's name, again and again
        self._text = text
        self._delete = delete_after_use
        self._notice = notice
        self._steps: Steps = []
        self._loader: _Loader | None = None
        self._lock: DirectoryLock | None = None
        self._files: dict[str, HubFile] = {}
        self._partial = output.with_name(output.name + ".partial")

    def __enter__(self) -> HubStream:
        created = False
        try:
            created = make_directory(self.path)
            self._lock = DirectoryLock(self.path, "another conversion downloads there")
            self._refuse_foreign()
            self._revision = HubRevision(self._text, self._notice)
            self._check_record()
            self._prepare()
        except BaseException as error:
            if created:
                self._remove()
            self._unlock()
            if isinstance(error, OSError) and not isinstance(error, IoError):
                raise io_error(self.path, error) from error
            raise
        self._loader = _Loader(self._load)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._loader is not None:
            self._loader.stop()
        try:
            if isinstance(value, PASSING) and self._is_worth_keeping():
                add_hint(value, _KEPT_HINT.format(self.path))
            else:
                self._remove()
        finally:
            self._unlock()

    @property
    def model(self) -> ResolvedModel:
        """The directory to open, under the repository's name."""
        return ResolvedModel(self.path / _MODEL, self._revision.repository, self._revision.commit)

    @property
    def identity(self) -> list[list[str | int]]:
        """What says that weights are the same, for a key (resume.py)."""
        return [[file.name, file.size, file.etag] for file in self._files.values()]

    @property
    def weights(self) -> list[str]:
        """Names of all weight files."""
        return list(self._files)

    def disk_needs(self, steps: Steps) -> list[tuple[str, int]]:
        """What is downloaded beside the output, at the moment when it is most. IoError if the Hub's
        cache, where files lie that stay, has no space for them."""
        missing = {name for name in self._files if not self._is_here(name)}
        if not self._delete:
            wanted = {name for need, _ in steps for name in need}
            size = sum(self._files[name].size for name in wanted & missing)
            cache = hub_cache()
            if cache.stat().st_dev == self.path.stat().st_dev:
                return [("downloads", size)]
            check_space(cache, size, [("downloads", size)])
            return []
        most, held = 0, 0
        for number, (need, done) in enumerate(steps):
            following = steps[number + 1][0] if number + 1 < len(steps) else ()
            held += self._sizes(need, missing)
            most = max(most, held + self._sizes(following, missing))
            held -= self._sizes(done, missing)
        return [("downloads at a time", most)]

    def _sizes(self, names: Sequence[str], among: set[str]) -> int:
        return sum(self._files[name].size for name in names if name in among)

    def bring_first(self, names: Sequence[str]) -> None:
        """Before anything is planned: files whose values planning wants."""
        if not names:
            return
        needs = self.disk_needs([(names, names)])
        check_space(self.path, sum(size for _, size in needs), needs)
        self.need(names)

    # What the core calls (SourceFeed).

    def schedule(self, steps: Steps) -> None:
        """Files in the order in which they will be asked for."""
        self._steps = steps

    def need(self, files: Sequence[str]) -> None:
        """Returns when they are whole. What is asked for next is begun."""
        assert self._loader is not None
        following = next(
            (
                self._steps[number + 1][0]
                for number, (need, _) in enumerate(self._steps[:-1])
                if list(need) == list(files)
            ),
            (),
        )
        self._loader.want([*files, *following])
        for name in files:
            place = self._loader.wait(name, self.waiting)
            self._point(name, place)

    def done(self, files: Sequence[str]) -> None:
        """Nobody reads them any more."""
        for name in files:
            self._point(name, self.path / _HEADERS / name)
            if self._delete:
                (self.path / _FILES / name).unlink(missing_ok=True)

    def sample(self, name: str, begin: int, size: int) -> None:
        """Brings some bytes of a file that is not whole. Called by any thread."""
        stub = self.path / _HEADERS / name
        if os.path.realpath(self.path / _MODEL / name) != os.path.realpath(stub):
            return
        content = self._revision.read(name, begin, size)
        descriptor = os.open(stub, os.O_WRONLY)
        try:
            os.pwrite(descriptor, content, begin)
        finally:
            os.close(descriptor)

    def _load(self, name: str) -> Path:
        file = self._files[name]
        return self._revision.cached(file) or self._revision.download(
            file, self.path / _FILES if self._delete else None
        )

    def _is_here(self, name: str) -> bool:
        """In the Hub's cache, or where an interrupted conversion left it."""
        file, own = self._files[name], self.path / _FILES / name
        left = self._delete and own.is_file() and own.stat().st_size == file.size
        return left or self._revision.cached(file) is not None

    def _point(self, name: str, place: Path) -> None:
        link = self.path / _MODEL / name
        beside = link.with_name(f"{name}.new")
        beside.unlink(missing_ok=True)
        beside.symlink_to(os.path.abspath(place))
        os.replace(beside, link)

    def _refuse_foreign(self) -> None:
        names = set(os.listdir(self.path)) - {_FILES}
        if names and RECORD not in names:
            raise IoError(
                f"{self.path}: exists, and holds no download of jang-tools",
                code="output_exists",
                hint="remove it yourself, or choose another output",
            )

    def _check_record(self) -> None:
        """Refuses to go on with another revision than the one that this began with."""
        found = self._read_record()
        now = {"repository": self._revision.repository, "commit": self._revision.commit}
        if found is None:
            content = json.dumps(now | {"asked": self._revision.asked or ""})
            (self.path / f"{RECORD}.new").write_text(content, encoding="utf-8")
            os.replace(self.path / f"{RECORD}.new", self.path / RECORD)
            return
        if found.get("repository") != now["repository"]:
            raise ArgumentError(
                f"{self.path}: expected a download of {now['repository']}, found one of"
                f" {found.get('repository')}",
                code="argument",
                hint="choose another output, or remove that directory",
            )
        if found.get("commit") != now["commit"]:
            asked = self._revision.asked or "main"
            raise FormatError(
                f"{now['repository']}: the revision '{asked}' is {now['commit']} now, and was"
                f" {found.get('commit')} when {self.path} was begun",
                code="checksum",
                hint=f"--revision {found.get('commit')} continues; to begin anew, remove the"
                " .download and .partial directories",
            )

    def _read_record(self) -> dict[str, str] | None:
        try:
            found = json.loads((self.path / RECORD).read_bytes())
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError):
            found = {}
        return found if isinstance(found, dict) else {}

    def _prepare(self) -> None:
        """Documents, and headers of all weight files; those that are there are kept."""
        for name in (_MODEL, _HEADERS, _FILES):
            (self.path / name).mkdir(exist_ok=True)
        for name in self._revision.documents:
            target = self.path / _MODEL / name
            place = self._revision.download(self._revision.describe([name])[0], None)
            target.unlink(missing_ok=True)
            copy_file(place, target)
        described = self._revision.describe(self._revision.weights)
        self._files = {file.name: file for file in described}
        headers = self._revision.headers(described)
        for number, file in enumerate(described):
            stub = self.path / _HEADERS / file.name
            beside = stub.with_name(f"{file.name}.new")
            with beside.open("wb") as writer:
                writer.write(headers[number])
                writer.truncate(file.size)
            os.replace(beside, stub)
            self._point(file.name, stub)

    def _is_worth_keeping(self) -> bool:
        """With files of its own, or for a conversion to continue, whose revision it knows."""
        return self._partial.exists() or any((self.path / _FILES).iterdir())

    def _remove(self) -> None:
        # A download that is still under way may put its file back; the next run clears it.
        shutil.rmtree(self.path, ignore_errors=True)

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()


class _Loader:
    """Downloads one file after the other on a thread of its own."""

    def __init__(self, load: Callable[[str], Path]) -> None:
        self._load = load
        self._condition = threading.Condition()
        self._wanted: deque[str] = deque()
        self._known: set[str] = set()
        self._results: dict[str, Path | BaseException] = {}
        self._stopped = False
        # A process that ends does not wait for a download.
        self._thread = threading.Thread(target=self._run, name="jang-download", daemon=True)
        self._thread.start()

    def want(self, names: Sequence[str]) -> None:
        """In this order, behind what was wanted before."""
        with self._condition:
            for name in names:
                if name not in self._known:
                    self._known.add(name)
                    self._wanted.append(name)
            self._condition.notify_all()

    def wait(self, name: str, waiting: Callable[[str], None] | None) -> Path:
        """Where it is. Raises what its download raised."""
        with self._condition:
            while name not in self._results:
                self._condition.wait(_LOOK)
                if waiting is not None and name not in self._results:
                    waiting(name)
            found = self._results[name]
        if isinstance(found, BaseException):
            raise found
        return found

    def stop(self) -> None:
        """Nothing further is begun."""
        with self._condition:
            self._stopped = True
            self._wanted.clear()
            self._condition.notify_all()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._wanted and not self._stopped:
                    self._condition.wait()
                if self._stopped:
                    return
                name = self._wanted.popleft()
            result: Path | BaseException
            try:
                result = self._load(name)
            except BaseException as error:  # handed to who waits for it
                result = error
            with self._condition:
                self._results[name] = result
                self._condition.notify_all()
