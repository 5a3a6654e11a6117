"""A service written with flamepy's core classes: says what it was given, fails when it is told to."""

import json
import os
import sys

import flamepy


class Echo(flamepy.FlameService):
    """Answers with what it knows about the task, the session and itself."""

    def on_session_enter(self, context):
        self.session = context
        if context.common_data() == b"refuse":
            raise ValueError("this session is not wanted")

    def on_task_invoke(self, context):
        if context.input == b"fail":
            raise ValueError("told to fail, so failing")
        if context.input == b"crash":
            os._exit(17)
        common = self.session.common_data()
        known = {
            "task": context.task_id,
            "session": context.session_id,
            "input": context.input.decode() if context.input is not None else None,
            "common": common.decode() if common is not None else None,
            "application": self.session.application.name,
            "greeting": os.environ.get("GREETING"),
            "endpoint": os.environ.get("FLAME_ENDPOINT"),
            "arguments": sys.argv[1:],
            "pid": os.getpid(),
        }
        return json.dumps(known).encode()

    def on_session_leave(self):
        self.session = None


if __name__ == "__main__":
    flamepy.run(Echo())
