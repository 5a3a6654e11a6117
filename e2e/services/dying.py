"""A service that ends, or goes on for ever, at a place and in a way that its arguments say."""

import os
import signal
import subprocess
import sys
import threading
import time

import flamepy

PLACE, WAY = sys.argv[1:]
# More lines than are told.
LINES = 25
# After the answer to a task, so that no task runs.
MOMENT = 0.3


def last_words():
    """Writes what is told of an end; the last line has its time."""
    for number in range(1, LINES):
        print(f"line {number}", file=sys.stderr)
    print(f"dying at {time.time_ns() // 1000}", file=sys.stderr, flush=True)


def end():
    """Ends the process, or does not come back."""
    if WAY == "child":
        # It outlives SIGTERM, and closes what would show whose it is.
        closed = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen(["sh", "-c", "trap '' TERM; exec sleep 86399"], **closed)
    last_words()
    if WAY == "hang":
        threading.Event().wait()
    if WAY == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


class Dying(flamepy.FlameService):
    """Does what a service does until its place comes."""

    def on_session_enter(self, context):
        if PLACE == "enter":
            end()

    def on_task_invoke(self, context):
        if PLACE == "task":
            end()
        if PLACE == "idle":
            threading.Timer(MOMENT, end).start()
        return context.input

    def on_session_leave(self):
        pass


if __name__ == "__main__":
    if PLACE == "start":
        end()
    flamepy.run(Dying())
