"""Bad input: each kind gets a message that says what is wrong, and its own exit code or gRPC status."""

import os
import shutil
import socket
import subprocess

import grpc
import pytest
from cluster import bin_dir, free_port
from flamepy.proto import frontend_pb2 as frontend
from flamepy.proto.frontend_pb2_grpc import FrontendStub
from flamepy.proto.types_pb2 import ApplicationSchema, ApplicationSpec, SessionSpec, TaskSpec
from machine import BIN, FLMADM, PREFIX, difference
from testbed.command import run

ARGUMENTS, BUILD, INSTALLATION, SYSTEMD, START = 1, 2, 3, 4, 5
DAEMON_SECONDS = 20
BAD_IDS = ["../x", "a/b", "..", ".hidden", "-flag", "with space", "x" * 254, "a..b", "back\\slash"]


# -- daemons ------------------------------------------------------------------------------------


def config(folder, port, **changes):
    """Writes a configuration and returns its path; `changes` replaces lines of it."""
    lines = {
        "name": "name: flame",
        "endpoint": f'endpoint: "http://127.0.0.1:{port}"',
        "storage": "storage: none",
        "policies": "policies: [priority, drf]",
        **changes,
    }
    path = folder / "flame-cluster.yaml"
    path.write_text("cluster:\n" + "".join(f"  {line}\n" for line in lines.values() if line))
    return path


def daemon(name, path, folder):
    """Runs a daemon that is expected to end by itself; the result has its exit code and messages."""
    env = {**os.environ, "FLAME_HOME": str(folder), "FLAME_SOCKET_DIR": str(folder), "NO_COLOR": "1"}
    return run([bin_dir() / name, "--config", path], False, DAEMON_SECONDS, env=env, cwd=folder)


def assert_refused(result, *words):
    """The daemon ended with an error that has all these words."""
    assert result.returncode > 0, result
    said = result.stdout + result.stderr
    for word in words:
        assert str(word) in said, f"{word!r} is missing in:\n{result}"
    assert "panicked" not in said


@pytest.mark.parametrize("offset", [0, 1], ids=["frontend", "node link"])
def test_a_port_in_use(tmp_path, offset):
    port = free_port()
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", port + offset))
        taken.listen()
        result = daemon("flame-session-manager", config(tmp_path, port), tmp_path)
    assert_refused(result, port + offset, "in use")


DAEMONS = pytest.mark.parametrize("name", ["flame-session-manager", "flame-node-agent"])


@DAEMONS
def test_a_configuration_that_is_not_there(tmp_path, name):
    assert_refused(daemon(name, tmp_path / "nothing.yaml", tmp_path), "nothing.yaml", "No such file")


@DAEMONS
def test_a_configuration_that_cannot_be_read(tmp_path, name):
    path = config(tmp_path, free_port())
    if os.geteuid() != 0:
        path.chmod(0)
        assert_refused(daemon(name, path, tmp_path), "flame-cluster.yaml", "ermission denied")
    else:  # root may read everything, so there it is a folder
        assert_refused(daemon(name, tmp_path, tmp_path), tmp_path, "directory")


@DAEMONS
def test_broken_yaml(tmp_path, name):
    path = config(tmp_path, free_port(), policies="policies: [priority, drf")
    assert_refused(daemon(name, path, tmp_path), "flame-cluster.yaml", "line")


@DAEMONS
def test_an_unknown_key_names_the_nearest(tmp_path, name):
    path = config(tmp_path, free_port(), policies="polices: [priority]")
    assert_refused(daemon(name, path, tmp_path), "polices", "policies")


@DAEMONS
def test_a_value_that_makes_no_sense(tmp_path, name):
    path = config(tmp_path, free_port(), endpoint='endpoint: "ftp://127.0.0.1"')
    assert_refused(daemon(name, path, tmp_path), "ftp", "endpoint")


def test_an_unknown_policy(tmp_path):
    path = config(tmp_path, free_port(), policies="policies: [fairness]")
    assert_refused(daemon("flame-session-manager", path, tmp_path), "fairness", "priority")


# -- flmadm -------------------------------------------------------------------------------------


def flmadm(*words, env=None):
    """Runs flmadm on this machine; only for what it has to refuse before it changes anything."""
    return run([bin_dir() / "flmadm", *words], False, 60, env={**os.environ, "NO_COLOR": "1", **(env or {})})


def install(prefix, *words):
    """`flmadm install` without systemd."""
    return flmadm(
        "install", "--no-systemd", "--skip-build", "--bin-dir", bin_dir(), "--prefix", prefix, *words
    )


def assert_exit(result, code, *words):
    """The exit code, and words that the message has."""
    assert result.returncode == code, result
    for word in words:
        assert str(word) in result.stderr, f"{word!r} is missing in:\n{result}"


def test_no_profile(tmp_path):
    result = install(tmp_path / "flame")
    assert_exit(result, ARGUMENTS, "--all", "--worker", "--control-plane")
    assert not (tmp_path / "flame").exists()


@pytest.mark.parametrize("profile", ["--worker", "--control-plane", "--cache", "--client"])
def test_all_excludes_the_other_profiles(tmp_path, profile):
    result = install(tmp_path / "flame", "--all", profile)
    assert_exit(result, ARGUMENTS, "--all", profile)
    assert not (tmp_path / "flame").exists()


@pytest.mark.parametrize("prefix", ["/", "/usr", "/etc", "/usr/../", "/proc/flame", "relative/path"])
def test_a_prefix_that_is_not_ours_to_take(prefix):
    assert_exit(install(prefix, "--all"), ARGUMENTS, "prefix")


def test_a_prefix_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    result = install(tmp_path / "file/flame", "--all")
    assert_exit(result, INSTALLATION, tmp_path / "file")


def test_binaries_that_are_not_there(tmp_path):
    words = (
        "install",
        "--all",
        "--no-systemd",
        "--skip-build",
        "--bin-dir",
        tmp_path,
        "--prefix",
        tmp_path / "flame",
    )
    assert_exit(flmadm(*words), BUILD, "flame-session-manager", "--bin-dir")
    assert not (tmp_path / "flame/bin").exists()


def test_an_unknown_flag():
    assert_exit(flmadm("install", "--every"), ARGUMENTS, "--every")


@pytest.fixture(scope="module")
def machine(make_bed):
    """A node without Flame."""
    (machine,) = make_bed("bare")
    machine.before = machine.files()
    return machine


@pytest.mark.nodes
def test_no_dbus(machine):
    env = {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/run/no-such-bus"}
    command = [FLMADM, "install", "--all", "--enable", "--skip-build", "--bin-dir", BIN]
    assert_exit(machine.run(command, check=False, env=env), SYSTEMD, "D-Bus", "--no-systemd")
    assert difference(machine.before, machine.files()) == [], "a refused installation changes nothing"


@pytest.mark.nodes
def test_a_read_only_prefix(machine):
    result = machine.install("--all", "--prefix", f"{BIN}/flame", check=False)
    assert_exit(result, INSTALLATION, "mounted read-only")
    result = machine.install(
        "--all", "--prefix", f"{BIN}/flame", "--ignore-check", "mount-options", check=False
    )
    assert_exit(result, INSTALLATION, "Read-only file system")
    assert difference(machine.before, machine.files()) == []


@pytest.mark.nodes
def test_an_ordinary_user_is_told_to_be_root(machine):
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", FLMADM, "install", "--all"]
    result = machine.run([*command, "--skip-build", "--bin-dir", BIN], check=False)
    assert result.returncode in (INSTALLATION, SYSTEMD) and "root" in result.stderr, result
    assert difference(machine.before, machine.files()) == []


@pytest.mark.nodes
def test_a_service_that_cannot_start_is_an_error_of_its_own(machine):
    """Exit code 5, and the reason: here, another program has the port."""
    listen = "import socket, time\ns = socket.create_server(('0.0.0.0', 8080))\ntime.sleep(60)\n"
    machine.node.write("/opt/listen.py", listen)
    program = machine.node.background(["python3", "/opt/listen.py"])
    machine.node.wait_until(["sh", "-c", "ss -ltn | grep -q :8080"])
    told = machine.install("--all", "--enable", check=False)
    result = machine.install("--all", "--enable", "--ignore-check", "ports", check=False)
    machine.run(["pkill", "--full", "[l]isten.py"])
    assert not program.result().ok
    assert_exit(told, INSTALLATION, "ports: ", "8080")
    assert_exit(result, START, "flame-session-manager", "were undone")
    machine.run(["rm", "/opt/listen.py"])
    assert difference(machine.before, machine.files()) == []
    assert not machine.run(["test", "-e", PREFIX], check=False).ok


# -- the Frontend -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stub(local_cluster):
    """The raw gRPC client: status codes as they are on the wire."""
    with grpc.insecure_channel(f"127.0.0.1:{local_cluster.port}") as channel:
        yield FrontendStub(channel)


def create(stub, session, application="flmping"):
    """Creates a session."""
    return stub.CreateSession(
        frontend.CreateSessionRequest(session_id=session, session=SessionSpec(application=application))
    )


def assert_status(code, words, call, *arguments):
    """The call fails with this status and a message that has these words."""
    with pytest.raises(grpc.RpcError) as caught:
        answer = call(*arguments)
        list(answer)  # a stream fails when it is read
    assert caught.value.code() == code, caught.value
    assert words in caught.value.details()


def test_an_unknown_application(stub, local_cluster):
    assert_status(grpc.StatusCode.NOT_FOUND, "nope", create, stub, "unknown-app", "nope")
    request = frontend.GetApplicationRequest(name="nope")
    assert_status(grpc.StatusCode.NOT_FOUND, "nope", stub.GetApplication, request)
    result = local_cluster.tool("flmctl", "create", "session", "-a", "nope", check=False)
    assert result.returncode == 1 and "nope" in result.stderr


def test_an_unknown_session(stub):
    code = grpc.StatusCode.NOT_FOUND
    for call, request in (
        (stub.GetSession, frontend.GetSessionRequest(session_id="gone")),
        (stub.CloseSession, frontend.CloseSessionRequest(session_id="gone")),
        (stub.OpenSession, frontend.OpenSessionRequest(session_id="gone")),
        (stub.CreateTask, frontend.CreateTaskRequest(task=TaskSpec(session_id="gone"))),
        (stub.GetTask, frontend.GetTaskRequest(session_id="gone", task_id="1")),
        (stub.ListTask, frontend.ListTaskRequest(session_id="gone")),
    ):
        assert_status(code, "not found", call, request)


def test_a_session_id_that_is_taken(stub):
    create(stub, "taken-id")
    assert_status(grpc.StatusCode.ALREADY_EXISTS, "taken-id", create, stub, "taken-id")
    stub.CloseSession(frontend.CloseSessionRequest(session_id="taken-id"))
    assert_status(grpc.StatusCode.ALREADY_EXISTS, "taken-id", create, stub, "taken-id")


def test_a_closed_session(stub):
    create(stub, "closed-one")
    stub.CloseSession(frontend.CloseSessionRequest(session_id="closed-one"))
    task = frontend.CreateTaskRequest(task=TaskSpec(session_id="closed-one", input=b"x"))
    assert_status(grpc.StatusCode.INVALID_ARGUMENT, "not open", stub.CreateTask, task)
    request = frontend.OpenSessionRequest(session_id="closed-one")
    assert_status(grpc.StatusCode.INVALID_ARGUMENT, "not open", stub.OpenSession, request)
    spec = SessionSpec(application="flmping")
    request = frontend.OpenSessionRequest(session_id="closed-one", session=spec)
    assert_status(grpc.StatusCode.INVALID_ARGUMENT, "not open", stub.OpenSession, request)


@pytest.mark.parametrize("session", BAD_IDS)
def test_session_ids_that_could_be_paths_or_flags(stub, session):
    code = grpc.StatusCode.INVALID_ARGUMENT
    assert_status(code, "session id", create, stub, session)
    request = frontend.OpenSessionRequest(session_id=session, session=SessionSpec(application="flmping"))
    assert_status(code, "session id", stub.OpenSession, request)


def test_requests_without_their_content(stub):
    code = grpc.StatusCode.INVALID_ARGUMENT
    assert_status(code, "", stub.CreateSession, frontend.CreateSessionRequest(session_id="no-spec"))
    assert_status(code, "", stub.CreateTask, frontend.CreateTaskRequest())
    assert_status(code, "", stub.RegisterApplication, frontend.RegisterApplicationRequest(name="no-spec"))


def test_a_task_id_that_is_no_number(stub):
    create(stub, "task-ids")
    request = frontend.GetTaskRequest(session_id="task-ids", task_id="one")
    assert_status(grpc.StatusCode.INVALID_ARGUMENT, "one", stub.GetTask, request)
    request = frontend.GetTaskRequest(session_id="task-ids", task_id="7")
    assert_status(grpc.StatusCode.NOT_FOUND, "7", stub.GetTask, request)


def test_applications_are_refused_in_the_answer_or_by_status(stub):
    def register(name, **spec):
        return stub.RegisterApplication(
            frontend.RegisterApplicationRequest(name=name, application=ApplicationSpec(**spec))
        )

    for name in ("../x", "", ".hidden"):
        answer = register(name, command="/bin/true")
        assert answer.return_code == -1 and answer.message
    answer = register("flmping", command="/bin/true")
    assert answer.return_code == -1 and "flmping" in answer.message
    code = grpc.StatusCode.INVALID_ARGUMENT
    assert_status(code, "working_directory", lambda: register("x", working_directory="not/absolute"))
    assert_status(code, "input", lambda: register("x", schema=ApplicationSchema(input="{not json")))
    assert_status(code, "input", lambda: register("x", schema=ApplicationSchema(input='{"type": 5}')))
    answer = stub.UnregisterApplication(frontend.UnregisterApplicationRequest(name="nope"))
    assert answer.return_code == -1 and "nope" in answer.message


def test_the_command_lines_say_what_is_wrong(local_cluster):
    closed = f"http://127.0.0.1:{free_port()}"
    for tool, words in (("flmctl", ["list", "nodes"]), ("flmping", ["-t", "1"])):
        result = local_cluster.tool(tool, *words, check=False, env={"FLAME_ENDPOINT": closed})
        assert result.returncode == 1 and closed in result.stderr, result
        result = local_cluster.tool(tool, *words, check=False, env={"FLAME_ENDPOINT": "nonsense://"})
        assert result.returncode in (1, 2) and "nonsense" in result.stderr, result
    result = local_cluster.tool("flmctl", "view", "session", "gone", check=False)
    assert result.returncode == 1 and "gone" in result.stderr
    assert local_cluster.tool("flmctl", "list", "pods", check=False).returncode == 2


def test_a_pipe_that_closes_early_is_no_error(local_cluster):
    flmctl = shutil.which("flmctl", path=local_cluster.prefix / "bin")
    done = subprocess.run(
        ["sh", "-c", f"{flmctl} list applications | true"],
        env=local_cluster.env,
        capture_output=True,
        text=True,
    )
    assert "panicked" not in done.stderr
