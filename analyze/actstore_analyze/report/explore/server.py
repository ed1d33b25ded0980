"""The explorer's server: on this machine alone, for who has its token."""

import secrets
import socket
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from actstore.errors import ActstoreError
from actstore_analyze.report.explore import page, projection
from actstore_analyze.report.explore.resources import MissingError, Resources

__all__ = ["HOST", "application", "listening", "serve"]

HOST = "127.0.0.1"
NAMES = [HOST, "localhost"]  # another name of this machine may be a page's of somebody else (DNS rebinding)
# regl makes draw functions of text, which is all that 'unsafe-eval' allows here.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Answer = Callable[[Request], Awaitable[Response]]


def listening(port: int = 0) -> socket.socket:
    """A socket on this machine alone, at a free port if none is said; ActstoreError where the port is taken."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
        found.listen()
    except OSError as error:
        found.close()
        raise ActstoreError(f"port {port} of {HOST} cannot be had ({error.strerror}); leave --port out") from None
    return found


def application(resources: Resources, token: str) -> Starlette:
    """What answers: the page to who brings the token, and its resources to that page."""
    cookie = f"actstore-{secrets.token_hex(4)}"  # cookies know no ports: another explorer's is another

    async def guarded(request: Request, answer: Answer) -> Response:
        brought = request.query_params.get("token") if request.url.path == "/" else None
        held = request.cookies.get(cookie)
        if not any(one is not None and secrets.compare_digest(one.encode(), token.encode()) for one in (brought, held)):
            response: Response = PlainTextResponse(
                "This page wants the token that actstore explore printed: open the address as it stands there.\n", 403
            )
        else:
            response = await answer(request)
            if brought is not None:
                response.set_cookie(cookie, token, httponly=True, samesite="strict")
        response.headers.update(HEADERS)
        return response

    async def start(_: Request) -> Response:
        return _file("explore.html")

    async def file(request: Request) -> Response:
        name = request.path_params["name"]
        return _file(name) if name in page.FILES else PlainTextResponse("no such file\n", 404)

    async def data(request: Request) -> Response:
        path = request.scope["raw_path"].decode().partition("/data/")[2]
        if query := request.scope["query_string"].decode():
            path = f"{path}?{query}"
        return await _answered(lambda: resources.get(path))

    async def whole(request: Request) -> Response:
        asked = dict(request.query_params)
        panels = [(asked.get(f"store{n}"), asked.get(f"role{n}"), asked.get(f"condition{n}")) for n in ("", "2")]

        def made() -> bytes:
            shown = [tuple(one or "" for one in panel) for panel in panels if any(panel) or panel == panels[0]]
            there, method = page.choices(resources), asked.get("method", "pca")
            if lost := [one for one in shown if one not in there]:
                known = ", ".join("/".join(one) for one in there)
                raise MissingError(f"{'/'.join(lost[0])} (store, role and condition); there are {known}")
            if method not in projection.methods():
                raise MissingError(f"{method} (method); there are {', '.join(projection.methods())}")
            choices = [one for one in there if one in shown]
            return page.saved(resources, choices, method=method, state=asked).encode()

        response = await _answered(made)
        response.headers["Content-Disposition"] = 'attachment; filename="explore.html"'
        return response

    return Starlette(
        routes=[
            Route("/", start),
            Route("/static/{name:path}", file),
            Route("/data/{path:path}", data),
            Route("/page.html", whole),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=NAMES, www_redirect=False),
            Middleware(BaseHTTPMiddleware, dispatch=guarded),
        ],
    )


def _file(name: str) -> Response:
    return Response(page.static(name), media_type=page.FILES[name])


async def _answered(ask: Callable[[], object]) -> Response:
    """What a resource is, or why it cannot be had, in words."""
    try:
        found = await run_in_threadpool(ask)
    except MissingError as error:
        return PlainTextResponse(f"nothing is called {error}\n", 404)
    except ActstoreError as error:
        return PlainTextResponse(str(error), 400)
    if isinstance(found, bytes):
        return Response(found, media_type="application/octet-stream")
    return JSONResponse(found)


def serve(resources: Resources, opened: socket.socket, token: str) -> None:
    """Answer until the user ends it."""
    import uvicorn

    config = uvicorn.Config(application(resources, token), log_level="warning", lifespan="off", server_header=False)
    uvicorn.Server(config).run(sockets=[opened])
