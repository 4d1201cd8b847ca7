"""Passes bytes between its own port and another, until it is killed.

Stands where whippetd stands when the broker is one that must not be restarted: to its clients, the
death of the relay is the death of the broker.
"""
import argparse
import asyncio
import signal


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass  # One end has gone: the other is told by the close below.
    finally:
        writer.close()


async def main():
    parser = argparse.ArgumentParser(description="Relay a TCP port.")
    parser.add_argument("--to", required=True)
    parser.add_argument("--listen", required=True)
    chosen = parser.parse_args()
    to_host, to_port = chosen.to.rsplit(":", 1)
    host, port = chosen.listen.rsplit(":", 1)

    async def accept(reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(to_host, int(to_port))
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    server = await asyncio.start_server(accept, host, int(port))
    print(f"listening on {host}:{server.sockets[0].getsockname()[1]}", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    server.close()


asyncio.run(main())
