"""Reads what Tidemill left behind: databases, objects, offsets. It never asks Tidemill and never writes.

Used by check.py. SQLite and folders need Python alone; MySQL and Kafka need requirements.txt.
"""

import datetime
import hashlib
import hmac
import http.client
import json
import pathlib
import sqlite3
import urllib.parse
import xml.etree.ElementTree as xml

# Longest wait for a server's answer, in seconds.
WAIT = 30
# Who reads which topic.
GROUPS = (("landed", "processor"), ("finished", "notifier"))


class Database:
    """A database of SQLite or MySQL, by the URL that the settings of Tidemill have."""

    def __init__(self, url):
        self.is_mysql = url.startswith("mysql:")
        if self.is_mysql:
            import pymysql

            at = urllib.parse.urlsplit(url)
            self.connection = pymysql.connect(
                host=at.hostname,
                port=at.port or 3306,
                user=urllib.parse.unquote(at.username or ""),
                password=urllib.parse.unquote(at.password or ""),
                database=at.path.strip("/"),
                charset="utf8mb4",
                autocommit=True,
                connect_timeout=WAIT,
                read_timeout=10 * WAIT,
            )
        else:
            path = urllib.parse.unquote(url.removeprefix("sqlite:").removeprefix("//"))
            self.connection = sqlite3.connect(path, timeout=WAIT)
            self.connection.execute("PRAGMA query_only = 1")

    def rows(self, sql):
        """The rows of a statement, each a dict by the names of the columns."""
        cursor = self.connection.cursor()
        cursor.execute(sql)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor.fetchall()]

    def tables(self):
        """The names of all tables."""
        if self.is_mysql:
            return {next(iter(row.values())) for row in self.rows("SHOW TABLES")}
        return {row["name"] for row in self.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}


class Folder:
    """An object store that is a folder."""

    def __init__(self, path):
        self.root = pathlib.Path(path)

    def list(self, prefix=""):
        """Keys and sizes below a prefix that ends with a slash."""
        below = self.root / prefix
        files = (path for path in below.rglob("*") if path.is_file())
        # Names with # are writes of object_store that were never completed.
        return {
            str(path.relative_to(self.root)): path.stat().st_size for path in files if "#" not in path.name
        }

    def get(self, key):
        """The bytes of an object, or None."""
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None


class Bucket:
    """An object store that speaks S3, asked by requests signed with version 4."""

    def __init__(self, place):
        at = urllib.parse.urlsplit(place["url"])
        self.bucket, self.prefix = at.netloc, at.path.strip("/")
        self.endpoint = urllib.parse.urlsplit(place["endpoint"])
        self.key, self.secret = place["access_key"], place["secret_key"]
        self.region = place.get("region", "us-east-1")

    def _full(self, key):
        return f"{self.prefix}/{key}" if self.prefix else key

    def _sign(self, key, text):
        return hmac.new(key, text.encode(), hashlib.sha256).digest()

    def _request(self, path, query):
        now = datetime.datetime.now(datetime.timezone.utc)
        stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
        quoted = urllib.parse.quote(path, safe="/-_.~")
        pairs = "&".join(
            f"{urllib.parse.quote(name, safe='-_.~')}={urllib.parse.quote(value, safe='-_.~')}"
            for name, value in sorted(query.items())
        )
        empty = hashlib.sha256(b"").hexdigest()
        headers = {"host": self.endpoint.netloc, "x-amz-content-sha256": empty, "x-amz-date": stamp}
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
        canonical = f"GET\n{quoted}\n{pairs}\n{lines}\n{names}\n{empty}"
        scope = f"{day}/{self.region}/s3/aws4_request"
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        key = f"AWS4{self.secret}".encode()
        for part in (day, self.region, "s3", "aws4_request"):
            key = self._sign(key, part)
        signature = self._sign(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}").hex()
        headers["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        connection = http.client.HTTPConnection(self.endpoint.hostname, self.endpoint.port, timeout=WAIT)
        try:
            connection.request("GET", quoted + (f"?{pairs}" if pairs else ""), headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def list(self, prefix=""):
        """Keys and sizes below a prefix that ends with a slash."""
        query, found = {"list-type": "2", "prefix": self._full(prefix)}, {}
        while True:
            status, body = self._request(f"/{self.bucket}", query)
            if status != 200:
                raise RuntimeError(f"failed to list objects: {status} {body[:300]!r}")
            tree = xml.fromstring(body)
            space = tree.tag[: tree.tag.index("}") + 1] if "}" in tree.tag else ""
            for entry in tree.iter(f"{space}Contents"):
                key = entry.findtext(f"{space}Key")
                key = key.removeprefix(f"{self.prefix}/") if self.prefix else key
                found[key] = int(entry.findtext(f"{space}Size") or 0)
            token = tree.findtext(f"{space}NextContinuationToken")
            if tree.findtext(f"{space}IsTruncated") != "true" or not token:
                return found
            query["continuation-token"] = token

    def get(self, key):
        """The bytes of an object, or None."""
        status, body = self._request(f"/{self.bucket}/{self._full(key)}", {})
        if status == 404:
            return None
        if status != 200:
            raise RuntimeError(f"failed to read object `{key}`: {status} {body[:300]!r}")
        return body


def objects(place):
    """The object store of a place: a path, or the settings of S3."""
    return Folder(place) if isinstance(place, str) else Bucket(place)


def embedded_lag(path):
    """Records of the embedded log that a group has not committed, by (topic, group)."""
    log = Database(f"sqlite:{path}")
    heads = log.rows("SELECT topic, part, next FROM heads")
    commits = log.rows("SELECT topic, member_group, part, next FROM commits")
    committed = {(row["topic"], row["member_group"], row["part"]): row["next"] for row in commits}
    lag = {}
    # A group that has committed nothing yet has all records before it.
    for topic, group in {*GROUPS, *((row["topic"], row["member_group"]) for row in commits)}:
        behind = (head["next"] - committed.get((topic, group, head["part"]), 0) for head in heads if head["topic"] == topic)
        lag[topic, group] = sum(behind)
    return lag


def kafka_lag(place):
    """The same of Kafka's groups, for the prefix of the installation."""
    from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

    servers, prefix = place["servers"], place["prefix"]
    admin = KafkaAdminClient(bootstrap_servers=servers, request_timeout_ms=WAIT * 1000)
    consumer = KafkaConsumer(bootstrap_servers=servers, request_timeout_ms=WAIT * 1000 + 10_000)
    lag = {}
    try:
        for topic, group in GROUPS:
            name = f"{prefix}.{topic}"
            parts = [TopicPartition(name, part) for part in consumer.partitions_for_topic(name) or ()]
            ends, begins = consumer.end_offsets(parts), consumer.beginning_offsets(parts)
            committed = _committed(admin, f"{prefix}.{group}")
            lag[topic, group] = sum(max(0, ends[part] - max(begins[part], committed.get(part, 0))) for part in parts)
    finally:
        consumer.close()
        admin.close()
    return lag


def _committed(admin, group):
    offsets = admin.list_group_offsets(group)[group]
    return {part: getattr(offset, "offset", offset) for part, offset in offsets.items()}


def json_of(text, default=None):
    """A JSON value that a database or an object holds."""
    return default if text in (None, "", b"") else json.loads(text)
