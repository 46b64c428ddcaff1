"""Tidemill's roles as processes on the servers of the environment, with a proxy before MariaDB, S3 and SMTP. Used by torture.py.

Two gateways, three processors, a fetcher, two notifiers. A process that ended is started again, one that stands still goes on.
"""

import collections
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

import place as places
from client import PASSWORD, USER

HERE = pathlib.Path(__file__).resolve().parent
ROLES = ["gateway", "gateway", "processor", "processor", "processor", "fetcher", "notifier", "notifier"]
# How long a process that a failpoint stopped stands still, in seconds: beyond every lease.
STANDS_STILL = 8
PROXIED = ("mariadb", "s3", "smtp")

SETTINGS = """pipelines = "{pipelines}"
database.url = "{mysql}/{name}_jobs"
tables = {{ url = "{mysql}/{name}_tables", lock_wait = "5s" }}
gateway = {{ public_url = "http://tidemill.test", jwt_secret = "a secret of the tests, long enough" }}
telemetry = {{ listen = "127.0.0.1:0", poll = "2s" }}
fetcher = {{ lease = "3s", allow = ["127.0.0.0/8"] }}
processor = {{ lease = "3s", retries_max = 20, job_limit = "60s" }}

[broker]
servers = "{kafka}"
topic_prefix = "{name}"
partitions = 6
client = {{ "session.timeout.ms" = "6000", "heartbeat.interval.ms" = "1000" }}

[objects]
url = "s3://{bucket}/{name}"
endpoint = "{s3}"
region = "us-east-1"
access_key = "{key}"
secret_key = "{secret}"
allow_http = true

[notifier]
default_domain = "example.com"
smtp = {{ host = "127.0.0.1", port = {smtp}, tls = "none", timeout = "5s" }}

[query]
warm = 0
"""


def variable(name):
    """A variable of the servers."""
    if name not in os.environ:
        raise SystemExit(f"{name} is not set: `make torture` starts the servers and sets it")
    return os.environ[name]


class Cluster:
    """The processes and what they stand on."""

    def __init__(self, program, folder, api):
        self.program, self.folder = program, pathlib.Path(folder)
        self.name = f"tidemill_torture_{os.getpid()}"
        self.counts = collections.Counter()
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.stopped_at, self.read = {}, collections.Counter()
        self.mysql = variable("TIDEMILL_TEST_MYSQL_URL").rstrip("/")
        ports = {
            "mariadb": urllib.parse.urlsplit(self.mysql).port,
            "s3": urllib.parse.urlsplit(variable("TIDEMILL_TEST_S3_URL")).port,
            "smtp": urllib.parse.urlsplit(variable("TIDEMILL_TEST_SMTP")).port,
        }
        self.ways = {name: places.free_port() for name in PROXIED}
        self.proxy = subprocess.Popen(
            [sys.executable, str(HERE / "proxy.py"), *(f"{self.ways[name]}:{ports[name]}" for name in PROXIED)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )
        assert self.proxy.stdout.readline() == "ready\n", "the proxy did not start"
        places.write_pipelines(self.folder / "pipelines", api, schedule="* * * * *")
        self.place = {
            "jobs": f"{self.mysql}/{self.name}_jobs",
            "tables": f"{self.mysql}/{self.name}_tables",
            "objects": {
                "url": f"s3://{variable('TIDEMILL_TEST_S3_BUCKET')}/{self.name}",
                "endpoint": variable("TIDEMILL_TEST_S3_URL"),
                "access_key": variable("TIDEMILL_TEST_S3_KEY"),
                "secret_key": variable("TIDEMILL_TEST_S3_SECRET"),
            },
            "kafka": {"servers": variable("TIDEMILL_TEST_KAFKA"), "prefix": self.name},
            "mails": variable("TIDEMILL_TEST_SMTP_MAILDIR"),
            "told": list(places.UPLOADS),
        }
        self.gateways = [places.free_port() for role in ROLES if role == "gateway"]
        self.processes = [None] * len(ROLES)

    def databases(self, statement):
        """Makes or drops the databases."""
        import pymysql

        at = urllib.parse.urlsplit(self.mysql)
        with pymysql.connect(host=at.hostname, port=at.port, user=at.username, password=at.password) as connection:
            for which in ("jobs", "tables"):
                connection.cursor().execute(f"{statement} `{self.name}_{which}`")

    def start(self):
        """Makes databases, topics and a user, then starts all roles."""
        self.databases("CREATE DATABASE")
        at = urllib.parse.urlsplit(self.mysql)
        through = f"mysql://{at.username}:{at.password}@127.0.0.1:{self.ways['mariadb']}"
        text = SETTINGS.format(
            pipelines=self.folder / "pipelines", mysql=through, name=self.name, kafka=variable("TIDEMILL_TEST_KAFKA"),
            bucket=variable("TIDEMILL_TEST_S3_BUCKET"), s3=f"http://127.0.0.1:{self.ways['s3']}",
            key=variable("TIDEMILL_TEST_S3_KEY"), secret=variable("TIDEMILL_TEST_S3_SECRET"), smtp=self.ways["smtp"],
        )
        (self.folder / "tidemill.toml").write_text(text)
        for command in (["migrate"], ["user", "add", USER, "--admin", "--password-stdin"]):
            done = subprocess.run(
                [self.program, "--config", self.folder / "tidemill.toml", *command],
                input=PASSWORD + "\n", text=True, capture_output=True, env=places.environment(),
            )
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        for nth in range(len(ROLES)):
            self.start_role(nth)
        self.watching = threading.Thread(target=self.watch)
        self.watching.start()

    def urls(self):
        """Where the gateways listen."""
        return [f"http://127.0.0.1:{port}" for port in self.gateways]

    def points(self, nth):
        """The folder by which failpoints of a process are armed."""
        folder = self.folder / f"points-{nth}"
        folder.mkdir(exist_ok=True)
        return folder

    def start_role(self, nth):
        """Starts a process of the list."""
        line = [self.program, "--config", self.folder / "tidemill.toml"]
        if ROLES[nth] == "gateway":
            line += ["--set", f"gateway.listen=127.0.0.1:{self.gateways[nth]}"]
        log = self.folder / f"{ROLES[nth]}-{nth}.log"
        self.processes[nth] = places.Process([*line, ROLES[nth]], log, piped=False, FAILPOINTS_FOLDER=self.points(nth))
        self.counts["starts"] += 1

    def command(self, *arguments, **more):
        """Starts a command of the operator."""
        line = [self.program, "--config", self.folder / "tidemill.toml", *arguments]
        self.counts["commands"] += 1
        return places.Process(line, self.folder / f"command-{self.counts['commands']}.log", piped=False, **more)

    def says(self, point, action):
        """Whether the logs have told of this error of a failpoint since they were read last."""
        told = False
        for process in self.processes if action == "error" else ():
            with process.log.open("rb") as log:
                log.seek(self.read[process.log])
                new = log.read()
                self.read[process.log] += len(new)
            told |= f"pass a failpoint on the event log: {point}".encode() in new
        return told

    def watch(self):
        """Starts again what ended, lets go on what stands still."""
        while not self.closing.wait(0.3):
            for nth, process in enumerate(self.processes):
                if process.has_ended():
                    self.counts[f"ended by {process.child.returncode}"] += 1
                    self.start_role(nth)
                elif process.is_stopped():
                    since = self.stopped_at.setdefault(process.id, time.monotonic())
                    if time.monotonic() - since > STANDS_STILL:
                        self.stopped_at.pop(process.id)
                        process.send(signal.SIGCONT)

    def kill(self, nth):
        """kill -9; it is started again by itself."""
        self.counts["kills"] += 1
        self.processes[nth].send(signal.SIGKILL)

    def stop(self, nth):
        """SIGSTOP; it goes on by itself."""
        self.counts["stops"] += 1
        self.processes[nth].send(signal.SIGSTOP)

    def network(self, name, mode):
        """Changes the way to a server."""
        if mode != "open":
            self.counts[f"networks {mode}"] += 1
        self.proxy.stdin.write(f"{self.ways[name]} {mode}\n")

    def server(self, name, how, seconds):
        """Stops or kills a server, and starts it after a while."""
        servers = variable("TIDEMILL_TEST_SERVERS")
        self.counts[f"restarts of {name}"] += 1
        subprocess.run([servers, how, name], check=True, stdout=subprocess.DEVNULL)
        time.sleep(seconds)
        subprocess.run([servers, "start", name], check=True, stdout=subprocess.DEVNULL)

    def heal(self):
        """All servers and ways as they should be, and all processes new: what was not acked comes again after a start."""
        for name in PROXIED:
            self.network(name, "open")
        for nth, process in enumerate(self.processes):
            for file in self.points(nth).iterdir():
                file.unlink()
            process.send(signal.SIGKILL)

    def close(self):
        """Ends all processes."""
        self.closing.set()
        self.watching.join()
        for process in self.processes:
            process.kill()
        self.proxy.kill()

    def tails(self):
        """The last lines of every log, for the message of a failure."""
        told = []
        for log in sorted(self.folder.glob("*.log")):
            told.append(f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-8:]))
        return "\n".join(told)
