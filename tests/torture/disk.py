"""A full disk beneath the embedded parts: `tidemill dev` on a small tmpfs that is filled while files come. Used by torture.py.

Needs root, for the mount. What was accepted must be there once there is room again.
"""

import pathlib
import subprocess
import threading
import time

import check
import place as places
from client import Client, File, Record

SIZE = 48 << 20
# How long the disk is full, and longest wait for the end of all work after it, in seconds.
FULL, QUIET = 8, 180


def fill(program, folder, seed):
    """Gives the violations."""
    folder = pathlib.Path(folder)
    data = folder / "data"
    data.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", data], check=True)
    dev = None
    try:
        places.write_pipelines(folder / "pipelines")
        dev = places.Dev(program, folder, folder / "pipelines", "processor.retries_max=20")
        dev.start()
        record, over = Record(folder / "sent.jsonl"), threading.Event()
        client = Client(lambda: [dev.url], record).login(user="admin")
        sent, answers = [], []
        sender = threading.Thread(target=send, args=(client, seed, over, sent, answers))
        sender.start()
        time.sleep(2)
        ballast = data / "ballast"
        for _ in range(FULL):
            fill_up(ballast)
            time.sleep(1)
        ballast.unlink()
        over.set()
        sender.join()
        if dev.process.has_ended():
            # It may give up on a full disk; it must not lose anything.
            dev.start()
        left = places.settle(dev.place, QUIET)
        found, figures = check.check(dev.place, record.entries)
        refused = sum(status not in (202, None) for status in answers)
        print(
            f"full disk: {len(sent)} files accepted, {refused} refused meanwhile, {figures['jobs']} jobs, "
            f"{figures.get('failed', 0)} failed, {len(found)} violations",
            flush=True,
        )
        if not refused:
            found.append("the disk was never full: nothing was refused")
        return ([f"not quiet: {left}\n{dev.process.says()[-2000:]}"] if left else []) + found
    finally:
        if dev and dev.process:
            dev.process.kill()
        subprocess.run(["umount", "-l", data], check=True)


def fill_up(ballast):
    """Takes all room that is left."""
    with ballast.open("ab") as file:
        try:
            while True:
                file.write(b"0" * (1 << 20))
                file.flush()
        except OSError:
            return


def send(client, seed, over, sent, answers):
    """Files one after the other, each until it is accepted."""
    nth = 0
    while not over.is_set():
        nth += 1
        file = File("appends", seed % 1_000 * 1_000 + nth, 200, 2, **places.EXPECTED["appends"])
        file.note(client.record)
        while True:
            status, job_id = client.try_send(file)
            answers.append(status)
            if job_id:
                sent.append(job_id)
                break
            if over.is_set():
                return
            time.sleep(0.2)
