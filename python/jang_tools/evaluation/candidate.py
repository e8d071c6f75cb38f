"""Runs one program, given as JSON on stdin, under limits that it cannot lift. Not for import.

Started by sandbox.py as ``python -I -S candidate.py``: no site packages, no environment, a folder
of its own. What is limited: processor time, memory, file size, open files, processes; where Linux
allows it to ordinary users, network and other processes are out of sight as well. One line of JSON
on a descriptor of its own says whether the program ran to its end.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from typing import NoReturn

_NEW_USER, _NEW_NETWORK, _NEW_PROCESSES = 0x10000000, 0x40000000, 0x20000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38


def _limit(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _isolate() -> bool:
    """Own namespaces for users, network and processes; whether that succeeded."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    isolated = libc.unshare(_NEW_USER | _NEW_NETWORK | _NEW_PROCESSES) == 0
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return bool(isolated)


def _die_with_parent() -> None:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _watch(child: int, seconds: float, report: int) -> NoReturn:
    """Ends the child when its time is up, and this process when the child has ended."""
    expired = []

    def expire(*_: object) -> None:
        expired.append(True)
        os.kill(child, signal.SIGKILL)

    signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    os.waitpid(child, 0)
    if expired:
        _tell(report, False, f"ran longer than {seconds:g} s", False)
    os._exit(0)


def _tell(report: int, passed: bool, error: str, isolated: bool) -> None:
    outcome = {"passed": passed, "error": error, "isolated": isolated}
    os.write(report, json.dumps(outcome).encode() + b"\n")


def main() -> None:
    job = json.load(sys.stdin)
    report = int(sys.argv[1])
    isolated = _isolate()
    # The child is the init of the new process namespace: waiting for it waits for all in there.
    child = os.fork()
    if child:
        _watch(child, float(job["seconds"]), report)
    _die_with_parent()
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, int(job["seconds"]) + 1)
    _limit(resource.RLIMIT_AS, int(job["memory"]))
    _limit(resource.RLIMIT_FSIZE, 1 << 20)
    _limit(resource.RLIMIT_NOFILE, 32)
    _limit(resource.RLIMIT_NPROC, 0 if isolated else 64)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    fault = ""
    try:
        exec(compile(job["program"], "candidate", "exec"), {"__name__": "__main__"})
    except SystemExit:
        fault = "ended before its tests did"
    except BaseException as error:
        fault = type(error).__name__
    _tell(report, not fault, fault, isolated)
    os._exit(0)


if __name__ == "__main__":
    main()
