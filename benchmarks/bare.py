# Law of this file: the least that an aiohttp server does for a request: read its body and write as
# many bytes as it is told. What Offramp costs beyond this is its own.

from __future__ import annotations

import asyncio
import socket
import sys

from aiohttp import web


async def main() -> None:
    """Serve on a free port, which is printed; the one argument is the size of the answer."""
    body = b"x" * int(sys.argv[1])

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=body)

    app = web.Application(client_max_size=16 << 20)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    bound = socket.socket()
    bound.bind(("127.0.0.1", 0))
    await web.SockSite(runner, bound, backlog=1024).start()
    print(f"http://127.0.0.1:{bound.getsockname()[1]}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
