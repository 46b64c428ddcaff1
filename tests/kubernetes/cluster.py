"""A real control plane for the tests: etcd and kube-apiserver on free ports of 127.0.0.1, with kubectl to talk to it.

It has no scheduler, no controllers and no kubelet: objects are validated and admitted as in any cluster, nothing runs.
Started at the first use, stopped when the tests end.
"""

import atexit
import functools
import json
import os
import secrets
import socket
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(os.environ["TIDEMILL_TEST_KUBERNETES_TOOLS"])
BINARY = ROOT / os.environ["TIDEMILL_TEST_BINARY"]
READY_SECONDS = 180  # a cold start on two busy cores takes about 15
CRDS = ["scaledobjects.keda.sh", "podmonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com"]


@functools.cache
def shared():
    """The control plane of this run."""
    cluster = Cluster()
    atexit.register(cluster.stop)
    cluster.start()
    return cluster


def free_ports(count):
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Cluster:
    def __init__(self):
        self.place = tempfile.TemporaryDirectory(prefix="tidemill-kubernetes-")
        self.folder = Path(self.place.name)
        self.token = secrets.token_hex(16)
        self.environment = {**os.environ, "KUBECONFIG": str(self.folder / "kubeconfig"), "PATH": f"{TOOLS}:{os.environ['PATH']}"}
        self.processes = []

    def start(self):
        client, peer, self.port = free_ports(3)
        self.launch("etcd", f"--data-dir={self.folder}/etcd", f"--listen-client-urls=http://127.0.0.1:{client}",
                    f"--advertise-client-urls=http://127.0.0.1:{client}", f"--listen-peer-urls=http://127.0.0.1:{peer}",
                    f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
                    f"--initial-cluster=default=http://127.0.0.1:{peer}", "--unsafe-no-fsync", "--log-level=error")
        key = self.folder / "accounts.key"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text(f"{self.token},tester,1,system:masters\n")
        self.launch("kube-apiserver", f"--etcd-servers=http://127.0.0.1:{client}", f"--secure-port={self.port}",
                    "--bind-address=127.0.0.1", f"--cert-dir={self.folder}/certificates",
                    f"--token-auth-file={self.folder}/tokens.csv", "--authorization-mode=RBAC",
                    "--service-account-issuer=https://kubernetes.default.svc", f"--service-account-key-file={key}",
                    f"--service-account-signing-key-file={key}", "--service-cluster-ip-range=10.0.0.0/24")
        self.write_kubeconfig()
        self.until_ready()
        self.kubectl("apply", "--server-side", "-f", str(TOOLS / "crds"))
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", *[f"crd/{name}" for name in CRDS])

    def launch(self, program, *arguments):
        with open(self.folder / f"{program}.log", "wb") as log:
            self.processes.append(subprocess.Popen([TOOLS / program, *arguments], stdout=log, stderr=log))

    def write_kubeconfig(self):
        """The server signs a certificate for itself at its first start; here that is its authority, too."""
        server = {"server": f"https://127.0.0.1:{self.port}", "certificate-authority": f"{self.folder}/certificates/apiserver.crt"}
        config = {"apiVersion": "v1", "kind": "Config", "current-context": "test",
                  "clusters": [{"name": "test", "cluster": server}],
                  "users": [{"name": "tester", "user": {"token": self.token}}],
                  "contexts": [{"name": "test", "context": {"cluster": "test", "user": "tester"}}]}
        (self.folder / "kubeconfig").write_text(json.dumps(config))

    def until_ready(self):
        deadline = time.monotonic() + READY_SECONDS
        while self.ask("get", "--raw=/readyz").returncode != 0:
            dead = [each.args[0].name for each in self.processes if each.poll() is not None]
            if dead or time.monotonic() > deadline:
                logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.log"))
                raise AssertionError(f"the control plane did not become ready, ended: {dead}\n{logs}")
            time.sleep(0.5)

    def ask(self, *arguments, text=None):
        """Runs kubectl; the answer whatever it is."""
        return subprocess.run([TOOLS / "kubectl", *arguments], input=text, text=True, capture_output=True, env=self.environment)

    def kubectl(self, *arguments, text=None):
        """Runs kubectl; what it printed. A refusal is an error that says why."""
        answer = self.ask(*arguments, text=text)
        if answer.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {answer.stderr}")
        return answer.stdout

    def stop(self):
        # Their data goes with them: there is nothing that they should end in good order.
        for process in self.processes:
            process.kill()
            process.wait()
        self.place.cleanup()
