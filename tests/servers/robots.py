"""A private HTTP server that plays the robots of DingTalk, WeCom and Feishu and a user's own webhook.

It keeps to their rules (signature, time, keyword, token, size, 20 posts a minute) unless a test has scripted what comes
next. Its own logs are the judge: `accepted` is what readers would see, `requests` is all that came.
"""

import base64
import hashlib
import hmac
import json
import secrets
import socket
import socketserver
import ssl
import struct
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import trustme

_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with 0 seconds: close() sends RST instead of FIN
_HOUR = 3600
_ROUTES = {
    "/robot/send": "dingtalk",
    "/wecom/cgi-bin/webhook/send": "wecom",
    "/feishu/open-apis/bot/v2/hook/": "feishu",
    "/webhook/": "webhook",
}
_TOKENS = {"dingtalk": "access_token", "wecom": "key"}


@dataclass(frozen=True, slots=True)
class Request:
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Accepted:
    """A message that its readers got."""

    kind: str
    token: str
    title: str
    text: str
    at: float
    request: Request


@dataclass
class Robot:
    """`hosts_allowed`: from where it takes messages; None is anywhere."""

    kind: str
    token: str
    url: str
    secret: str = ""
    keyword: str = ""
    enabled: bool = True
    hosts_allowed: frozenset[str] | None = None
    posts: deque[float] = field(default_factory=deque)
    blocked_until: float = 0.0


Step = Callable[["Exchange"], None]


class Robots:
    """`with Robots() as server:`; `ahead` is how many seconds its clock is ahead of ours.

    With tls_names it speaks TLS with a certificate for those names; `authority` is the file of who signed it.
    """

    def __init__(self, *tls_names: str, host: str = "127.0.0.1") -> None:
        self.requests: list[Request] = []
        self.accepted: list[Accepted] = []
        self.connections = 0  # also those that nothing came through
        self.faults: list[BaseException] = []  # of the server itself; looked at when it ends
        self.ahead = 0.0
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        self._robots: dict[tuple[str, str], Robot] = {}
        self._script: deque[Step] = deque()
        self._server = _Server((host, 0), Exchange)
        self._server.robots = self
        self._directory = tempfile.TemporaryDirectory(prefix="exporter-robots-")
        self.authority = Path(self._directory.name) / "authority.pem"
        self.tls = bool(tls_names)
        if self.tls:
            self._server.context = _certificate(self.authority, *tls_names)
        self.port: int = self._server.server_address[1]
        self.place = f"{host}:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        self._directory.cleanup()
        if exc is None:
            assert self.faults == []

    def leave(self) -> None:
        """From now on nobody listens; the logs stay."""
        self.stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, kind: str, *, host: str = "", **rules: Any) -> Robot:
        """A new robot (or webhook) with a token of its own; `host`: under which name it is called."""
        token = secrets.token_hex(32)
        path = next(path for path, its_kind in _ROUTES.items() if its_kind == kind)
        last = f"?{_TOKENS[kind]}={token}" if kind in _TOKENS else token
        url = f"http{'s' if self.tls else ''}://{host or self.place}{path}{last}"
        robot = self._robots[kind, token] = Robot(kind, token, url, **rules)
        return robot

    def script(self, *steps: Step) -> None:
        """What happens to the next requests, one step for each; then the robots' own rules hold again."""
        self._script.extend(steps)

    def texts(self) -> list[str]:
        return [message.text for message in self.accepted]

    def now(self) -> float:
        return time.time() + self.ahead

    def next_step(self) -> Step | None:
        with self.lock:
            return self._script.popleft() if self._script else None

    def find(self, kind: str, token: str) -> Robot | None:
        return self._robots.get((kind, token))


class Exchange(BaseHTTPRequestHandler):
    """One request and what is answered."""

    protocol_version = "HTTP/1.1"
    timeout = 10  # seconds; nobody waits for a client that says nothing
    server: "_Server"

    def do_POST(self) -> None:
        self.close_connection = True
        self.robots = self.server.robots
        parts = urlsplit(self.path)
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        if len(body) < size:
            return  # The client died over it.
        query = dict(parse_qsl(parts.query))
        self.request_seen = Request(parts.path, query, dict(self.headers), body, self.robots.now())
        self.robots.requests.append(self.request_seen)
        prefix = next((prefix for prefix in _ROUTES if parts.path.startswith(prefix)), "")
        self.kind = _ROUTES.get(prefix, "")
        self.token = query.get(_TOKENS[self.kind], "") if self.kind in _TOKENS else parts.path[len(prefix) :]
        (self.robots.next_step() or play)(self)

    do_GET = do_POST  # somebody who followed a redirect

    def accept(self) -> None:
        title, text = _FORMS[self.kind](self.request_seen.json)
        message = Accepted(self.kind, self.token, title, text, self.request_seen.at, self.request_seen)
        self.robots.accepted.append(message)

    def answer(self, status: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": content_type, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def answer_json(self, content: Mapping[str, Any]) -> None:
        self.answer(200, json.dumps(content).encode())

    def log_message(self, format: str, *args: Any) -> None:
        """The test output is no access log."""


class _Server(ThreadingHTTPServer):
    robots: Robots
    context: ssl.SSLContext | None = None
    daemon_threads = False  # server_close() waits for them

    def server_bind(self) -> None:
        # HTTPServer would ask DNS for our name.
        socketserver.TCPServer.server_bind(self)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.robots.connections += 1
        if self.context is not None:
            # The handshake is done in the exchange's thread: here it would keep the others waiting.
            connection = self.context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        exc = sys.exception()
        # A client that goes away or does not trust us is what the tests are about.
        if exc is not None and not isinstance(exc, OSError):
            self.robots.faults.append(exc)


def _certificate(authority_file: Path, *names: str) -> ssl.SSLContext:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(authority_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


# The steps of a script.


def says(code: object, words: str = "", *, accepting: bool = False) -> Step:
    """The robot's own kind of answer with any code."""

    def step(exchange: Exchange) -> None:
        if accepting:
            exchange.accept()
        names = ("code", "msg") if exchange.kind == "feishu" else ("errcode", "errmsg")
        exchange.answer_json(dict(zip(names, (code, words), strict=True)))

    return step


def answers(status: int, body: bytes | str = b"", content_type: str = "text/html", **headers: str) -> Step:
    """Any answer of HTTP; `Retry_After="7"` is a header."""
    content = body.encode() if isinstance(body, str) else body
    return lambda exchange: exchange.answer(status, content, content_type, **headers)


def silent(seconds: float, *, accepting: bool = False) -> Step:
    def step(exchange: Exchange) -> None:
        if accepting:
            exchange.accept()
        exchange.robots.stopping.wait(seconds)

    return step


def cut(*, accepting: bool = False) -> Step:
    """The whole request was read, and then the connection is reset."""

    def step(exchange: Exchange) -> None:
        if accepting:
            exchange.accept()
        exchange.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        exchange.connection.close()

    return step


def raw(data: bytes, *, silence: float = 0) -> Step:
    """Bytes instead of an answer, and then silence for so many seconds."""

    def step(exchange: Exchange) -> None:
        exchange.wfile.write(data)
        exchange.robots.stopping.wait(silence)

    return step


def endless(status: int = 200, **headers: str) -> Step:
    """An answer whose content does not end, as fast as the client takes it."""

    def step(exchange: Exchange) -> None:
        exchange.send_response(status)
        for name, value in headers.items():
            exchange.send_header(name, value)
        exchange.end_headers()
        while not exchange.robots.stopping.is_set():
            exchange.wfile.write(b" " * 65536)

    return step


def trickle(pause: float, times: int) -> Step:
    """An acceptance whose first bytes come one by one."""

    def step(exchange: Exchange) -> None:
        exchange.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _time in range(times):
            exchange.wfile.write(b"x")
            if exchange.robots.stopping.wait(pause):
                return
        exchange.wfile.write(b'\r\n\r\n{"errcode": 0}')

    return step


# The rules of the robots.


def play(exchange: Exchange) -> None:
    """What the robot itself would do."""
    robot = exchange.robots.find(exchange.kind, exchange.token)
    with exchange.robots.lock:
        _PLAYERS.get(exchange.kind, _play_nobody)(exchange, robot)


def _play_nobody(exchange: Exchange, robot: Robot | None) -> None:
    exchange.answer(404, b"<html>not found</html>", "text/html")


def _play_dingtalk(exchange: Exchange, robot: Robot | None) -> None:
    code, words = _dingtalk(exchange.request_seen, robot)
    if code == 0:
        exchange.accept()
    exchange.answer_json({"errcode": code, "errmsg": words})


def _dingtalk(request: Request, robot: Robot | None) -> tuple[int, str]:
    if robot is None:
        return 300001, "token is not exist"
    if not _within_limit(robot, request.at):
        return 130101, "send too fast, exceed 20 times per minute"
    if not robot.enabled:
        return 400102, "机器人已停用"
    if len(request.body) > 20_000:
        return 460101, "message too long, exceed 20000 bytes"
    if robot.secret:
        timestamp = request.query.get("timestamp", "")
        if not timestamp.isdecimal() or abs(int(timestamp) / 1000 - request.at) > _HOUR:
            return 310000, "invalid timestamp, more: [https://ding-doc.dingtalk.com/doc#/serverapi2/qf2nxq]"
        expected = _hmac(robot.secret, f"{timestamp}\n{robot.secret}")
        if not hmac.compare_digest(request.query.get("sign", ""), expected):
            return 310000, "sign not match, more: [https://ding-doc.dingtalk.com/doc#/serverapi2/qf2nxq]"
    title, text = _dingtalk_form(request.json)
    if not title or not text:
        return 40035, "缺少参数 json"
    if robot.keyword and robot.keyword not in text:
        return 310000, "keywords not in content, more: [https://ding-doc.dingtalk.com/doc#/serverapi2/qf2nxq]"
    if robot.hosts_allowed is not None and "127.0.0.1" not in robot.hosts_allowed:
        return 310000, "ip 127.0.0.1 not in whitelist, more: [https://ding-doc.dingtalk.com/doc#/serverapi2/qf2nxq]"
    return 0, "ok"


def _within_limit(robot: Robot, now: float) -> bool:
    """20 posts in any 60 seconds; one more, and the robot is deaf for ten minutes."""
    if now < robot.blocked_until:
        return False
    while robot.posts and robot.posts[0] <= now - 60:
        robot.posts.popleft()
    robot.posts.append(now)
    if len(robot.posts) > 20:
        robot.blocked_until = now + 600
    return len(robot.posts) <= 20


def _play_wecom(exchange: Exchange, robot: Robot | None) -> None:
    content = exchange.request_seen.json
    limit = {"markdown": 4096, "text": 2048}[content["msgtype"]]
    code, words = 0, "ok"
    if robot is None:
        code, words = 93000, "invalid webhook url, hint: [1690000000_1], more info at https://open.work.weixin.qq.com"
    elif len(_wecom_form(content)[1].encode()) > limit:
        code, words = 40058, f"{content['msgtype']}.content exceed max length {limit}. invalid Request Parameter"
    else:
        exchange.accept()
    exchange.answer_json({"errcode": code, "errmsg": words})


def _play_feishu(exchange: Exchange, robot: Robot | None) -> None:
    code, words = _feishu(exchange.request_seen, robot)
    if code == 0:
        exchange.accept()
    exchange.answer_json({"code": code, "msg": words, "data": {}})


def _feishu(request: Request, robot: Robot | None) -> tuple[int, str]:
    content = request.json
    if robot is None:
        return 19001, "param invalid: incoming webhook access token invalid"
    if len(request.body) > 20 * 1024:
        return 9499, "Bad Request"
    if robot.secret:
        timestamp = content.get("timestamp", "")
        expected = _hmac(f"{timestamp}\n{robot.secret}", "")
        fresh = timestamp.isdecimal() and abs(int(timestamp) - request.at) <= _HOUR
        if not fresh or not hmac.compare_digest(content.get("sign", ""), expected):
            return 19021, "sign match fail or timestamp is not within one hour from current time"
    if robot.keyword and robot.keyword not in "".join(_feishu_form(content)):
        return 19024, "Key Words Not Found"
    if robot.hosts_allowed is not None and "127.0.0.1" not in robot.hosts_allowed:
        return 19022, "Ip Not Allowed"
    return 0, "success"


def _play_webhook(exchange: Exchange, robot: Robot | None) -> None:
    request = exchange.request_seen
    if robot is None:
        return exchange.answer(404)
    if robot.secret:
        signed = f"{request.headers['X-Exporter-Timestamp']}.".encode() + request.body
        expected = "sha256=" + hmac.new(robot.secret.encode(), signed, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(request.headers.get("X-Exporter-Signature", ""), expected):
            return exchange.answer(401, b"wrong signature", "text/plain")
    exchange.accept()
    exchange.answer(204)


def _hmac(key: str, text: str) -> str:
    return base64.b64encode(hmac.new(key.encode(), text.encode(), hashlib.sha256).digest()).decode()


# Where the readers' title and text are in what was posted.


def _dingtalk_form(content: Any) -> tuple[str, str]:
    form = content[content["msgtype"]]
    return form["title"], form["text"]


def _wecom_form(content: Any) -> tuple[str, str]:
    return "", content[content["msgtype"]]["content"]


def _feishu_form(content: Any) -> tuple[str, str]:
    card = content["card"]
    return card["header"]["title"]["content"], card["elements"][0]["content"]


def _webhook_form(content: Any) -> tuple[str, str]:
    return content["title"], content["text"]


_PLAYERS: dict[str, Callable[[Exchange, Robot | None], None]] = {
    "dingtalk": _play_dingtalk,
    "wecom": _play_wecom,
    "feishu": _play_feishu,
    "webhook": _play_webhook,
}
_FORMS: dict[str, Callable[[Any], tuple[str, str]]] = {
    "dingtalk": _dingtalk_form,
    "wecom": _wecom_form,
    "feishu": _feishu_form,
    "webhook": _webhook_form,
}
