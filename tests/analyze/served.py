"""The explorer's server in a thread, for tests that ask it over HTTP."""

import threading
from contextlib import contextmanager

TOKEN = "t" * 22


@contextmanager
def serving(resources):
    """Its port, while it answers."""
    import uvicorn

    from actstore_analyze.report.explore.server import application, listening

    bound = listening()
    server = uvicorn.Server(uvicorn.Config(application(resources, TOKEN), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield bound.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        bound.close()
