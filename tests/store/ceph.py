"""Ceph's gateway on this machine, in memory, for tests: packages radosgw, ceph-mon and ceph-osd of Debian."""

import hashlib
import hmac
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
KEY, SECRET, REGION = "key", "sEcReT-kEy", "us-east-1"
CONF = """
[global]
fsid = {fsid}
mon host = v1:127.0.0.1:{mon}
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 2147483648
mon allow pool size one = true
mon data avail crit = 1
ms bind msgr2 = false
run dir = {folder}
admin socket = {folder}/$name.asok
log file = {folder}/$name.log
mon data = {folder}/mon
osd data = {folder}/osd
rgw data = {folder}/rgw
"""
UP = 60.0  # seconds that the gateway has to answer


def is_installed() -> bool:
    """Whether it can be started here."""
    return all(map(shutil.which, PROGRAMS))


@contextmanager
def gateway(folder: Path, bucket: str) -> Iterator[str]:
    """The address of a gateway that has an empty bucket, and KEY with SECRET as credentials."""
    mon, port, disk, fsid = _free(), _free(), str(uuid.uuid4()), str(uuid.uuid4())
    for name in ("mon", "osd", "rgw"):
        (folder / name).mkdir(parents=True)
    conf, monmap = folder / "ceph.conf", folder / "monmap"
    conf.write_text(CONF.format(fsid=fsid, mon=mon, folder=folder))

    def run(program: str, *words: str) -> None:
        subprocess.run([program, "-c", conf, *words], check=True, capture_output=True, timeout=UP)

    with ExitStack() as running:

        def start(program: str, *words: str) -> None:
            daemon = subprocess.Popen(
                [program, "-c", conf, *words, "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            running.callback(daemon.wait)
            running.callback(daemon.kill)

        words = ["monmaptool", "--create", "--fsid", fsid, "--addv", "a", f"[v1:127.0.0.1:{mon}]", str(monmap)]
        subprocess.run(words, check=True, capture_output=True)
        run("ceph-mon", "-i", "a", "--mkfs", "--monmap", str(monmap))
        start("ceph-mon", "-i", "a")
        run("ceph", "osd", "new", disk, "0")
        run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", disk)
        run("ceph", "osd", "crush", "add", "osd.0", "1.0", f"host={socket.gethostname()}", "root=default")
        start("ceph-osd", "-i", "0")
        run(
            "radosgw-admin",
            "user",
            "create",
            "--uid=me",
            "--display-name=me",
            f"--access-key={KEY}",
            f"--secret={SECRET}",
        )
        start("radosgw", "-n", "client.admin", f"--rgw-frontends=beast endpoint=127.0.0.1:{port}")
        _make(f"127.0.0.1:{port}", bucket)
        yield f"http://127.0.0.1:{port}"


def _free() -> int:
    """A port that nobody has now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _make(host: str, bucket: str) -> None:
    """Make a bucket, once the gateway answers: a request signed as S3 has it."""
    end = time.monotonic() + UP
    while True:
        now = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        empty, scope = hashlib.sha256(b"").hexdigest(), f"{now[:8]}/{REGION}/s3/aws4_request"
        headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": now}
        names = ";".join(headers)
        lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
        asked = hashlib.sha256(f"PUT\n/{bucket}\n\n{lines}\n{names}\n{empty}".encode()).hexdigest()
        key = f"AWS4{SECRET}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{asked}".encode(), "sha256").hex()
        told = f"AWS4-HMAC-SHA256 Credential={KEY}/{scope}, SignedHeaders={names}, Signature={signature}"
        headers = {name: value for name, value in headers.items() if name != "host"}  # which urllib says itself
        request = Request(f"http://{host}/{bucket}", method="PUT", headers={**headers, "Authorization": told})
        try:
            urlopen(request, timeout=9).close()
            return
        except (URLError, ConnectionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.5)
