"""Files of one revision of a Hub repository: their names, sizes and headers first, then each whole,
with patience for a network that fails now and then.

Like hub.py this goes through huggingface_hub, its settings and its cache. Names and sizes come from
a stranger and are checked before anything is made of them.
"""

from __future__ import annotations

import errno
import random
import re
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeVar

from jang_tools.errors import FormatError, IoError, JangError
from jang_tools.hub import UNWANTED, WANTED, is_offline, parse_hub_id, quiet_hub, refusal

Result = TypeVar("Result")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_WEIGHTS = ".safetensors"
_HEADER_LIMIT = 100_000_000  # bytes of a safetensors header, by the format's rules
_FIRST_READ = 1 << 16  # most headers are shorter
_AT_ONCE = 8  # requests for headers
_TIMEOUT = 30.0  # seconds without a byte
_WAITS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)  # seconds before one more attempt
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS})
_NETWORK_MODULES = ("httpx", "httpcore", "requests", "urllib3", "ssl", "http", "socket")


@dataclass(frozen=True)
class HubFile:
    """A file as the Hub had it when the conversion was planned."""

    name: str
    size: int
    etag: str


class HubRevision:
    """``org/name[@revision]`` at the commit that it is now."""

    def __init__(self, text: str, notice: Callable[[str], None] | None = None) -> None:
        self.repository, self.asked = parse_hub_id(text)
        self._notice = notice
        with quiet_hub():  # refuses settings that the library cannot read
            pass
        info = self.attempt("the list of files", self._info)
        self.commit = str(info.sha or "")
        if not re.fullmatch(r"[0-9a-f]{7,64}", self.commit):
            raise FormatError(
                f"{self.repository}: expected the Hub to name a commit, found '{self.commit[:80]}'",
                code="config_value",
            )
        names = [str(sibling.rfilename) for sibling in info.siblings or []]
        wanted = sorted(name for name in names if _is_wanted(name))
        self.weights = [name for name in wanted if name.endswith(_WEIGHTS)]
        self.documents = [name for name in wanted if not name.endswith(_WEIGHTS)]
        if not wanted:
            raise IoError(f"{self.repository}: holds none of {', '.join(WANTED)}", code="io")

    def _info(self) -> Any:
        from huggingface_hub import HfApi

        return HfApi().model_info(self.repository, revision=self.asked, timeout=_TIMEOUT)

    def describe(self, names: list[str]) -> list[HubFile]:
        """Size and version of each, asked for several at a time."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self._describe, names))

    def _describe(self, name: str) -> HubFile:
        from huggingface_hub import get_hf_file_metadata

        found = self.attempt(name, lambda: get_hf_file_metadata(self._url(name), timeout=_TIMEOUT))
        if found.size is None or not 0 <= found.size < 1 << 62 or not found.etag:
            raise FormatError(
                f"{self.repository}/{name}: expected the Hub to tell its size and version, found"
                f" {found.size} and {found.etag}",
                code="config_value",
            )
        return HubFile(name, int(found.size), str(found.etag))

    def header(self, file: HubFile) -> bytes:
        """The length and the header of a safetensors file. What it says is the core's to judge."""
        first = self.read(file.name, 0, min(_FIRST_READ, file.size))
        if len(first) < 8:
            return first
        end = 8 + min(struct.unpack("<Q", first[:8])[0], _HEADER_LIMIT, file.size)
        end = min(end, file.size)
        if end > len(first):
            first += self.read(file.name, len(first), end - len(first))
        return first[:end]

    def headers(self, files: list[HubFile]) -> list[bytes]:
        """Of each file, several at a time."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(self.header, files))

    def read(self, name: str, begin: int, size: int) -> bytes:
        """Bytes [begin, begin + size) of a file, by a range request."""
        if size == 0:
            return b""
        return self.attempt(name, lambda: self._read(name, begin, size))

    def _read(self, name: str, begin: int, size: int) -> bytes:
        from huggingface_hub import utils

        hub: Any = utils  # public names, which not all of its versions declare as exported
        headers = {
            **hub.build_hf_headers(),
            "Range": f"bytes={begin}-{begin + size - 1}",
            "Accept-Encoding": "identity",
        }
        session: Any = hub.get_session()
        url = self._url(name)
        # The body is only read once it is known to be a part: a server without ranges sends it all.
        if hasattr(session, "stream"):
            with session.stream("GET", url, headers=headers, timeout=_TIMEOUT) as answer:
                if answer.status_code >= 400:
                    answer.read()
                hub.hf_raise_for_status(answer)
                self._require_part(name, answer.status_code)
                content = bytes(answer.read())
        else:
            with session.get(url, headers=headers, timeout=_TIMEOUT, stream=True) as answer:
                hub.hf_raise_for_status(answer)
                self._require_part(name, answer.status_code)
                content = bytes(answer.content)
        if len(content) != size:
            raise ConnectionError(f"expected {size} bytes, found {len(content)}")
        return content

    def _require_part(self, name: str, status: int) -> None:
        if status != 206:
            raise IoError(
                f"{self.repository}/{name}: the server does not answer range requests (HTTP"
                f" {status}), so it cannot be streamed",
                code="io",
                hint="leave --from-hub away and give --model, which downloads everything first",
            )

    def download(self, file: HubFile, directory: Path | None) -> Path:
        """The whole file, in ``directory`` or else in the Hub cache; a download that was broken off
        is continued. Raises FormatError if it is not the one that was described."""
        now = self._describe(file.name)
        if now != file:
            raise self._changed(file, f"{now.size} bytes, version {now.etag}")
        path = self.attempt(file.name, lambda: self._download(file.name, directory))
        found = path.stat().st_size
        if found != file.size:
            raise self._changed(file, f"{found} bytes")
        return path

    def _changed(self, file: HubFile, found: str) -> FormatError:
        return FormatError(
            f"{self.repository}/{file.name}: expected {file.size} bytes, version {file.etag}, as"
            f" when the conversion was planned, found {found}",
            code="checksum",
            hint="the source changed; remove the .partial and .download directories and begin anew",
        )

    def _download(self, name: str, directory: Path | None) -> Path:
        from huggingface_hub import hf_hub_download

        with quiet_hub():
            place = hf_hub_download(
                self.repository, name, revision=self.commit, local_dir=directory
            )
        return Path(place)

    def cached(self, file: HubFile) -> Path | None:
        """Where the Hub cache has the file, if it has."""
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repository, file.name, revision=self.commit)
        path = Path(found) if isinstance(found, str) else None
        there = path is not None and path.is_file() and path.stat().st_size == file.size
        return path if there else None

    def _url(self, name: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.repository, name, revision=self.commit)

    def attempt(self, what: str, call: Callable[[], Result]) -> Result:
        """What ``call`` returns; what may pass by itself is tried again, ever later."""
        for number, wait in enumerate([*_WAITS, None], start=1):
            try:
                return call()
            except JangError:
                raise
            except Exception as error:
                # The library raises its own types, its HTTP client's and OSError: no common base.
                if wait is None or not is_transient(error):
                    raise self._refusal(what, error, number) from error
                if self._notice is not None:
                    self._notice(
                        f"{self.repository}: {what}: {_first_line(error)}; trying again in"
                        f" {wait:g} s"
                    )
                time.sleep(wait * (1 + 0.1 * random.random()))
        raise AssertionError  # the last attempt returns or raises

    def _refusal(self, what: str, error: Exception, attempts: int) -> JangError:
        known = refusal(self.repository, self.asked, error)
        if attempts > 1:
            known = IoError(
                f"{known}; {what}, given up behind {attempts} attempts",
                code="io",
                hint="the same command continues with what is there",
            )
        return known


def hub_cache() -> Path:
    """Where downloads lie that stay: a directory that exists."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def is_transient(error: BaseException) -> bool:
    """Whether another attempt may succeed: the network's and the server's passing troubles."""
    from huggingface_hub.errors import (
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    if isinstance(error, OfflineModeIsEnabled) or is_offline():
        return False
    if isinstance(error, LocalEntryNotFoundError):
        return error.__cause__ is None or is_transient(error.__cause__)
    if isinstance(error, HfHubHTTPError):
        status = getattr(getattr(error, "response", None), "status_code", None)
        return status in _TRANSIENT_STATUS
    if isinstance(error, OSError) and error.errno in _LASTING:
        return False
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    if isinstance(error, OSError) and "Consistency check failed" in str(error):
        return True
    return type(error).__module__.split(".")[0].rstrip("2") in _NETWORK_MODULES


def _is_wanted(name: str) -> bool:
    return (
        _NAME.fullmatch(name) is not None
        and any(fnmatch(name, pattern) for pattern in WANTED)
        and not any(fnmatch(name, pattern) for pattern in UNWANTED)
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
