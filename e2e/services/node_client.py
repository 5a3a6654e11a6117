"""Runs inside a node: registers the two Python services, runs tasks in them, prints the answers as JSON."""

import json
import sys

import flamepy
from flamepy.service import Session

HERE, SITE = sys.argv[1:]


def register(name):
    """Registers the service `HERE/NAME.py` under its name."""
    attributes = {
        "command": "/usr/bin/python3",
        "arguments": [f"{HERE}/{name}.py"],
        "environments": {"PYTHONPATH": SITE},
    }
    flamepy.register_application(name, attributes)


register("echo")
session = flamepy.create_session("echo", common_data=b"shared")
echoes = [json.loads(future.result()) for future in [session.run(str(i).encode()) for i in range(20)]]
session.close()

register("adder")
with Session("adder") as adder:
    total = adder.invoke({"numbers": [1, 2, 39]})

print(json.dumps({"echoes": echoes, "total": total}))
