"""Runs one program, given as JSON on stdin, under limits that it cannot lift. Not for import.

Started by sandbox.py as ``python -I -S candidate.py``: no site packages, no environment, a folder
of its own. What is limited: processor time, memory, file size, open files, processes; where Linux
allows it to ordinary users, network and other processes are out of sight as well. The last line
says on a descriptor of its own whether the program ran to its end.
"""

import ctypes
import json
import os
import resource
import signal
import sys

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


def main() -> None:
    job = json.load(sys.stdin)
    report = int(sys.argv[1])
    isolated = _isolate()
    # The first child is the init of the new process namespace: when it ends, all in there do.
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0x7F)
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
    outcome = {"isolated": isolated, "passed": False, "error": "ended before its tests did"}
    try:
        exec(compile(job["program"], "candidate", "exec"), {"__name__": "__main__"})
        outcome.update(passed=True, error="")
    except SystemExit:
        pass
    except BaseException as error:
        outcome["error"] = type(error).__name__
    os.write(report, json.dumps(outcome).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
