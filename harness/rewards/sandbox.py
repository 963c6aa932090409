"""No way out of a grading worker: once confined, a process computes, reads files and answers, and does nothing else.

Model text is hostile, and a library that grades it may evaluate it. So the kernel (seccomp) refuses every system call
but those below, for good: no program is started, no process or thread made, no signal sent, no socket opened, no file
opened for writing, made, renamed or removed. `python -m harness.rewards.sandbox` says whether that is to be had here.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from functools import cache

from harness import PROJECT
from harness.errors import UserError

SANDBOX = "LAGRANGE_SANDBOX"  # the key `sandbox` of the run, for the processes it starts
MEMORY_BYTES = 4 * 2**30
FILES = 64

MEMORY = ("brk", "mmap", "munmap", "mremap", "mprotect", "madvise", "futex", "sched_yield")
READING = ("read", "readv", "pread64", "lseek", "close", "dup", "getdents64", "getcwd", "readlink", "readlinkat")
LOOKING = ("stat", "fstat", "lstat", "newfstatat", "statx", "access", "faccessat", "faccessat2")
ASKING = (
    *("getpid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getrandom", "getrusage", "sched_getaffinity"),
    *("clock_gettime", "clock_getres", "gettimeofday", "time", "times", "sysinfo", "uname", "restart_syscall"),
)
SIGNALS = ("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "setitimer")
ENDING = ("exit", "exit_group")
ALLOWED = (*MEMORY, *READING, *LOOKING, *ASKING, *SIGNALS, *ENDING, "write")  # what is open for writing is the reply
WRITES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC


def confine() -> None:
    """Limits memory, files and processes, and gives up every system call that is not listed. Cannot be undone.

    Raises ImportError, RuntimeError or OSError where Python, the C library or the kernel has no seccomp.
    """
    # Imported late: only processes that grade need it, and it fails where there is no libseccomp.
    from pyseccomp import ALLOW, EQ, ERRNO, MASKED_EQ, Arg, Attr, SyscallFilter

    rules = SyscallFilter(ERRNO(1))  # EPERM
    rules.set_attr(Attr.CTL_TSYNC, 1)  # threads that a library has started included
    for name in ALLOWED:
        rules.add_rule(ALLOW, name)
    rules.add_rule(ALLOW, "openat", Arg(2, MASKED_EQ, WRITES, os.O_RDONLY))
    rules.add_rule(ALLOW, "prlimit64", Arg(2, EQ, 0))  # limits may be asked for, not set
    limit()  # not before: pyseccomp looks for the library with a program
    rules.load()


def limit() -> None:
    """Limits memory, open files, their size and the number of processes, sandbox or not."""
    for what, most in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def switch(on: bool) -> None:
    """Whether grading workers that start from now on are confined."""
    os.environ[SANDBOX] = "on" if on else "off"


def is_on() -> bool:
    """Whether grading workers are confined; nobody having said, they are."""
    return os.environ.get(SANDBOX, "on") == "on"


def require_sandbox() -> None:
    """Raises UserError where grading workers are to be confined and cannot be."""
    if is_on() and (reason := _why_not()):
        raise UserError(
            f"sandbox=on: model answers are graded where they can start and write nothing, which needs Linux with "
            f"seccomp and libseccomp ({reason}); to grade them without that add sandbox=off"
        )


@cache
def _why_not() -> str:
    """Why no process can be confined here, "" if one can: found out by one that tries."""
    command = [sys.executable, "-m", "harness.rewards.sandbox"]
    tried = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=environment(), check=False)
    return (tried.stdout.strip() or f"exit code {tried.returncode}") if tried.returncode else ""


def environment() -> dict[str, str]:
    """What grading processes are started with: one thread, and whatever this process can import."""
    path = os.pathsep.join([str(PROJECT), *(os.path.abspath(folder) for folder in sys.path)])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def main() -> int:
    """Tries it on this process. Returns the exit code."""
    try:
        confine()
    except (ImportError, RuntimeError, OSError) as error:
        print(str(error) or type(error).__name__)
        return 1
    print("grading workers can be confined here")
    return 0


if __name__ == "__main__":
    sys.exit(main())
