"""deploy/nginx/data-export.conf before a gunicorn of deploy/gunicorn.conf.py, as a browser meets them: by https."""

import hashlib
import http.client
import io
import os
import ssl
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from exporter_site.config import BASE_DIR
from tests import servers
from tests.api.live import prepare
from tests.conftest import missing_program
from tests.instance import Instance
from tests.servers import free_port

BODY = bytes(range(256)) * 4000
NAME = "每日 订单%41?.xlsx"
ROWS = """
import hashlib
from django.test import Client
from tasks import files
from tasks.models import DownloadLink, Execution
from tasks.states import Status
from exporter_site.links import token_of
from tests.factories import make_admin, make_execution, paths_of

def finished(*names):
    execution = make_execution()
    place = files.output_root() / "2026-11" / f"{{execution.pk}}-1"
    place.mkdir(parents=True)
    parts = []
    for name in names:
        body = bytes(range(256)) * 4000
        (place / name).write_bytes(body)
        path, digest = f"2026-11/{{execution.pk}}-1/{{name}}", hashlib.sha256(body).hexdigest()
        parts.append(dict(path=path, rows=1, size=len(body), sha256=digest))
    Execution.objects.filter(pk=execution.pk).update(status=Status.SUCCEEDED, files=parts, filename=names[0])
    return Execution.objects.get(pk=execution.pk)

client = Client()
client.force_login(make_admin())
result["cookie"] = "sessionid=" + client.cookies["sessionid"].value
one, result["one"] = finished({name!r}), 1
result["two"] = finished("a.xlsx", "b.xlsx").pk
result["link"] = token_of(DownloadLink.objects.make(one).pk)
stolen = finished("stolen.xlsx")
paths_of(stolen)[0].unlink()
paths_of(stolen)[0].symlink_to({keys!r})
result["stolen"] = stolen.pk
"""


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


@dataclass
class Site:
    instance: Instance
    rows: dict[str, Any]
    port: int
    plain_port: int
    web_port: int
    trusted: ssl.SSLContext
    access_log: Path
    command: list[str]

    def get(self, path: str, *, cookie: bool = True, source: str = "127.0.0.1", **headers: str) -> Answer:
        connection = http.client.HTTPSConnection(
            "localhost", self.port, timeout=30, context=self.trusted, source_address=(source, 0)
        )
        return self._answer(connection, path, {"Cookie": self.rows["cookie"]} if cookie else {}, headers)

    def past_nginx(self, path: str) -> Answer:
        """What gunicorn itself answers, to a request that nginx would make."""
        connection = http.client.HTTPConnection("127.0.0.1", self.web_port, timeout=30)
        headers = {"Host": f"localhost:{self.port}", "X-Forwarded-Proto": "https"}
        return self._answer(connection, path, {"Cookie": self.rows["cookie"]}, headers)

    @staticmethod
    def _answer(
        connection: http.client.HTTPConnection, path: str, cookie: dict[str, str], headers: dict[str, str]
    ) -> Answer:
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request("GET", path, headers=named | cookie | {"Accept-Language": "en"})
            answer = connection.getresponse()
            return Answer(answer.status, answer.headers, answer.read())
        finally:
            connection.close()


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for localhost that nobody but this test trusts, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(issuer_name=name, subject_name=name, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    chain, private = directory / "fullchain.pem", directory / "privkey.pem"
    chain.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    return chain, private


def written(home: Path, replaced: dict[str, str]) -> Path:
    """A whole nginx.conf around the file of deploy/, in which each key of `replaced`, which must be there, is changed."""
    text = (BASE_DIR / "deploy/nginx/data-export.conf").read_text()
    for before, after in replaced.items():
        assert before in text, before
        text = text.replace(before, after)
    (home / "site.conf").write_text(text)
    places = "".join(
        f"    {kind}_temp_path {home}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""  # the directories of a test are its user's alone
    (home / "nginx.conf").write_text(
        f"{user}daemon off;\nworker_processes 1;\npid {home}/nginx.pid;\nerror_log {home}/error.log;\n"
        f"events {{}}\nhttp {{\n{places}    include {home}/site.conf;\n}}\n"
    )
    return home / "nginx.conf"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Site]:
    with missing_program():
        nginx = servers.find_binary("nginx", package="nginx-light")
    place = tmp_path_factory.mktemp("nginx")
    instance = Instance(place / "instance", request.config.getoption("--system-db"))
    rows = prepare(instance, ROWS.format(name=NAME, keys=instance.environment["EXPORTER_KEYS_FILE"]))
    port, plain_port, web_port = free_port(), free_port(), free_port()
    chain, private = certificate(place)
    access_log = place / "access.log"
    configuration = written(
        place,
        {
            "listen 80;": f"listen 127.0.0.1:{plain_port};",
            "listen [::]:80;": "",
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "listen [::]:443 ssl;": "",
            "server_name export.example.com;": "server_name localhost;",
            "/etc/ssl/data-export/fullchain.pem": str(chain),
            "/etc/ssl/data-export/privkey.pem": str(private),
            "/var/log/nginx/data-export.access.log": str(access_log),
            "server 127.0.0.1:5001;": f"server 127.0.0.1:{web_port};",
            "/var/lib/data-export-system/exports": str(instance.output_dir),
        },
    )
    command = [str(nginx), "-c", str(configuration), "-e", str(place / "error.log")]
    web = [sys.executable, "-m", "gunicorn", "-c", str(BASE_DIR / "deploy/gunicorn.conf.py"), "exporter_site.wsgi"]
    environment = instance.environment | {
        "EXPORTER_WEB__HOST": "127.0.0.1",
        "EXPORTER_WEB__PORT": str(web_port),
        "EXPORTER_WEB__PUBLIC_URL": f"https://localhost:{port}",
        "EXPORTER_WEB__TRUSTED_PROXIES": "127.0.0.1",
        "EXPORTER_WEB__ACCEL_PREFIX": "/_exports/",
    }
    with (place / "output.log").open("w") as log:
        started = [
            subprocess.Popen(arguments, env=environment, stdout=log, stderr=log, preexec_fn=servers.die_with_parent(15))
            for arguments in (web, command)
        ]
    trusted = ssl.create_default_context(cafile=str(chain))
    found = Site(instance, rows, port, plain_port, web_port, trusted, access_log, command)
    try:
        _wait(found, started, place / "output.log")
        yield found
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(40)
        instance.close()


def _wait(site: Site, started: list["subprocess.Popen[bytes]"], log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end and all(process.poll() is None for process in started):
        try:
            if site.get("/healthz/web").status == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def file_of(site: Site, name: str) -> str:
    return f"/executions/{site.rows[name]}/download"


def downloads(site: Site) -> list[list[Any]]:
    code = "from tasks.models import Download\nrows = Download.objects.order_by('id')"
    wanted = "[[row.filename, row.part, row.bytes, row.address] for row in rows]"
    found: list[list[Any]] = prepare(site.instance, f"{code}\nresult['rows'] = {wanted}")["rows"]
    return found


def test_nginx_takes_the_configuration_without_a_word_of_warning(site: Site) -> None:
    done = subprocess.run([*site.command, "-t"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_the_login_page_comes_by_https_and_http_leads_there(site: Site) -> None:
    answer = site.get("/admin/login/", cookie=False)
    assert (answer.status, b'name="username"' in answer.body) == (200, True)
    assert answer.headers["Strict-Transport-Security"]
    assert "Secure" in answer.headers["Set-Cookie"]
    connection = http.client.HTTPConnection("127.0.0.1", site.plain_port, timeout=30)
    connection.request("GET", "/admin/login/")
    plain = connection.getresponse()
    assert (plain.status, plain.headers["Location"]) == (301, "https://localhost/admin/login/")
    connection.close()


def test_a_file_is_sent_by_nginx_as_the_system_would_send_it(site: Site) -> None:
    own = site.past_nginx(file_of(site, "one"))
    assert (own.status, own.body) == (200, b"")
    assert own.headers["X-Accel-Redirect"] == f"/_exports/2026-11/1-1/{quote(NAME)}"
    answer = site.get(file_of(site, "one"))
    assert (answer.status, answer.body == BODY) == (200, True)
    assert answer.headers["ETag"] == f'"{hashlib.sha256(BODY).hexdigest()}"'
    assert answer.headers["Content-Disposition"] == f"attachment; filename*=utf-8''{quote(NAME)}"
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert "X-Accel-Redirect" not in answer.headers
    of_the_connection = {"Date", "Server", "Connection", "Content-Length", "X-Accel-Redirect", "Set-Cookie"}
    about_a_page = {"Vary", "Content-Language"}
    for name in set(own.headers) - of_the_connection - about_a_page:
        assert answer.headers[name] == own.headers[name], name


@pytest.mark.parametrize(
    ("headers", "status", "sent"),
    [
        ({"Range": "bytes=1000-1999"}, 206, slice(1000, 2000)),
        ({"Range": "bytes=-5"}, 206, slice(-5, None)),
        ({"Range": f"bytes={len(BODY)}-"}, 416, None),
        ({"Range": "bytes=0-1,5-6"}, 200, slice(None)),
        ({"Range": "bytes=5-", "If_Range": '"another"'}, 200, slice(None)),
        ({"Range": "bytes=5-", "If_Range": f'"{hashlib.sha256(BODY).hexdigest()}"'}, 206, slice(5, None)),
    ],
)
def test_ranges_are_as_without_nginx(site: Site, headers: dict[str, Any], status: int, sent: slice | None) -> None:
    answer = site.get(file_of(site, "one"), **headers)
    assert answer.status == status
    assert sent is None or answer.body == BODY[sent]


def test_several_parts_are_still_one_zip_of_ours(site: Site) -> None:
    answer = site.get(file_of(site, "two"))
    with zipfile.ZipFile(io.BytesIO(answer.body)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) == BODY for name in archive.namelist()} == {"a.xlsx": True, "b.xlsx": True}
    assert site.get(f"{file_of(site, 'two')}?part=2").body == BODY


def test_a_download_is_on_record_with_the_address_of_the_person(site: Site) -> None:
    before = len(downloads(site))
    site.get(file_of(site, "one"), source="127.0.0.9", X_Forwarded_For="203.0.113.7", Range="bytes=0-9")
    assert downloads(site)[before:] == [[NAME, 1, 10, "127.0.0.9"]]


@pytest.mark.parametrize(
    "path",
    [
        f"/_exports/2026-11/1-1/{quote(NAME)}",
        "/_exports/",
        "/_exports/../data/keys.json",
        "/_exports/%2e%2e/data/keys.json",
        "/_exports/..%2fdata/keys.json",
        "/%5fexports/2026-11/2-1/a.xlsx",
    ],
)
def test_nobody_gets_a_file_by_its_place(site: Site, path: str) -> None:
    answer = site.get(path)
    assert answer.status == 404
    assert b"encryption_keys" not in answer.body


def test_a_link_among_the_files_leads_nowhere(site: Site) -> None:
    answer = site.get(file_of(site, "stolen"))
    assert answer.status == 403
    assert b"encryption_keys" not in answer.body


def test_the_log_has_the_number_of_a_shared_file_but_not_its_key(site: Site) -> None:
    token = site.rows["link"]
    answer = site.get(f"/d/{token}/file", cookie=False)
    assert answer.body == BODY
    log = site.access_log.read_text()
    assert f"GET /d/{token.partition('.')[0]}.***" in log
    assert token not in log
