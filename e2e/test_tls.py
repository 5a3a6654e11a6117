"""A session manager with a certificate of an own authority: who trusts it works, who does not is told."""

import subprocess

import flamepy
import pytest
from cluster import LocalCluster, free_port
from flamepy.core.client import ConnectionInstance
from testbed import wait_until
from testbed.command import run

SECONDS = 30
NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"


class Authority:
    """Signs certificates for this machine."""

    def __init__(self, folder, name):
        self.folder = folder
        folder.mkdir()
        self.certificate = folder / "ca.pem"
        self._key = folder / "ca.key"
        openssl(
            "req", "-x509", *NEW_KEY, "-keyout", self._key, "-out", self.certificate, "-subj", f"/CN={name}"
        )

    def issue(self, name):
        """Certificate and key of a server."""
        request, key, certificate = (self.folder / f"{name}.{end}" for end in ("csr", "key", "pem"))
        extensions = self.folder / "extensions"
        extensions.write_text(f"{NAMES}\nbasicConstraints=CA:FALSE\n")
        openssl("req", *NEW_KEY, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        signer = ("-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial")
        openssl("x509", "-req", "-in", request, *signer, "-extfile", extensions, "-out", certificate)
        return certificate, key


NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def openssl(*words):
    """Runs openssl."""
    run(["openssl", *words])


@pytest.fixture(scope="module")
def secure(places, tmp_path_factory):
    """A running cluster with TLS on both ports."""
    folder = tmp_path_factory.mktemp("tls")
    ours = Authority(folder / "ours", "The laboratory's own authority")
    Authority(folder / "theirs", "Somebody else's authority")
    certificate, key = ours.issue("manager")
    cluster = LocalCluster()
    cluster.theirs = folder / "theirs/ca.pem"
    places.append(cluster)
    try:
        cluster.script("install")
        cluster.ca_file = ours.certificate
        plain, cluster.endpoint = cluster.endpoint, f"https://localhost:{cluster.port}"
        cluster.configure(
            f"tls: {{cert_file: {certificate}, key_file: {key}, ca_file: {ours.certificate}}}",
            {plain: cluster.endpoint},
        )
        cluster.script("start")
        yield cluster
    finally:
        places.remove(cluster)
        cluster.down()


def refused(cluster, words, **env):
    """Both command lines fail soon, with an error that has the words."""
    for tool, arguments in (("flmctl", ["list", "nodes"]), ("flmping", ["-t", "1"])):
        result = cluster.tool(tool, *arguments, check=False, env=env, timeout=SECONDS)
        assert result.returncode in (1, 2), result
        assert all(word in result.stderr for word in words), result
        assert "panicked" not in result.stderr


def test_client_command_line_agent_and_services_work_with_the_authority(secure):
    assert secure.flmping("-t", "100")["succeeded"] == 100
    assert [node["state"] for node in secure.flmctl("list", "nodes")] == ["Ready"]
    session = secure.tool("flmctl", "create", "session", "-a", "flmping").stdout.split()[0]
    assert "Completed" in secure.tool("flmctl", "create", "task", "-s", session, "--wait").stdout


def test_a_configuration_file_names_the_authority_too(secure, tmp_path):
    path = tmp_path / "flame.yaml"
    path.write_text(
        "current-context: tls\n"
        "contexts:\n"
        f"  - {{name: tls, cluster: {{endpoint: '{secure.endpoint}', tls: {{ca_file: {secure.ca_file}}}}}}}\n"
    )
    env = {
        name: value for name, value in secure.env.items() if name not in ("FLAME_ENDPOINT", "FLAME_CA_FILE")
    }
    command = [secure.prefix / "bin/flmctl", "--config", path, "list", "nodes"]
    assert "Ready" in run(command, env=env).stdout


def test_the_published_python_client_works_with_the_authority(secure, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".flame").mkdir()
    (tmp_path / ".flame/flame.yaml").write_text(
        "current-context: tls\n"
        "contexts:\n"
        f"  - {{name: tls, cluster: {{endpoint: '{secure.endpoint}', tls: {{ca_file: {secure.ca_file}}}}}}}\n"
    )
    monkeypatch.setattr(ConnectionInstance, "_connection", None)
    monkeypatch.setattr(ConnectionInstance, "_context", None)
    session = flamepy.create_session("flmping")
    try:
        assert b"Completed" in session.invoke(b'{"duration": null, "memory": null}')
    finally:
        session.close()
        monkeypatch.setattr(ConnectionInstance, "_connection", None)


def test_who_trusts_others_is_told_that_the_issuer_is_unknown(secure):
    refused(secure, ("UnknownIssuer", "FLAME_CA_FILE"), FLAME_CA_FILE=str(secure.theirs))
    # Without one, the system's authorities are trusted.
    refused(secure, ("UnknownIssuer", "FLAME_CA_FILE"), FLAME_CA_FILE="")
    nothing = secure.theirs.with_name("nothing.pem")
    refused(secure, ("No such file", str(nothing)), FLAME_CA_FILE=str(nothing))


def test_http_and_https_must_fit(secure, places):
    plain = secure.endpoint.replace("https", "http")
    refused(secure, ("is it http:// or https://?",), FLAME_ENDPOINT=plain)
    other = LocalCluster(port=free_port())
    places.append(other)
    try:
        other.up()
        env = {"FLAME_ENDPOINT": other.endpoint.replace("http", "https")}
        refused(secure, ("is it http:// or https://?",), **env)
    finally:
        places.remove(other)
        other.down()


def test_an_agent_that_trusts_others_says_why_it_is_not_registered(secure, tmp_path):
    text = (secure.prefix / "conf/flame-cluster.yaml").read_text()
    path = tmp_path / "flame-cluster.yaml"
    path.write_text(text.replace(str(secure.ca_file), str(secure.theirs)))
    env = {**secure.env, "FLAME_HOME": str(tmp_path), "FLAME_SOCKET_DIR": str(tmp_path)}
    agent = secure.prefix / "bin/flame-node-agent"
    log = tmp_path / "log"
    with open(log, "w") as out:
        command = [agent, "--config", path, "--name", "distrustful"]
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        wait_until(lambda: "UnknownIssuer" in log.read_text(), SECONDS, "the agent says why")
    finally:
        process.terminate()
        process.wait(SECONDS)
    assert [node["state"] for node in secure.flmctl("list", "nodes")] == ["Ready"], (
        "only the other one is there"
    )
