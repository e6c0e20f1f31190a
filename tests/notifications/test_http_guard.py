"""Where messages may go: public addresses and what config.yaml lists. The servers' own logs show that nobody else was
asked."""

import socket
import ssl
from collections.abc import Iterator
from typing import Any

import pytest

from notifications.transports import addresses, http
from notifications.transports.addresses import check_url, is_public, target_of
from notifications.transports.base import Answer, Verdict
from notifications.transports.http import post_json
from tests.notifications.channels import send
from tests.notifications.conftest import HostLists
from tests.servers import free_port
from tests.servers.robots import Robots, answers, cut, silent

DINGTALK = ("oapi.dingtalk.com",)
PUBLIC = "93.184.215.14"


class Resolver:
    """DNS for names in `names`; each question takes the next of the answers, and the last one stays."""

    def __init__(self) -> None:
        self.names: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo

    def __call__(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        if host not in self.names:
            # Only what needs no name server may get through.
            return self._real(
                host, port, *args, **kwargs | {"flags": 0 if host == "localhost" else socket.AI_NUMERICHOST}
            )
        self.asked.append(host)
        found = self.names[host]
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in (found.pop(0) if len(found) > 1 else found[0])
        ]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    made = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", made)
    return made


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The places that a connection was tried to; none of them is reached."""
    tried: list[tuple[str, int]] = []

    def connect(place: tuple[str, int], *args: Any, **kwargs: Any) -> socket.socket:
        tried.append(place)
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(http, "create_connection", connect)
    return tried


@pytest.fixture
def tls_robots(monkeypatch: pytest.MonkeyPatch, host_lists: HostLists, resolver: Resolver) -> Iterator[Robots]:
    """Robots that speak TLS as robots.internal, whose authority this machine trusts."""
    with Robots("robots.internal") as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.authority))
        host_lists(private_hosts=[f"robots.internal:{server.port}"])
        resolver.names["robots.internal"] = [["127.0.0.1"]]
        yield server


# Addresses.

NOT_PUBLIC = [
    *("0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.0.9", "169.254.169.254"),
    *("172.16.0.1", "192.0.0.192", "192.0.2.1", "192.168.1.1", "198.18.0.1", "203.0.113.5", "224.0.0.1"),
    *("239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%lo", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "2001:db8::1", "100::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::8.8.8.8"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2002:7f00:1::1", "2002:a00:1::", "2002:c0a8:1::"),
    "2001:0:7f00:1::",  # Teredo: server 127.0.0.1
    "2001:0:808:808:0:0:80ff:fffe",  # Teredo: client 127.0.0.1
    *("4000::1", "5f00::1"),
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", PUBLIC, "2606:4700::1111", "2400:3200::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_an_address_that_is_public(address: str) -> None:
    assert is_public(address)


HOSTS = [
    *("127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "0"),
    *(
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0251.0376.0251.0376",
        "10.0.0.1",
        "192.168.0.1",
        "100.100.100.200",
    ),
    *(
        "127.0.0.1.",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "%31%32%37.0.0.1",
        "①②⑦.⓪.⓪.①",
        "127。0。0。1",
        "１２７.0.0.1",
    ),
    *(
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1%25lo]",
    ),
    *("[fd00:ec2::254]", "[0:0:0:0:0:0:0:1]", "[::127.0.0.1]", "user@127.0.0.1", "oapi.dingtalk.com@127.0.0.1"),
    *(
        "127.0.0.1#@oapi.dingtalk.com",
        "127.0.0.1\\@oapi.dingtalk.com",
        "127.0.0.1 .oapi.dingtalk.com",
        "[::1",
        "",
        "..",
    ),
]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("scheme", ["https", "http"])
def test_our_own_network_is_not_reached_under_any_spelling(
    robots: Robots, host_lists: HostLists, resolver: Resolver, calls: list[Any], host: str, scheme: str
) -> None:
    host_lists()
    for url in (f"{scheme}://{host}/robot/send?access_token=x", f"{scheme}://{host}:{robots.port}/"):
        reply = post_json(url, {}, hosts=None)
        assert reply.failure is not None
        # Spelled as no name at all it is not found, which will do.
        assert reply.failure.reason in ("address_refused", "unreachable")
    assert (calls, robots.connections) == ([], 0)


@pytest.mark.parametrize("found", [["127.0.0.1"], ["169.254.169.254"], [PUBLIC, "10.0.0.1"], ["2606:4700::1", "::1"]])
def test_a_name_that_leads_inside_is_refused_and_tried_again_later(
    resolver: Resolver, calls: list[Any], found: list[str]
) -> None:
    resolver.names["oapi.dingtalk.com"] = [found]
    reply = post_json("https://oapi.dingtalk.com/robot/send", {}, hosts=DINGTALK)
    assert reply.failure is not None
    assert (reply.failure.verdict, reply.failure.reason) == (Verdict.DEFERRED, "address_refused")
    assert calls == []


def test_a_name_that_changes_its_mind_is_not_asked_twice(resolver: Resolver, calls: list[tuple[str, int]]) -> None:
    resolver.names["oapi.dingtalk.com"] = [[PUBLIC], ["127.0.0.1"]]
    reply = post_json("https://oapi.dingtalk.com/robot/send", {}, hosts=DINGTALK)
    assert reply.failure == Answer(Verdict.DEFERRED, "unreachable", "Connection refused")
    assert (resolver.asked, calls) == (["oapi.dingtalk.com"], [(PUBLIC, 443)])


def test_all_addresses_are_tried_in_their_order(resolver: Resolver, calls: list[tuple[str, int]]) -> None:
    resolver.names["oapi.dingtalk.com"] = [[PUBLIC, "2606:4700::1", PUBLIC]]
    post_json("https://oapi.dingtalk.com/robot/send", {}, hosts=DINGTALK)
    assert calls == [(PUBLIC, 443), ("2606:4700::1", 443)]


def test_the_next_address_is_taken_where_nobody_listens(tls_robots: Robots, resolver: Resolver) -> None:
    resolver.names["robots.internal"] = [["127.0.0.2", "127.0.0.1"]]
    assert send(tls_robots.add("dingtalk", host=f"robots.internal:{tls_robots.port}")).verdict == Verdict.ACCEPTED


@pytest.mark.parametrize("name", ["x" * 64 + ".example.com", "nobody.invalid"])
def test_a_name_without_an_address_is_tried_again_later(resolver: Resolver, calls: list[Any], name: str) -> None:
    reply = post_json(f"https://{name}/", {}, hosts=None)
    assert reply.failure is not None
    assert (reply.failure.verdict, reply.failure.reason) == (Verdict.DEFERRED, "unreachable")
    assert calls == []


# The lists of config.yaml.

Lists = dict[str, list[str]]
ALLOWED: Lists = {"allowed_hosts": ["hooks.example.com", "api.example.com:8443"]}
PRIVATE: Lists = {"private_hosts": ["relay.internal", "10.0.0.7:9000", "[fd00::7]:9000"]}


@pytest.mark.parametrize(
    ("url", "hosts", "lists", "allowed"),
    [
        ("https://anywhere.example.com/x", None, {}, True),
        ("https://anywhere.example.com:443/x", None, {}, True),
        ("https://anywhere.example.com:8443/x", None, {}, False),
        ("http://anywhere.example.com/x", None, {}, False),
        ("http://anywhere.example.com:443/x", None, {}, False),
        ("http://api.example.com:8443/x", None, ALLOWED, False),
        ("https://anywhere.example.com/x", None, ALLOWED, False),
        ("https://hooks.example.com/x", None, ALLOWED, True),
        ("https://HOOKS.example.com./x", None, ALLOWED, True),
        ("https://hooks.example.com:8443/x", None, ALLOWED, False),
        ("https://sub.hooks.example.com/x", None, ALLOWED, False),
        ("https://hooks.example.com.evil.com/x", None, ALLOWED, False),
        ("http://hooks.example.com/x", None, ALLOWED, False),
        ("https://api.example.com:8443/x", None, ALLOWED, True),
        ("https://api.example.com/x", None, ALLOWED, False),
        ("https://oapi.dingtalk.com/x", DINGTALK, {}, True),
        ("https://oapi.dingtalk.com/x", DINGTALK, ALLOWED, True),
        ("https://hooks.example.com/x", DINGTALK, ALLOWED, True),
        ("https://example.com/x", DINGTALK, {}, False),
        ("https://oapi.dingtalk.com:8443/x", DINGTALK, {}, False),
        ("https://oapi.dingtalk.com:8443/x", DINGTALK, {"allowed_hosts": ["oapi.dingtalk.com:8443"]}, True),
        ("http://oapi.dingtalk.com/x", DINGTALK, {}, False),
        ("http://relay.internal/x", DINGTALK, PRIVATE, True),
        ("http://relay.internal:8080/x", None, PRIVATE, True),
        ("https://relay.internal:8080/x", None, PRIVATE, True),
        ("http://10.0.0.7:9000/x", None, PRIVATE, True),
        ("http://10.0.0.7:9001/x", None, PRIVATE, False),
        ("https://10.0.0.7/x", None, PRIVATE, False),
        ("http://[fd00::7]:9000/x", None, PRIVATE, True),
        ("https://hooks.example.com/x", None, {"allowed_hosts": ["::bad::", "hooks.example.com"]}, True),
        ("https://10.0.0.9/x", None, {"allowed_hosts": ["10.0.0.9"]}, False),
        ("https://[::1]/x", None, {}, False),
        ("https://example.com:99999/x", None, {}, False),
        ("https://exa\tmple.com/x", None, {}, False),
        ("https://example.com/\x7f", None, {}, False),
        ("https://example.com/\u2028x", None, {}, False),
        ("//example.com/x", None, {}, False),
        ("file:///etc/passwd", None, {}, False),
        ("gopher://example.com/x", None, {}, False),
        ("javascript:alert(1)", None, {}, False),
    ],
)
def test_the_lists_decide_before_dns_is_asked(
    host_lists: HostLists, resolver: Resolver, url: str, hosts: tuple[str, ...] | None, lists: Lists, allowed: bool
) -> None:
    host_lists(**lists)
    if allowed:
        check_url(url, hosts)
    else:
        with pytest.raises(ValueError, match=r"\w"):
            check_url(url, hosts)
        assert post_json(url, {}, hosts=hosts).failure is not None
    assert resolver.asked == []


def test_a_sentence_has_no_token_in_it(host_lists: HostLists) -> None:
    host_lists(allowed_hosts=["example.com"])
    for place in ("example.org", "example.com:1", "u:token@example.com", "example.com\\", "10.0.0.1"):
        with pytest.raises(ValueError) as caught:
            check_url(f"https://{place}/?access_token=token", None)
        assert "token" not in str(caught.value)


def test_a_private_name_may_lead_anywhere(robots: Robots, host_lists: HostLists, resolver: Resolver) -> None:
    host_lists(private_hosts=["relay.internal"])
    resolver.names["relay.internal"] = [["127.0.0.1"]]
    assert send(robots.add("webhook", host=f"relay.internal:{robots.port}")).verdict == Verdict.ACCEPTED
    assert robots.requests[0].headers["Host"] == f"relay.internal:{robots.port}"


# TLS.


def test_the_connection_goes_to_the_checked_address_under_its_name(tls_robots: Robots, resolver: Resolver) -> None:
    # At a second question it would lead to where nobody listens.
    resolver.names["robots.internal"] = [["127.0.0.1"], ["127.0.0.9"]]
    assert send(tls_robots.add("dingtalk", host=f"robots.internal:{tls_robots.port}")).verdict == Verdict.ACCEPTED
    assert resolver.asked == ["robots.internal"]
    assert tls_robots.requests[0].headers["Host"] == f"robots.internal:{tls_robots.port}"


def test_a_certificate_for_another_name_is_refused(
    tls_robots: Robots, host_lists: HostLists, resolver: Resolver
) -> None:
    host_lists(private_hosts=["elsewhere.internal"])
    resolver.names["elsewhere.internal"] = [["127.0.0.1"]]
    answer = send(tls_robots.add("dingtalk", host=f"elsewhere.internal:{tls_robots.port}"))
    assert (answer.verdict, answer.reason) == (Verdict.DEFERRED, "tls_failed")
    assert "elsewhere.internal" in answer.text
    assert tls_robots.requests == []


def test_a_certificate_of_an_unknown_authority_is_refused(tls_robots: Robots, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    answer = send(tls_robots.add("webhook", host=f"robots.internal:{tls_robots.port}"))
    assert (answer.verdict, answer.reason) == (Verdict.DEFERRED, "tls_failed")
    assert tls_robots.requests == []


def test_a_certificate_for_an_address_is_checked_for_the_address(
    monkeypatch: pytest.MonkeyPatch, host_lists: HostLists
) -> None:
    with Robots("127.0.0.1") as server:
        monkeypatch.setenv("SSL_CERT_FILE", str(server.authority))
        host_lists(private_hosts=[server.place])
        assert send(server.add("webhook")).verdict == Verdict.ACCEPTED


def test_a_server_without_tls_is_told_apart(robots: Robots) -> None:
    robot = robots.add("dingtalk")
    answer = send(robot, webhook_url=robot.url.replace("http:", "https:"))
    assert (answer.verdict, answer.reason) == (Verdict.DEFERRED, "tls_failed")


def test_old_tls_is_refused(tls_robots: Robots) -> None:
    context = tls_robots._server.context
    assert context is not None
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.deprecated_call():
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    answer = send(tls_robots.add("dingtalk", host=f"robots.internal:{tls_robots.port}"))
    assert (answer.verdict, answer.reason) == (Verdict.DEFERRED, "tls_failed")


def test_a_lost_answer_under_tls_is_told_apart_from_a_failed_handshake(
    tls_robots: Robots, monkeypatch: pytest.MonkeyPatch
) -> None:
    robot = tls_robots.add("dingtalk", host=f"robots.internal:{tls_robots.port}")
    tls_robots.script(cut(accepting=True), silent(60, accepting=True))
    assert send(robot) == Answer(Verdict.UNKNOWN, "answer_lost")
    monkeypatch.setattr(http, "READ_TIMEOUT", 0.3)
    assert send(robot) == Answer(Verdict.UNKNOWN, "timed_out")
    assert len(tls_robots.accepted) == 2


# What was not sent.


def test_a_closed_port_is_told(host_lists: HostLists) -> None:
    port = free_port()
    host_lists(private_hosts=[f"127.0.0.1:{port}"])
    reply = post_json(f"http://127.0.0.1:{port}/hook", {}, hosts=None)
    assert reply.failure == Answer(Verdict.DEFERRED, "unreachable", "Connection refused")


def test_who_takes_the_call_and_says_nothing_got_nothing(
    host_lists: HostLists, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "CONNECT_TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        host_lists(private_hosts=[f"127.0.0.1:{port}"])
        reply = post_json(f"https://127.0.0.1:{port}/hook", {}, hosts=None)
    assert reply.failure == Answer(Verdict.DEFERRED, "timed_out")


def test_a_connection_that_takes_too_long_is_deferred(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(*args: Any, **kwargs: Any) -> socket.socket:
        raise TimeoutError("timed out")

    monkeypatch.setattr(http, "create_connection", connect)
    resolver.names["oapi.dingtalk.com"] = [[PUBLIC]]
    reply = post_json("https://oapi.dingtalk.com/x", {}, hosts=DINGTALK)
    assert reply.failure == Answer(Verdict.DEFERRED, "timed_out")


def test_after_the_deadline_nothing_new_is_begun(
    resolver: Resolver, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "DEADLINE", 0)
    resolver.names["oapi.dingtalk.com"] = [[PUBLIC]]
    reply = post_json("https://oapi.dingtalk.com/x", {}, hosts=DINGTALK)
    assert (reply.failure, calls) == (Answer(Verdict.DEFERRED, "timed_out"), [])


# What the environment can't change, and what nobody is told.


def test_proxies_and_passwords_of_the_environment_are_not_used(
    robots: Robots, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login somebody password hunter2")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert send(robots.add("webhook")).verdict == Verdict.ACCEPTED
    assert "Authorization" not in robots.requests[0].headers


@pytest.mark.parametrize("kind", ["dingtalk", "wecom", "feishu", "webhook"])
def test_tokens_are_in_no_answer_and_in_no_log(
    robots: Robots, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http, "READ_TIMEOUT", 0.3)
    caplog.set_level("DEBUG")
    robot = robots.add(kind, secret="SEC0123456789abcdef")
    robots.script(cut(), silent(60), answers(500, f"Traceback: {robot.url}", "text/plain"), answers(404, robot.token))
    given = [send(robot) for _time in range(4)]
    robot.url = robot.url.replace(robots.place, f"127.0.0.1:{free_port()}")
    with monkeypatch.context() as patched:
        patched.setattr(addresses, "_listed", lambda *args, **kwargs: True)
        given.append(send(robot))
    assert [answer.verdict for answer in given][-1] == Verdict.DEFERRED
    assert robot.token not in repr(given)
    # urllib3 would write whole addresses at DEBUG; it is not asked to (exporter_site/logs.py).
    assert robot.token not in caplog.text


def test_a_target_keeps_what_the_connection_needs(host_lists: HostLists) -> None:
    host_lists(private_hosts=["[fd00::7]"])
    target = target_of("http://[FD00::7]:9000/x", None)
    assert (target.host, target.port, target.tls, target.private) == ("fd00::7", 9000, False, True)
