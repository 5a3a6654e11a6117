"""Messages of all sizes: those within the limit pass every link, the others are refused in clear words."""

import json
import os

import flamepy
import grpc
import pytest
from cluster import LocalCluster, bin_dir
from flamepy.proto import frontend_pb2 as frontend
from flamepy.proto.frontend_pb2_grpc import FrontendStub
from flamepy.proto.types_pb2 import ApplicationSpec, SessionSpec, TaskSpec, TaskState
from testbed import wait_until

LIMIT = 4 << 20
SECONDS = 60
# What is around an input in a request, with some to spare.
AROUND = 60
# `make soak` takes more time for it.
LARGE = "200M" if "FLAME_SOAK_SECONDS" in os.environ else "80M"


def start(places, limit):
    """A cluster with that limit on messages."""
    cluster = LocalCluster()
    places.append(cluster)
    cluster.script("install")
    cluster.configure(f"limits: {{max_message_size: {limit}}}")
    cluster.script("start")
    return cluster


@pytest.fixture(scope="module")
def small(places):
    """A cluster that takes messages of 4 MiB."""
    cluster = start(places, "4M")
    yield cluster
    places.remove(cluster)
    cluster.down()


@pytest.fixture(scope="module")
def channel(small):
    """A connection without limits of its own."""
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{small.port}", options=unlimited) as channel:
        yield channel


def session(stub, name, application):
    """Opens a session; returns a function that creates tasks in it."""
    spec = SessionSpec(application=application)
    stub.CreateSession(frontend.CreateSessionRequest(session_id=name, session=spec))

    def create(data):
        request = frontend.CreateTaskRequest(task=TaskSpec(session_id=name, input=data))
        return stub.CreateTask(request).metadata.id

    return create


def ended(stub, name, task):
    """The task when it has ended."""
    request = frontend.GetTaskRequest(session_id=name, task_id=task)
    terminal = (TaskState.Succeed, TaskState.Failed)

    def look():
        found = stub.GetTask(request)
        return found if found.status.state in terminal else None

    return wait_until(look, SECONDS, f"task {task} of {name} ended")


def soak(cluster, *words):
    """Runs the client that looks at every byte."""
    service = bin_dir() / "flame-soak-service"
    return cluster.tool(
        "flame-soak", "--service", service, "--patience", 90, *words, check=False, timeout=170
    )


def assert_said(text, size):
    """The text names both numbers and says what to do."""
    for part in ("above the limit", str(LIMIT), "max_message_size", "object cache"):
        assert part in text, text
    (found,) = [int(word) for word in text.replace(".", " ").split() if word.isdigit() and int(word) > LIMIT]
    assert size <= found <= size + 2 * AROUND, text


def test_requests_above_the_limit_are_refused_in_clear_words(small, channel, tmp_path):
    size = 5 << 20
    stub = FrontendStub(channel)
    create = session(stub, "refused", "flmping")
    create_tasks = channel.unary_unary("/flame.v1.FrontendBatch/CreateTasks")
    for call in (lambda: create(bytes(size)), lambda: create_tasks(bytes(size))):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert_said(caught.value.details(), size)
    # And so in the command line, the Rust SDK, and the published Python client.
    (tmp_path / "input").write_bytes(bytes(size))
    result = small.tool(
        "flmctl", "create", "task", "-s", "refused", "--input", tmp_path / "input", check=False
    )
    assert result.returncode == 1
    assert_said(result.stderr, size)
    result = soak(small, "--size", size, "--batch", 1, "--sessions", 1)
    assert result.returncode == 1
    assert_said(result.stderr, size)


def test_the_published_python_client_is_told_too(small, monkeypatch):
    monkeypatch.setenv("FLAME_ENDPOINT", small.endpoint)
    opened = flamepy.create_session("flmping")
    try:
        with pytest.raises(flamepy.FlameError) as caught:
            opened.create_task(bytes(5 << 20))
        assert_said(str(caught.value), 5 << 20)
    finally:
        opened.close()


def test_inputs_of_just_the_allowed_size_reach_their_service(small, channel):
    """They are larger on the next links; tasks that are short come there several at a time."""
    stub = FrontendStub(channel)
    spec = ApplicationSpec(command=str(bin_dir() / "flame-soak-service"))
    stub.RegisterApplication(frontend.RegisterApplicationRequest(name="turn", application=spec))
    create = session(stub, "edge", "turn")
    for _ in range(200):
        create(b"short")
    largest = None
    for around in range(AROUND, 0, -1):
        try:
            task = create(bytes(LIMIT - around))
        except grpc.RpcError as refused:
            assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            break
        largest = task, LIMIT - around
    else:
        pytest.fail("every size was taken")
    third = [create(bytes(LIMIT // 3)) for _ in range(12)]
    for task in third:
        assert ended(stub, "edge", task).status.state == TaskState.Succeed
    # Its output, as large as its input, is too much for the way back.
    task, size = largest
    failed = ended(stub, "edge", task)
    assert failed.status.state == TaskState.Failed and len(failed.spec.input) == size
    said = failed.status.events[-1].message
    assert f"{size} bytes" in said and str(LIMIT) in said and "object cache" in said
    nodes = stub.ListNodes(frontend.ListNodesRequest()).nodes
    log = (small.prefix / "logs/flame-session-manager.log").read_text()
    assert len(nodes) == 1 and "the link to node" not in log, "no link broke"


def test_an_output_above_the_limit_fails_its_task_and_no_other(small):
    session = small.tool("flmctl", "create", "session", "-a", "flmexec").stdout.split()[0]

    def run(code):
        script = json.dumps({"language": "shell", "code": code})
        return small.tool("flmctl", "create", "task", "-s", session, "--wait", "--text", script, check=False)

    result = run(f"head -c {2 * LIMIT} /dev/zero | tr '\\0' x")
    said = result.stdout + result.stderr
    assert result.returncode == 1 and str(LIMIT) in said and "object cache" in said, result
    result = run("echo the next one")
    assert result.ok and bytes(json.loads(result.stdout)["data"]) == b"the next one\n", result


def test_messages_up_to_the_largest_limit_pass(places):
    cluster = start(places, "256M")
    try:
        result = soak(cluster, "--size", LARGE, "--batch", 1, "--sessions", 1, "--time", "0.1", "--rate", 1)
        report = json.loads(result.stdout)
        assert report["violations"] == [] and report["ends"] == 1, report
    finally:
        places.remove(cluster)
        cluster.down()
