# Law of this file: a process of its own that plays the CDN. It reads the store's directory and
# knows nothing else; Offramp is not asked for anything.
#
#   python -m cli.demo_cdn STORE [PORT]

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from aiohttp import web


async def run(store: Path, port: int) -> None:
    """Serve the entities below ``store`` on loopback until told to stop; print the port."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    app = web.Application()
    entities = store / "entities"
    entities.mkdir(parents=True, exist_ok=True)
    app.router.add_static("/entities", entities)  # files by sendfile, and Range
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201 - whoever starts us waits for it
    await stopped.wait()
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(run(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
