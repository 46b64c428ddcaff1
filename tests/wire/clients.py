"""Real clients of PostgreSQL against the wire of `tidemill dev`; called by tests/wire.rs with the name of a part.

libpq's variables (PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE) say where. Each part prints what it did; the first
check that fails ends it with status 1.
"""

import os
import subprocess
import sys
import threading
import time
from datetime import date, datetime, timezone
from decimal import Decimal

import psycopg
import sqlalchemy

TYPES = """SELECT id, ratio, amount, good, note, day, moment FROM kinds ORDER BY id"""
# What tests/wire.rs sent: a row of values, a row of extremes, a row of nulls.
KINDS = [
    (1, 0.5, Decimal("12.3400"), True, "Łódź, \"quoted\"", date(2021, 2, 3), utc := datetime(2021, 2, 3, 4, 5, 6, 789000, timezone.utc)),
    (-9223372036854775808, -1.7976931348623157e308, Decimal("-99999999999999999999999999.9999"), False, "", date(1, 1, 1), datetime(1970, 1, 1, tzinfo=timezone.utc)),
    (3, None, None, None, None, None, None),
]
KINDS.sort(key=lambda row: row[0])


def check(what, found, expected):
    if found != expected:
        sys.exit(f"{what}: found {found!r}, expected {expected!r}")
    print(f"ok: {what}")


def psql(*arguments, status=0, stdin=None):
    """Output and errors of psql, unaligned and without headers."""
    command = ["psql", "-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=300)
    if done.returncode != status:
        sys.exit(f"psql {arguments} ended with {done.returncode}, not {status}:\n{done.stdout}\n{done.stderr}")
    return done.stdout.strip(), done.stderr


def refused(what, code, statement, parameters=None, **connect):
    """Expects a statement to be refused with this SQLSTATE, and the connection to go on after it."""
    with psycopg.connect(autocommit=True, **connect) as connection:
        try:
            connection.execute(statement, parameters)
        except psycopg.Error as error:
            check(what, error.sqlstate, code)
            check(f"{what}: and then", connection.execute("SELECT 1").fetchone(), (1,))
            return error
    sys.exit(f"{what}: {statement[:100]} was taken")


def no_entry(what, code, **connect):
    """Expects a connection to be refused; libpq tells no code of its own, the message has to do."""
    try:
        psycopg.connect(**connect).close()
    except psycopg.OperationalError as error:
        if code not in str(error):
            sys.exit(f"{what}: no {code!r} in {error}")
        print(f"ok: {what}")
        return
    sys.exit(f"{what}: let in")


def part_psql():
    out, _ = psql("-c", "SELECT count(*), min(hired_at) FROM hired_employees")
    check("select", out, "1926|2020-11-01 02:56:35+00")
    out, _ = psql("-c", r"\dt")
    for table in ("departments", "hired_employees", "jobs", "kinds"):
        check(rf"\dt lists {table}", f"public|{table}|table|" in out, True)
    out, _ = psql("-c", r"\d")
    check(r"\d lists tables", "public|kinds|table|" in out, True)
    out, _ = psql("-c", r"\l")
    check(r"\l lists the database", "tidemill|" in out, True)
    out, _ = psql("-c", r"\d kinds")
    for column in ("id|bigint|", "ratio|double precision|", "amount|numeric", "good|boolean|", "note|text|", "day|date|", "moment|timestamp with time zone|"):
        check(rf"\d kinds tells {column}", column in out, True)
    out, _ = psql("-c", r"\dn")
    check(r"\dn lists schemas", "public|" in out and "tidemill|" in out, True)
    out, _ = psql("-c", r"\dv tidemill.*")
    check(r"\dv tidemill.* lists jobs", "tidemill|jobs|view|" in out, True)
    out, _ = psql("-c", "SELECT version(); SELECT current_database(), current_user, current_schema(); SHOW server_version")
    lines = out.splitlines()
    check("version()", lines[0].startswith("PostgreSQL 16.6 (Tidemill"), True)
    check("who and where", lines[1:], ["tidemill|admin|public", "16.6"])
    out, _ = psql("-c", "SELECT current_setting('statement_timeout'), current_setting('nothing', true) IS NULL")
    check("current_setting", out, "0|t")
    out, _ = psql(stdin="BEGIN;\nSELECT 1;\nCOMMIT;\nSET statement_timeout = '5s';\nSHOW statement_timeout;\n")
    check("transactions and SET", out.splitlines(), ["BEGIN", "1", "COMMIT", "SET", "5000ms"])
    out, _ = psql("-c", "SELECT note, amount FROM kinds WHERE id = 1")
    check("text of values", out, 'Łódź, "quoted"|12.3400')
    _, err = psql("-c", r"\copy kinds TO '/tmp/never.csv'", status=1)
    check(r"\copy is refused", "0A000" in err, True)
    _, err = psql("-c", "SELECT nothing\nFROM kinds", status=1)
    check("a wrong name is pointed at", "42703" in err and "LINE 1: SELECT nothing" in err, True)
    _, err = psql("-c", "SELECT * FROM kinds; SELEC", status=1)
    check("a wrong word is pointed at", "42601" in err, True)
    _, err = psql("-c", "SELECT * FROM kind", status=1)
    check("the nearest table is named", "42P01" in err and "kinds" in err, True)


def part_psycopg():
    with psycopg.connect() as connection:
        for binary in (False, True):
            cursor = connection.cursor(binary=binary)
            check(f"all types, binary {binary}", cursor.execute(TYPES).fetchall(), KINDS)
            kinds = [column.type_code for column in cursor.description]
            check("their types", kinds, [20, 701, 1700, 16, 25, 1082, 1184])
        amount = cursor.description[2]
        check("digits of a decimal", (amount.precision, amount.scale), (30, 4))
        for column, value in zip(("id", "ratio", "amount", "good", "note", "day", "moment"), KINDS[1]):
            found = connection.execute(f"SELECT id FROM kinds WHERE {column} = %s AND id = 1", [value]).fetchall()
            check(f"a parameter for {column}", found, [(1,)])
            found = connection.execute(f"SELECT id FROM kinds WHERE {column} = %b AND id = 1", [value]).fetchall()
            check(f"a binary parameter for {column}", found, [(1,)])
        found = connection.execute("SELECT count(*) FROM kinds WHERE note IS NULL OR note = %s", [None]).fetchone()
        check("a null as parameter", found, (1,))
        found = connection.execute("SELECT id FROM kinds WHERE note = %s", ["' OR 1 = 1 --"]).fetchall()
        check("a parameter is no SQL", found, [])
        for value in (Decimal("1.5"), 1.5):
            found = connection.execute("SELECT count(*) FROM kinds WHERE id < %s", [value]).fetchone()
            check(f"{value!r} beside an integer is not cut", found, (2,))
        values = [1, "a", 2.5, Decimal("1.25"), True, date(2020, 1, 1), datetime(2020, 1, 1, tzinfo=timezone.utc), None]
        for binary in (False, True):
            cursor = connection.cursor(binary=binary)
            found = cursor.execute("SELECT %s, %s, %s, %s, %s, %s, %s, %s", values).fetchone()
            check(f"values come back as they went, binary {binary}", list(found), values)
        small = connection.cursor(binary=True).execute("SELECT CAST(1 AS TINYINT), CAST(-2 AS SMALLINT), CAST(3 AS INT)")
        check("small integers in binary", small.fetchone(), (1, -2, 3))
        for prepared in range(8):
            found = connection.execute("SELECT department FROM departments WHERE id = %s", [1 + prepared % 3], prepare=True).fetchone()
            check("a prepared statement", bool(found[0]), True)
        with connection.cursor() as cursor:
            rows = sum(1 for _ in cursor.stream("SELECT * FROM hired_employees"))
            check("rows in a stream", rows, 1926)
    with psycopg.connect(autocommit=True) as connection:
        check("status after autocommit", connection.info.transaction_status.name, "IDLE")
        with connection.transaction():
            connection.execute("SELECT 1")
            check("status in a transaction", connection.info.transaction_status.name, "INTRANS")
        with connection.pipeline():
            found = [connection.execute("SELECT %s + 1", [n]) for n in range(5)]
        check("a pipeline", [cursor.fetchone()[0] for cursor in found], [1, 2, 3, 4, 5])
        client = psycopg.ClientCursor(connection)
        check("parameters put in by the client", client.execute("SELECT %s, %s", [1, "it's"]).fetchone(), (1, "it's"))
        found = connection.execute("SELECT (SELECT max(jobs.id) FROM jobs WHERE jobs.id = d.id) FROM departments d WHERE d.id = 3").fetchone()
        check("a correlated subquery has its value", found, (3,))
    with psycopg.connect(options="-c statement_timeout=7s", application_name="tests") as connection:
        check("options", connection.execute("SHOW statement_timeout").fetchone(), ("7000ms",))
        check("the name of a program", connection.info.parameter_status("application_name"), "tests")


def part_sqlalchemy():
    url = sqlalchemy.URL.create(
        "postgresql+psycopg", os.environ["PGUSER"], os.environ["PGPASSWORD"],
        os.environ["PGHOST"], int(os.environ["PGPORT"]), "tidemill",
    )
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.text("SELECT department FROM departments WHERE id = :id"), {"id": 2}).scalar()
        check("select", found, "Sales")
    inspector = sqlalchemy.inspect(engine)
    tables = set(inspector.get_table_names())
    check("tables", {"departments", "hired_employees", "jobs", "kinds"} <= tables, True)
    check("schemas", {"public", "tidemill"} <= set(inspector.get_schema_names()), True)
    check("views of a schema", {"jobs", "ledger"} <= set(inspector.get_view_names(schema="tidemill")), True)
    columns = {column["name"]: str(column["type"]) for column in inspector.get_columns("kinds")}
    expected = {"id": "BIGINT", "ratio": "DOUBLE PRECISION", "good": "BOOLEAN", "note": "TEXT", "day": "DATE", "moment": "TIMESTAMP"}
    check("columns", {name: columns.get(name) for name in expected}, expected)
    check("a decimal column", columns["amount"].startswith("NUMERIC"), True)
    kinds = sqlalchemy.Table("kinds", sqlalchemy.MetaData(), autoload_with=engine)
    with engine.connect() as connection:
        found = connection.execute(sqlalchemy.select(kinds.c.note).where(kinds.c.id == 1)).scalar()
        check("a reflected table", found, KINDS[1][4])
    engine.dispose()


def part_refusals():
    me = os.environ["PGUSER"]
    no_entry("a wrong password", "password authentication failed", password="not the password")
    no_entry("an unknown user", "password authentication failed", user="nobody")
    no_entry("another database", "does not exist", dbname="other")
    no_entry("TLS where there is none", "does not support SSL", sslmode="require")
    for what, code, statement in [
        ("INSERT", "25006", "INSERT INTO departments VALUES (99, 'x')"),
        ("UPDATE", "25006", "UPDATE departments SET name = 'x'"),
        ("DELETE in a CTE", "42000", "WITH gone AS (DELETE FROM departments RETURNING id) SELECT * FROM gone"),
        ("CREATE TABLE", "25006", "CREATE TABLE x (a int)"),
        ("CREATE EXTERNAL TABLE", "25006", "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'"),
        ("DROP TABLE", "25006", "DROP TABLE departments"),
        ("COPY to a file", "0A000", "COPY departments TO '/tmp/never.csv'"),
        ("EXPLAIN of a write", "25006", "EXPLAIN INSERT INTO departments VALUES (1, 'x')"),
        ("SET of the engine's", "42704", "SET datafusion.execution.batch_size = 1"),
        ("SET of another zone", "22023", "SET TIME ZONE 'Europe/Berlin'"),
        ("a wrong table", "42P01", "SELECT * FROM nothing"),
        ("the users' table", "42P01", "SELECT * FROM tidemill_users"),
        ("a wrong column", "42703", "SELECT nothing FROM departments"),
        ("a wrong function", "42883", "SELECT nothing(1)"),
        ("no SQL", "42601", "SELEC 1"),
        ("a statement that is too long", "54000", f"SELECT '{'x' * 200_000}'"),
        ("too many operators", "54001", "SELECT 1" + " + 1" * 5000),
        ("division by zero", "22000", "SELECT 1 / (id - id) FROM departments"),
    ]:
        refused(what, code, statement)
    for what, code, statement, values in [
        ("a prepared INSERT", "25006", "INSERT INTO departments VALUES (%s, %s)", [99, "x"]),
        ("a prepared DELETE", "25006", "DELETE FROM departments WHERE id = %s", [1]),
        ("two statements, prepared", "42601", "SELECT %s; SELECT 2", [1]),
        ("a list as parameter", "0A000", "SELECT * FROM departments WHERE id = ANY(%s)", [[1, 2]]),
        ("a text that is no number", "22P02", "SELECT * FROM departments WHERE id = %s", ["x"]),
        ("a value that is missing", "22023", "SELECT $1, $2", None),
    ]:
        refused(what, code, statement, values)
    with psycopg.connect() as connection:
        connection.execute("SELECT 1")
        try:
            connection.execute("SELECT nothing FROM departments")
        except psycopg.errors.UndefinedColumn as error:
            check("a place in the text", error.diag.statement_position, "8")
        check("the transaction has failed", connection.info.transaction_status.name, "INERROR")
        try:
            connection.execute("SELECT 1")
            sys.exit("a failed transaction went on")
        except psycopg.errors.InFailedSqlTransaction:
            print("ok: a failed transaction waits for its end")
        connection.rollback()
        check("and goes on after it", connection.execute("SELECT 1").fetchone(), (1,))
    try:
        with psycopg.connect() as connection:
            connection.execute("SELECT length(%s)", ["x" * 3_000_000])
        sys.exit("a message of 3 MB was taken")
    except psycopg.OperationalError as error:
        check("a message that is too long", "longer than" in str(error), True)
    many = []
    try:
        for _ in range(30):
            many.append(psycopg.connect())
        sys.exit("30 connections of one user were taken")
    except psycopg.OperationalError as error:
        check("too many connections of a user", f'too many connections for user "{me}"' in str(error), True)
        check("their number", len(many), 20)
    for connection in many:
        connection.close()
    print(f"ok: {len(many)} connections closed")


def part_reader():
    """A user with the right to read `departments` only."""
    with psycopg.connect(autocommit=True) as connection:
        check("what is granted", connection.execute("SELECT count(*) FROM departments").fetchone()[0] > 0, True)
        names = connection.execute("SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public'").fetchall()
        check("what is listed", names, [("departments",)])
    refused("what is not granted", "42P01", "SELECT * FROM hired_employees")
    with psycopg.connect(autocommit=True) as connection:
        seen = connection.execute("SELECT DISTINCT pipeline FROM tidemill.jobs").fetchall()
        check("jobs of others are not seen", seen, [("departments",)])


FOREVER = "SELECT count(*) FROM hired_employees a, hired_employees b, hired_employees c WHERE a.id + b.id + c.id = -1"


def part_cancel():
    with psycopg.connect(autocommit=True) as connection:
        for simple in (True, False):
            threading.Timer(1.0, connection.cancel).start()
            begun = time.monotonic()
            try:
                cursor = psycopg.ClientCursor(connection) if simple else connection.cursor()
                cursor.execute(FOREVER)
                sys.exit("a cancelled statement gave an answer")
            except psycopg.errors.QueryCanceled as error:
                took = time.monotonic() - begun
                check("cancelled by request", "due to user request" in str(error), True)
                print(f"cancelled after {took:.2f} s")
            check("the connection goes on", connection.execute("SELECT 1").fetchone(), (1,))
        connection.execute("SET statement_timeout = '700ms'")
        try:
            connection.execute(FOREVER)
            sys.exit("a statement outlived statement_timeout")
        except psycopg.errors.QueryCanceled as error:
            check("cancelled by its time", "statement timeout" in str(error), True)
        connection.execute("SET statement_timeout = 0")
        check("the connection goes on", connection.execute("SELECT 1").fetchone(), (1,))
    # A client that goes away takes its statement along: the next one finds a place at once.
    for _ in range(6):
        gone = psycopg.connect(autocommit=True)
        gone.pgconn.send_query(FOREVER.encode())
        time.sleep(0.3)
        gone.close()
    with psycopg.connect(autocommit=True) as connection:
        check("places of those who went are free", connection.execute("SELECT 1").fetchone(), (1,))
    with psycopg.connect(autocommit=True) as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT a.id FROM hired_employees a, hired_employees b LIMIT 100000")
        check("a long answer comes whole", len(cursor.fetchall()), 100000)


def part_tls():
    """PGHOST is an address of this machine that is not loopback."""
    no_entry("plain from elsewhere", "need TLS", sslmode="disable")
    with psycopg.connect(sslmode="require") as connection:
        check("TLS", connection.pgconn.ssl_in_use, True)
        check("and an answer", connection.execute("SELECT count(*) FROM departments").fetchone()[0], 12)
    with psycopg.connect(sslmode="verify-ca", sslrootcert=os.environ["CERTIFICATE"]) as connection:
        check("TLS that is verified", connection.execute("SELECT 1").fetchone(), (1,))
    out, _ = psql("-c", r"\conninfo")
    check("psql sees TLS", "SSL connection" in out, True)


if __name__ == "__main__":
    for part in sys.argv[1:]:
        globals()[f"part_{part}"]()
