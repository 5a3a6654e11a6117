"""Running commands and waiting for conditions: the two things that everything in the test bed does."""

import os
import select
import subprocess
import time
from dataclasses import dataclass

# How often a condition that has no event of its own is looked at again.
POLL_SECONDS = 0.05


@dataclass
class Result:
    """What a command printed and how it ended."""

    args: list
    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self):
        """Whether the command ended with exit code 0."""
        return self.returncode == 0

    def check(self):
        """The result itself, or `CommandError` if the command failed."""
        if not self.ok:
            raise CommandError(self)
        return self

    def __str__(self):
        words = " ".join(map(str, self.args))
        return f"`{words}` ended with {self.returncode}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


class CommandError(Exception):
    """A command failed; the message holds the command, its exit code and its whole output."""

    def __init__(self, result):
        super().__init__(str(result))
        self.result = result


def run(args, check=True, timeout=120, stdin=None, env=None, cwd=None):
    """Runs a command to its end. `stdin` is bytes or str; with `check`, a failure raises `CommandError`."""
    args = [str(a) for a in args]
    data = stdin.encode() if isinstance(stdin, str) else stdin
    source = {"input": data} if data is not None else {"stdin": subprocess.DEVNULL}
    try:
        done = subprocess.run(args, capture_output=True, timeout=timeout, env=env, cwd=cwd, **source)
    except subprocess.TimeoutExpired as late:
        out, err = (part.decode(errors="replace") if part else "" for part in (late.stdout, late.stderr))
        raise CommandError(Result(args, -1, out, f"{err}\nno end within {timeout} s")) from late
    result = Result(
        args, done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    )
    return result.check() if check else result


def wait_until(condition, timeout=30.0, what="condition", interval=POLL_SECONDS):
    """Returns the first true value of `condition()`; raises `TimeoutError` that names `what`."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise TimeoutError(f"{what}: not within {timeout} s (last seen: {value!r})")
        time.sleep(interval)


def wait_for_exit(pid, timeout):
    """Waits until process `pid` has ended; False if it is still there after `timeout` seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(handle, select.POLLIN)
        return bool(poller.poll(timeout * 1000))
    finally:
        os.close(handle)
