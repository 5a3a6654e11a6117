"""The counting application's service in Python, with the classes of flamepy 0.6.0.

Needs no object cache: input and output are plain bytes. A task's input is one byte, `+` or `-`, and
then a piece of a file; `+` says that the piece goes on with a word that was counted already. Its
output is JSON with lines, words and bytes, as `LC_ALL=C wc` counts them.
"""

import json

from flamepy.core.service import FlameService, SessionContext, TaskContext, run

# Neither white space nor printable ASCII: such bytes neither make nor end a word.
_OTHER = bytes(b for b in range(256) if not (0x20 <= b <= 0x7E or 0x09 <= b <= 0x0D))


def count(content: bytes, in_word: bool) -> dict[str, int]:
    """Counts `content`; with `in_word` it goes on with a word that was counted before."""
    visible = content.translate(None, _OTHER)
    words = len(visible.split())
    if in_word and visible and not visible[:1].isspace():
        words -= 1
    return {"lines": content.count(b"\n"), "words": words, "bytes": len(content)}


class WordCount(FlameService):
    """One instance per process; a process serves one session."""

    def on_session_enter(self, context: SessionContext) -> None:
        pass

    def on_task_invoke(self, context: TaskContext) -> bytes:
        data = context.input or b""
        if data[:1] not in (b"+", b"-"):
            raise ValueError("the input of wordcount is '+' or '-' and then the text")
        counts = count(data[1:], data[:1] == b"+")
        return json.dumps(counts).encode()

    def on_session_leave(self) -> None:
        pass


if __name__ == "__main__":
    run(WordCount())
