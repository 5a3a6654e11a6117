"""Runs inside a node: kills flmadm at checkpoints of a command, repairs, and compares with before and after.

The argument is JSON: `program` and `repairer` (paths of flmadm), `prefix`, `command` (its words), `reset`
(commands that lead to the start), `last` (commands at the end), `every` (1: each checkpoint, 3: each third,
none: the middle and the end);
of the installation `which` (words that name it), `caller` (words in front of a command of whoever it belongs
to), `systemctl`, `services`, `tops` (where its files are), and `living` (where some live while services run).
A checkpoint is before and after each effect; the program counts them (debug builds only). Prints JSON.
"""

import contextlib
import hashlib
import json
import os
import stat
import subprocess
import sys

# What services write while they run, and what systemd and the account tools keep for themselves.
LEFT_OUT = ("/data", "/work", "/logs")
ACCOUNT_TRACES = {"/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.pwd.lock"}
COUNTED = "/tmp/flmadm-test-count"
SECONDS = 120


def describe(path, known):
    """One line about a file; the contents of one that has not been touched are read only once."""
    info = os.lstat(path)
    words = [f"{stat.filemode(info.st_mode)} {info.st_uid}:{info.st_gid}"]
    if stat.S_ISLNK(info.st_mode):
        words.append(f"-> {os.readlink(path)}")
    elif stat.S_ISREG(info.st_mode):
        mark = (path, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
        if mark not in known:
            with open(path, "rb") as handle:
                known[mark] = hashlib.sha256(handle.read()).hexdigest()
        words.append(f"{info.st_size} {known[mark]}")
    return " ".join(words)


def tree(prefix, known, tops):
    """Every file that an installation may touch."""
    found = {}
    for top in tops:
        for folder, folders, files in os.walk(top):
            skip = [prefix + below for below in LEFT_OUT]
            folders[:] = [name for name in folders if os.path.join(folder, name) not in skip]
            for name in [*folders, *files]:
                path = os.path.join(folder, name)
                if path not in ACCOUNT_TRACES:
                    with contextlib.suppress(FileNotFoundError):
                        found[path] = describe(path, known)
    return found


def services(plan):
    """What runs and what starts at boot."""
    words = [*plan["systemctl"], "show", "--property=ActiveState,UnitFileState", *plan["services"]]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def picture(plan, known):
    """The state that a command starts from, or leaves. An executor that stands by comes and goes."""
    running = services(plan)
    tops = plan["tops"] if "ActiveState=active" in running else plan["tops"] + plan["living"]
    return {**tree(plan["prefix"], known, tops), "services": running}


def flmadm(plan, program, words, env=None):
    """Runs it; gives the code and what was said."""
    done = subprocess.run(
        [*plan["caller"], program, *words, *plan["which"]],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env={**os.environ, **(env or {})},
    )
    return done.returncode, done.stdout + done.stderr


def must(plan, program, words, env=None):
    """As flmadm, which has to succeed."""
    code, said = flmadm(plan, program, words, env)
    if code:
        raise SystemExit(f"{words}: {code}: {said}")
    return said


def difference(one, other):
    """Paths that differ."""
    return [
        f"{path}: {one.get(path)} -> {other.get(path)}"
        for path in sorted(one.keys() | other.keys())
        if one.get(path) != other.get(path)
    ]


def main():
    """The loop over all checkpoints."""
    plan = json.loads(sys.argv[1])
    program, repairer = plan["program"], plan["repairer"]
    known = {}

    def reset():
        for words in plan["reset"]:
            must(plan, repairer, words)

    reset()
    start = picture(plan, known)
    with contextlib.suppress(FileNotFoundError):
        os.remove(COUNTED)
    must(plan, program, plan["command"], {"FLMADM_TEST_COUNT_IN": COUNTED})
    total = os.path.getsize(COUNTED)
    os.remove(COUNTED)
    every = plan["every"] or total // 2
    end = picture(plan, known)
    report = {"checkpoints": total, "undone": 0, "finished": 0, "wrong": [], "tried": 0}
    dirty = True
    for number in range(1, total + 1):
        if number % every != total % every:
            continue
        if dirty:
            reset()
        before = picture(plan, known)
        if difference(start, before):
            report["wrong"].append([number, "not the same start", difference(start, before)[:5]])
            break
        code, said = flmadm(plan, program, plan["command"], {"FLMADM_TEST_KILL_AT": str(number)})
        if code != -9:
            report["wrong"].append([number, f"was not killed: {code}", said[-500:]])
            break
        code, said = flmadm(plan, repairer, ["repair"])
        if code:
            report["wrong"].append([number, f"repair: {code}", said[-500:]])
            break
        after = picture(plan, known)
        report["tried"] += 1
        if not difference(start, after):
            report["undone"] += 1
            dirty = False
        elif not difference(end, after):
            report["finished"] += 1
            dirty = True
        else:
            report["wrong"].append(
                [number, said[-300:], difference(start, after)[:8], difference(end, after)[:8]]
            )
            dirty = True
    for words in plan["last"]:
        must(plan, repairer, words)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
