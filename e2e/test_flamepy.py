"""The published client `flamepy` from PyPI, unchanged, as client and as service SDK.

Common data of `flamepy.service` goes through the object cache, which has an issue of its own; so services
here take common data through flamepy's core classes, and `flamepy.service.FlameInstance` goes without.
"""

import json
import sys
from concurrent.futures import wait
from pathlib import Path

import flamepy
import pytest
from flamepy.core.types import SessionAttributes, short_name
from flamepy.service import Session as ServiceSession
from machine import SITE, whole
from testbed import wait_until

pytestmark = pytest.mark.usefixtures("published_client")

SERVICES = Path(__file__).resolve().parent / "services"
PING = b'{"duration": null, "memory": null}'
RESULT_SECONDS = 60
FAILED = 3
BIND_FAILED = 1001
RETRIES_SPENT = 1002
BUILT_IN = {"flmping", "flmexec", "flmrun"}


@pytest.fixture
def ping():
    """An open session of flmping."""
    session = flamepy.create_session("flmping")
    yield session
    session.close()


@pytest.fixture
def application():
    """Registers a Python service of this folder under a fresh name; unregisters it afterwards."""
    made = []

    def register(script, **attributes):
        name = short_name(Path(script).stem)
        chosen = {"command": sys.executable, "arguments": [str(SERVICES / script)], **attributes}
        flamepy.register_application(name, chosen)
        made.append(name)
        return name

    yield register
    for name in made:
        for session in flamepy.list_sessions():
            if session.application == name and session.state == flamepy.SessionState.OPEN:
                flamepy.close_session(session.id)
        flamepy.unregister_application(name)


def wait_events(session_id, code):
    """The session's events with this code, as soon as there is one."""

    def look():
        return [event for event in flamepy.get_session(session_id).events if event.code == code]

    return wait_until(look, RESULT_SECONDS, f"event {code} of session {session_id}")


def test_the_built_in_applications_are_there():
    assert {app.name for app in flamepy.list_applications()} >= BUILT_IN
    app = flamepy.get_application("flmping")
    assert (
        app.name == "flmping"
        and app.shim == flamepy.Shim.HOST
        and app.state == flamepy.ApplicationState.ENABLED
    )
    assert flamepy.get_application("no-such-application") is None


def test_a_thousand_tasks(ping):
    futures = [ping.run(PING) for _ in range(900)]
    answers = [ping.invoke(PING) for _ in range(100)]
    done, pending = wait(futures, timeout=RESULT_SECONDS)
    assert not pending
    answers += [future.result() for future in done]
    for answer in answers:
        assert json.loads(answer)["message"].startswith("Completed on "), answer

    tasks = list(ping.list_tasks())
    assert sorted(int(task.id) for task in tasks) == list(range(1, 1001))
    assert {task.state for task in tasks} == {flamepy.TaskState.SUCCEED}
    seen = flamepy.get_session(ping.id)
    assert (seen.succeed, seen.pending, seen.running, seen.failed) == (1000, 0, 0, 0)


def test_watching_a_task_until_its_end(ping):
    task = ping.create_task(b'{"duration": 300, "memory": null}')
    states = [update.state for update in ping.watch_task(task.id)]
    assert states[-1] == flamepy.TaskState.SUCCEED
    assert set(states[:-1]) <= {flamepy.TaskState.RUNNING}, "the initial Pending is not sent"
    again = list(ping.watch_task(task.id))
    assert [update.state for update in again] == [flamepy.TaskState.SUCCEED], (
        "a finished task: its record, then the end"
    )
    assert "Completed on " in json.loads(again[0].output)["message"]


def test_watching_what_does_not_exist_just_ends(ping):
    assert list(ping.watch_task("4711")) == []


def test_reading_a_task(ping):
    ping.invoke(PING)
    task = ping.get_task("1")
    assert task.state == flamepy.TaskState.SUCCEED and task.input == PING and task.session_id == ping.id
    assert task.completion_time >= task.creation_time
    assert [event.code for event in task.events][0] == 0
    assert [event.code for event in task.events][-1] == 2


def test_closing_is_repeatable_and_final():
    session = flamepy.create_session("flmping")
    session.invoke(PING)
    session.close()
    session.close()
    assert flamepy.get_session(session.id).state == flamepy.SessionState.CLOSED
    with pytest.raises(flamepy.FlameError, match="not open") as caught:
        flamepy.open_session(session.id)
    assert caught.value.code == flamepy.FlameErrorCode.INVALID_ARGUMENT
    with pytest.raises(flamepy.FlameError, match="not open"):
        session.create_task(PING)


def test_opening_sessions():
    with pytest.raises(flamepy.FlameError, match="not found") as caught:
        flamepy.open_session("no-such-session")
    assert caught.value.code == flamepy.FlameErrorCode.NOT_FOUND

    wanted = SessionAttributes(application="flmping", min_instances=0, max_instances=3)
    session = flamepy.open_session(short_name("opened"), wanted)
    assert flamepy.open_session(session.id).id == session.id
    assert flamepy.open_session(session.id, wanted).id == session.id
    with pytest.raises(flamepy.FlameError, match="spec mismatch: max_instances") as caught:
        flamepy.open_session(session.id, SessionAttributes(application="flmping", max_instances=4))
    assert caught.value.code == flamepy.FlameErrorCode.INVALID_ARGUMENT
    session.close()


def test_sessions_executors_and_nodes_are_listed(ping):
    ping.invoke(PING)
    assert ping.id in {session.id for session in flamepy.list_sessions()}
    nodes = flamepy.core.list_nodes()
    assert len(nodes) == 1
    executors = flamepy.core.list_executors()
    assert executors, "the task above ran in one"


def test_registering_and_unregistering(application):
    name = application(
        "echo.py", description="says what it hears", labels=["a", "b"], environments={"X": "1"}
    )
    app = flamepy.get_application(name)
    assert (app.description, app.labels, app.environments) == ("says what it hears", ["a", "b"], {"X": "1"})
    assert app.arguments == [str(SERVICES / "echo.py")]
    with pytest.raises(flamepy.FlameError, match="already exists"):
        flamepy.register_application(name, {"command": "/bin/true"})
    with pytest.raises(flamepy.FlameError, match="not found"):
        flamepy.unregister_application("no-such-application")


def test_a_python_service_of_the_core_classes(application, local_cluster):
    name = application("echo.py", environments={"GREETING": "hello"})
    session = flamepy.create_session(name, common_data=b"shared by all")
    answers = [
        json.loads(future.result(RESULT_SECONDS))
        for future in [session.run(str(i).encode()) for i in range(50)]
    ]
    assert [answer["input"] for answer in answers] == [str(i) for i in range(50)]
    assert sorted(int(answer["task"]) for answer in answers) == list(range(1, 51))
    assert {answer["common"] for answer in answers} == {"shared by all"}
    assert {answer["application"] for answer in answers} == {name}
    assert {answer["session"] for answer in answers} == {session.id}
    assert {answer["greeting"] for answer in answers} == {"hello"}
    assert {answer["endpoint"] for answer in answers} == {local_cluster.endpoint}


def test_a_python_service_of_flame_instance(application):
    name = application("adder.py")
    with ServiceSession(name) as session:
        assert session.invoke({"numbers": [1, 2, 39]}) == {"sum": 42, "count": 3}
        assert session.invoke({"numbers": []}) == {"sum": 0, "count": 0}


def test_an_exception_of_a_task_is_told(application):
    session = flamepy.create_session(application("echo.py"))
    with pytest.raises(flamepy.FlameError, match="told to fail, so failing"):
        session.run(b"fail").result(RESULT_SECONDS)
    task = session.get_task("1")
    assert task.state == flamepy.TaskState.FAILED
    assert any(event.code == FAILED and "told to fail, so failing" in event.message for event in task.events)
    assert json.loads(session.run(b"go on").result(RESULT_SECONDS))["input"] == "go on", (
        "the service lives on"
    )


def test_a_crash_in_a_task_does_not_spoil_the_session(application):
    session = flamepy.create_session(application("echo.py"), max_instances=1)
    crashing, after = session.run(b"crash"), session.run(b"after")
    assert json.loads(after.result(RESULT_SECONDS))["input"] == "after"
    with pytest.raises(flamepy.FlameError):
        crashing.result(RESULT_SECONDS)


def test_an_exception_at_session_enter_is_told(application):
    session = flamepy.create_session(application("echo.py"), common_data=b"refuse")
    session.create_task(b"never run")
    event = wait_events(session.id, BIND_FAILED)[0]
    assert "failed to bind session" in event.message and "this session is not wanted" in event.message
    wait_events(session.id, RETRIES_SPENT)
    assert flamepy.get_session(session.id).state == flamepy.SessionState.OPEN


@pytest.mark.parametrize("command", ["/bin/false", "/no/such/program"])
def test_a_service_that_never_listens_is_a_bind_failure(application, command):
    session = flamepy.create_session(application("echo.py", command=command))
    session.create_task(b"never run")
    assert "failed to bind session" in wait_events(session.id, BIND_FAILED)[0].message


@pytest.mark.nodes
def test_python_services_in_the_sandbox_of_a_systemd_node(make_bed):
    machine = whole(make_bed, "python")
    machine.node.copy_in(SERVICES, "/opt/services")
    client = ["python3", "/opt/services/node_client.py", "/opt/services", SITE]
    answer = machine.run(client, env={"PYTHONPATH": SITE, "FLAME_ENDPOINT": machine.endpoint})
    told = json.loads(answer.stdout)
    assert [echo["input"] for echo in told["echoes"]] == [str(i) for i in range(20)]
    assert {echo["common"] for echo in told["echoes"]} == {"shared"}
    assert told["total"] == {"sum": 42, "count": 3}
