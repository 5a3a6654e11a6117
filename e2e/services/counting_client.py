"""Runs inside a node: gives tasks to the counting service and prints the answers as JSON."""

import json
import sys

import flamepy

HERE, SITE, TASKS, COMMON = sys.argv[1:]

attributes = {
    "command": "/usr/bin/python3",
    "arguments": [f"{HERE}/counting.py"],
    "environments": {"PYTHONPATH": SITE},
}
if flamepy.get_application("counting") is None:
    flamepy.register_application("counting", attributes)
session = flamepy.create_session("counting", common_data=COMMON.encode())
futures = [session.run(str(number).encode()) for number in range(int(TASKS))]
print(json.dumps([json.loads(future.result()) for future in futures]))
session.close()
