"""The command line of the test bed, for looking at a node by hand."""

import argparse
import json
import os
import sys

from .bed import BedError, TestBed, beds, check_host
from .command import CommandError
from .node import NodeError
from .tree import TreeError, ensure_tree


def main(argv=None):
    """Runs one command; returns the exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.do(arguments) or 0
    except (BedError, TreeError, NodeError, CommandError, LookupError) as error:
        print(f"error: {error.args[0] if error.args else error}", file=sys.stderr)
        return 1


def _parser():
    parser = argparse.ArgumentParser(prog="python3 hack/testbed", description="Real systemd nodes for tests.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name, function, text):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(do=function)
        return command

    add("tree", _tree, "make the Debian tree if it is not there, and print its path")
    up = add("up", _up, "boot nodes that stay until `down`")
    up.add_argument("--nodes", type=int, default=1, metavar="N", help="how many (default 1: node1)")
    up.add_argument(
        "--bind", action="append", default=[], metavar="HOST:INSIDE", help="show a host folder, read-only"
    )
    listing = add("list", _list, "list the beds and their nodes")
    listing.add_argument("--output", choices=("table", "json"), default="table")
    _with_node(add("shell", _shell, "open a root shell in a node"))
    execute = _with_node(add("exec", _exec, "run a command in a node"))
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="-- CMD", help="the command")
    for name, text in (("cut", "cut a node off from the others"), ("restore", "join a node again")):
        _with_node(add(name, lambda a, name=name: _link(a, name), text))
    reboot = _with_node(add("reboot", _reboot, "reboot a node; its file system stays"))
    reboot.add_argument("--hard", action="store_true", help="like a power failure")
    down = add("down", _down, "remove beds that `up` made, and what dead runs left")
    down.add_argument("--stale", action="store_true", help="only what dead runs left")
    down.add_argument("--bed", help="only this bed")
    return parser


def _with_node(command):
    command.add_argument("node", help="name of the node, as node1")
    command.add_argument("--bed", help="id of the bed (default: the newest)")
    return command


def _bed(arguments):
    found = [b for b in beds() if b.owner_alive and arguments.bed in (None, b.id)]
    if not found:
        raise BedError("no such bed is running: `python3 hack/testbed up`, or see `list`")
    return max(found, key=lambda bed: bed.home.stat().st_mtime)


def _tree(_):
    print(ensure_tree(lambda text: print(text, file=sys.stderr)))


def _up(arguments):
    binds = {}
    for pair in arguments.bind:
        host, colon, inside = pair.partition(":")
        if not colon or not os.path.isabs(inside):
            raise BedError(f"--bind {pair}: write it as HOST:INSIDE, with an absolute path inside")
        binds[inside] = os.path.abspath(host)
    bed = TestBed(arguments.nodes, binds, kept=True).start()
    for node in bed.nodes:
        print(f"{node.name}  {node.address}  bed {bed.id}")


def _list(arguments):
    rows = []
    for bed in beds():
        state = "up" if bed.kept else "in a test run" if bed.owner_alive else "stale"
        rows += [{"bed": bed.id, "state": state, "node": n.name, "address": n.address} for n in bed.nodes]
    if arguments.output == "json":
        print(json.dumps(rows))
    else:
        for row in rows:
            print("{bed:<14} {state:<14} {node:<14} {address}".format(**row))


def _shell(arguments):
    check_host()
    words = _bed(arguments)[arguments.node].enter(
        ["bash", "--login"], {"TERM": os.environ.get("TERM", "dumb")}
    )
    os.execvp(words[0], [str(word) for word in words])


def _exec(arguments):
    check_host()
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        raise BedError("no command given: python3 hack/testbed exec NODE -- CMD")
    words = _bed(arguments)[arguments.node].enter(command)
    os.execvp(words[0], [str(word) for word in words])


def _link(arguments, action):
    check_host()
    bed = _bed(arguments)
    getattr(bed, action)(bed[arguments.node])


def _reboot(arguments):
    check_host()
    bed = _bed(arguments)
    bed.reboot(bed[arguments.node], arguments.hard)


def _down(arguments):
    check_host()
    for bed in beds():
        chosen = arguments.bed in (None, bed.id)
        if chosen and (not bed.owner_alive or (bed.kept and not arguments.stale)):
            bed.close()
            print(f"removed {bed.id}")
