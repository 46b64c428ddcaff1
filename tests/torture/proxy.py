#!/usr/bin/env python3
"""A TCP proxy that can be cut, hung, and slowed: the network between Tidemill and its servers. A process of its own.

usage: proxy.py LISTEN:TARGET…          ports of 127.0.0.1

It reads commands from its input: `PORT open`, `PORT cut` (connections end, new ones too), `PORT hang` (nothing passes),
`PORT slow` (each piece waits). Started by cluster.py.
"""

import asyncio
import sys

# Bytes of a piece, and how long a piece waits on a slow way, in seconds.
PIECE, SLOW = 65_536, 0.05
WAYS = {}


class Way:
    """One port and what passes there."""

    def __init__(self, target):
        self.target, self.mode, self.writers = target, "open", set()
        self.changed = asyncio.Event()

    def set(self, mode):
        """Changes what passes; a cut ends what is open, also in the middle of an answer."""
        self.mode = mode
        self.changed.set()
        self.changed = asyncio.Event()
        if mode == "cut":
            for writer in list(self.writers):
                writer.transport.abort()

    async def serve(self, reader, writer):
        """One connection."""
        if self.mode == "cut":
            writer.transport.abort()
            return
        try:
            there = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        self.writers |= {writer, there[1]}
        try:
            await asyncio.gather(self.pump(reader, there[1]), self.pump(there[0], writer))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            for one in (writer, there[1]):
                one.transport.abort()
                self.writers.discard(one)

    async def pump(self, reader, writer):
        """One direction; its end ends the other, too."""
        while piece := await reader.read(PIECE):
            while self.mode == "hang":
                await self.changed.wait()
            if self.mode == "slow":
                await asyncio.sleep(SLOW)
            writer.write(piece)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def main():
    """Serves until its input ends."""
    for pair in sys.argv[1:]:
        listen, target = map(int, pair.split(":"))
        WAYS[listen] = Way(target)
        await asyncio.start_server(WAYS[listen].serve, "127.0.0.1", listen)
    commands = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(commands)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    print("ready", flush=True)
    while line := await commands.readline():
        port, mode = line.decode().split()
        WAYS[int(port)].set(mode)


asyncio.run(main())
