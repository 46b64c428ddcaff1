"""The pods of the overlay dev, with the component postgres, as processes: no kubelet, but their arguments, files, variables, probes and graces, and servers
that are real. The addresses of the servers are those of the tests; all else is as in the cluster."""

import contextlib
import os
import secrets
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from cluster import BINARY, ROOT, free_ports
from overlays import component, copy, objects, of_kind, secret_data
from test_settings import settle

PASSWORD = "a password of ten"
READY_SECONDS = 240  # what the startup probe allows, on a busy machine
SLACK_SECONDS = 30  # of a busy machine, beyond the grace


def server(name):
    return os.environ[f"TIDEMILL_TEST_{name}"]


class Roles(unittest.TestCase):
    def setUp(self):
        self.name = f"tidemill_pods_{secrets.token_hex(4)}"
        self.database = urlsplit(server("MARIADB_URL"))
        self.sql(f"CREATE DATABASE {self.name} CHARACTER SET utf8mb4")
        self.addCleanup(self.sql, f"DROP DATABASE {self.name}")
        keys = "- ../../components/object-keys"
        self.found = objects(copy([(keys, f"{keys}\n  - ../../components/postgres")], "dev"))
        self.ports = {}
        service = next(each["metadata"] for each in of_kind(self.found, "Service") if "postgres" in each["metadata"]["name"])
        self.host = f"{service['name']}.{service['namespace']}.svc"
        self.make_certificate()

    def sql(self, statement):
        subprocess.run(["mariadb", "--no-defaults", "--protocol=tcp", f"--host={self.database.hostname}", f"--port={self.database.port}",
                        f"--user={self.database.username}", f"--execute={statement}"],
                       env={**os.environ, "MYSQL_PWD": self.database.password}, check=True, capture_output=True)

    def make_certificate(self):
        place = tempfile.TemporaryDirectory()
        self.addCleanup(place.cleanup)
        self.certificate, key = f"{place.name}/tls.crt", f"{place.name}/tls.key"
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tidemill",
                        "-addext", f"subjectAltName=DNS:{self.host}", "-addext", "basicConstraints=critical,CA:FALSE",
                        "-keyout", key, "-out", self.certificate], check=True, capture_output=True)
        self.tls = {Path(path).name: Path(path).read_text() for path in (self.certificate, key)}

    def test_the_pods_of_dev_migrate_start_answer_their_probes_work_and_stop_in_time(self):
        with contextlib.ExitStack() as place:
            pods = {component(each): self.pod(each, place) for each in of_kind(self.found, "Job", "Deployment")}
            migrated = subprocess.run(**pods.pop("migrate"), text=True, capture_output=True)
            self.assertEqual(migrated.returncode, 0, migrated.stderr)
            running = {role: self.start(pod, place) for role, pod in pods.items()}
            for role, process in running.items():
                for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                    self.until_answers(role, process, self.container(role)[probe]["httpGet"]["path"])
            self.work(pods["gateway"])
            for role, process in running.items():
                self.stops(role, process)

    def pod(self, workload, place):
        """How the process of a pod is started."""
        root = place.enter_context(tempfile.TemporaryDirectory())
        variables = settle(workload, self.found, root, self.secret())
        smtp, (port, postgres) = urlsplit(server("SMTP")), free_ports(2)
        variables |= {
            "TIDEMILL_BROKER__SERVERS": server("KAFKA"), "TIDEMILL_BROKER__TOPIC_PREFIX": self.name,
            "TIDEMILL_OBJECTS__ENDPOINT": server("S3_URL"), "TIDEMILL_OBJECTS__URL": f"s3://{server('S3_BUCKET')}/{self.name}",
            "TIDEMILL_NOTIFIER__SMTP__HOST": smtp.hostname, "TIDEMILL_NOTIFIER__SMTP__PORT": str(smtp.port),
            "TIDEMILL_GATEWAY__LISTEN": f"127.0.0.1:{port}", "TIDEMILL_TELEMETRY__LISTEN": f"127.0.0.1:{port}",
            "TIDEMILL_POSTGRES__LISTEN": variables["TIDEMILL_POSTGRES__LISTEN"].replace("5433", str(postgres)),
            "TIDEMILL_PIPELINES": str(ROOT / "pipelines"),
        }
        self.ports[component(workload)] = port
        arguments = workload["spec"]["template"]["spec"]["containers"][0]["args"]
        return {"args": [BINARY, *arguments], "env": variables, "cwd": root}

    def secret(self):
        url = f"{server('MARIADB_URL').rstrip('/')}/{self.name}"
        keys = {"objects-access-key": server("S3_KEY"), "objects-secret-key": server("S3_SECRET")}
        return {key: url if key.endswith("-url") else value for key, value in secret_data(self.found).items()} | keys | self.tls

    def start(self, pod, place):
        process = subprocess.Popen(**pod, text=True, stdout=subprocess.DEVNULL, stderr=place.enter_context(tempfile.TemporaryFile("w+")))
        place.callback(lambda: process.poll() is None and process.kill())
        return process

    def container(self, role):
        return self.deployment(role)["spec"]["containers"][0]

    def deployment(self, role):
        return next(each for each in of_kind(self.found, "Deployment") if component(each) == role)["spec"]["template"]

    def until_answers(self, role, process, path):
        deadline = time.monotonic() + READY_SECONDS
        said = None
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[role]}{path}", timeout=10) as answer:
                    self.assertEqual(answer.status, 200)
                    return
            except (urllib.error.URLError, OSError) as error:
                said = error
            time.sleep(0.3)
        self.fail(f"{role} did not answer {path}: {said}, exit status {process.poll()}")

    def work(self, gateway):
        """What docs/kubernetes.md tells to do first: a user by `kubectl exec`, then a file."""
        user = {**gateway, "args": [BINARY, "user", "add", "admin", "--admin", "--password-stdin"]}
        added = subprocess.run(**user, input=f"{PASSWORD}\n", text=True, capture_output=True)
        self.assertEqual(added.returncode, 0, added.stderr)
        sent = subprocess.run([BINARY, "send", "departments", ROOT / "examples/data/employees/departments.csv",
                               "--url", f"http://127.0.0.1:{self.ports['gateway']}"],
                              env={"TIDEMILL_PASSWORD": PASSWORD}, cwd=gateway["cwd"], text=True, capture_output=True)
        self.assertEqual(sent.returncode, 0, sent.stdout + sent.stderr)
        # Then SQL as a client in the cluster asks it, by the name of the Service, which the certificate has to prove.
        port = gateway["env"]["TIDEMILL_POSTGRES__LISTEN"].rsplit(":")[-1]
        place = (f"host={self.host} hostaddr=127.0.0.1 port={port} user=admin dbname=tidemill sslmode=verify-full "
                 f"sslrootcert={self.certificate}")
        asked = subprocess.run(["psql", "-X", "-A", "-t", place, "-c", "SELECT count(*) FROM departments"],
                               env={**os.environ, "PGPASSWORD": PASSWORD}, text=True, capture_output=True)
        self.assertEqual((asked.stdout, asked.stderr), ("12\n", ""))

    def stops(self, role, process):
        process.send_signal(signal.SIGTERM)
        grace = self.deployment(role)["spec"]["terminationGracePeriodSeconds"]
        self.assertEqual(process.wait(timeout=grace + SLACK_SECONDS), 0, role)
