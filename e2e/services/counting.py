"""A service that says how often it was called: for tests of what goes on when the agent does not."""

import json
import os
import sys
import time

import flamepy


class Counting(flamepy.FlameService):
    """Takes the milliseconds that the session's common data says for each task, and counts."""

    enters = 0
    calls = 0

    def on_session_enter(self, context):
        self.enters += 1
        print(f"entered {context.session_id}", file=sys.stderr, flush=True)
        common = json.loads(context.common_data())
        self.task_seconds = common["task_ms"] / 1000
        time.sleep(common.get("enter_ms", 0) / 1000)

    def on_task_invoke(self, context):
        self.calls += 1
        known = {
            "input": context.input.decode(),
            "pid": os.getpid(),
            "unit": os.environ["FLAME_INSTANCE_ENDPOINT"],
            "enters": self.enters,
            "calls": self.calls,
        }
        time.sleep(self.task_seconds)
        return json.dumps(known).encode()

    def on_session_leave(self):
        pass


if __name__ == "__main__":
    flamepy.run(Counting())
