"""Programs that are run to their end."""

import subprocess

RUN_SECONDS = 600


class BenchError(Exception):
    """A step failed; the message is what it printed."""


def run(words, env=None, timeout=RUN_SECONDS):
    """What a program prints on standard output; `BenchError` if it fails or takes too long."""
    words = [str(word) for word in words]
    try:
        done = subprocess.run(
            words, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"`{' '.join(words)}` took longer than {timeout} s") from None
    if done.returncode != 0:
        raise BenchError(f"`{' '.join(words)}` ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout
