"""No secret comes out: canaries are planted wherever the system takes one, everything happens to it that may, and then
all that anybody can look at is searched for them."""

import base64
import html
import json
import secrets
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from email import message_from_bytes
from email.policy import default
from functools import cache
from itertools import product
from pathlib import Path
from urllib.parse import quote, quote_plus

from tests.factories import make_sqlite_file
from tests.faults.load import configure
from tests.instance import Instance
from tests.servers import Account, free_port
from tests.servers.mail import LOGIN, Fault, MailServer, authority
from tests.servers.postgresql import PostgreSQL
from tests.servers.robots import Request, Robot, Robots, Step, answers, cut, says

MARK = "harmless-4711"  # what every searched place must show, or nothing could have been found there
END = 12  # characters of a secret's beginning and of its end that may not be seen either
HAPPENED = ("auth_failed", "answer_lost", "tls_failed", "unreachable", "rejected", "bad_signature", "redirected")
COMMANDS = (
    "datasource list --json; task list --json; channel list --json; datasource test bad --json; dumpdata; "
    f"datasource test warehouse --json; channel test untrusted-{MARK} --json; channel test closed-{MARK} --json; "
    f"channel test unknown-{MARK} --json; runtask bad-{MARK} --json; task logs good-{MARK} --json; task export -; "
    "check --deploy"
)
LOCKED = f"datasource test bad; channel test feishu-{MARK}; task resend 1 --all"
SHOWN = ("datasource/2", "channel/1", "notificationrule/1", "delivery/1", "exporttask/1", "execution/1")
PROGRAM = f"""
import json, os, pathlib, sys
from unittest import mock
from django.apps import apps
globals().update({{model.__name__: model for model in apps.get_models()}})
os.dup2(1, 2)
given, pages, MARK = json.loads(os.environ["CANARIES"]), {{}}, {MARK!r}
"""
PLANT = """
from notifications.models import clean_settings
owner = User.objects.create_superuser("owner", "owner@example.com", "correct horse battery")
viewer = User.objects.create_user("viewer", is_staff=True)
viewer.user_permissions.set(Permission.objects.filter(codename__regex="^view_|^all_datasources$"))
for name, kind, settings in given["channels"]:
    channel = Channel(name=f"{name}-{MARK}", kind=kind)
    channel.set_settings(clean_settings(kind, settings))
    channel.save()
    NotificationRule.objects.create(channel=channel)
good = DataSource.objects.create(name="good", kind="sqlite", database=given["file"])
bad = DataSource.objects.create(name="bad", kind="postgresql", database="x", description=MARK, **given["refused"])
common = {"format": "csv", "description": MARK, "owner": owner, "email_recipients": ["a@example.com"], **given["task"]}
for source in (good, bad):
    task = ExportTask(name=f"{source}-{MARK}", data_source=source, sql=f"SELECT '{MARK}' AS mark", **common)
    task.full_clean()
    task.save()
    Execution.objects.enqueue(task, trigger="manual")
"""
BROWSE = """
from django.contrib import admin
from django.core.management import execute_from_command_line
from django.test import Client
from django.urls import reverse
def see(name, page):
    pages[f"{name} {page.status_code}"] = f"{dict(page.headers)} {page.getvalue().decode(errors='replace')}"
def fault(method, words):
    def fail(self, row=None, **options):
        raise RuntimeError(f"{MARK} {'' if given['debug'] else words(self, row)}")
    return mock.patch(method, fail)
owner = Client(raise_request_exception=False, SERVER_NAME="localhost", headers={"accept-language": "zh-hans"})
viewer = Client(SERVER_NAME="localhost", headers={"accept-language": "zh-hans"})
typed, sources, channels = given["typed"], "/admin/datasources/datasource/", "/admin/notifications/channel/"
see("login", owner.post("/admin/login/", {"username": f"owner-{MARK}", "password": typed[0]}))
owner.force_login(User.objects.get(username="owner"))
viewer.force_login(User.objects.get(username="viewer"))
with fault("notifications.admin.ChannelAdmin.kind_shown", lambda self, row: row.all_settings):
    see("fault", owner.get(channels))
with fault("datasources.admin.DataSourceAdmin.place", lambda self, row: row.password):
    see("fault", owner.get(sources))
with fault("datasources.models.DataSource.connector", lambda self, row: self.password):
    new = {"name": "new", "kind": "mysql", "host": "x", "database": "x", "ssl_mode": "prefer", "charset": "utf8mb4"}
    new |= {"max_concurrency": 1, "password": typed[1], "datasources_datasource_save_and_test": 1}
    if not given["debug"]:  # then Django shows who posts something what he has posted
        see("fault", owner.post(f"{sources}add/", new))
    try:
        execute_from_command_line(["manage.py", "datasource", "test", "bad"])
    except RuntimeError:
        sys.excepthook(*sys.exc_info())
for model in admin.site._registry:
    place = f"admin:{model._meta.label_lower.replace('.', '_')}"
    rows = model._base_manager.order_by("pk").values_list("pk", flat=True)[: given["rows"]]
    changes = [reverse(f"{place}_change", args=[row]) for row in rows]
    more = [reverse(f"{place}_{view}", args=[row]) for view in ("history", "delete") for row in rows[:1]]
    for url in (reverse(f"{place}_changelist"), reverse(f"{place}_add"), *changes, *more):
        see(url, owner.get(url))
    for url in changes[:3]:
        see(f"viewer {url}", viewer.get(url))
names = "password setting_url setting_webhook_url setting_secret dingtalk_webhook dingtalk_secret".split()
forms = (sources, "/admin/tasks/exporttask/", channels, channels, channels)
for place, kind in zip(forms, ("mysql", "", "webhook", "feishu", "dingtalk")):
    see(f"refused {kind}", owner.post(f"{place}add/?kind={kind}", dict.fromkeys(names, typed[0]) | {"kind": kind}))
chosen = {"_selected_action": [1, 2, 3]}
see("tests", owner.post(sources, {"action": "test_connections", **chosen}, follow=True))
with fault("notifications.transports.webhook.Webhook.answer", lambda self, row: self.settings):  # an exception in a delivery
    see("tests", owner.post(channels, {"action": "send_tests", **chosen}, follow=True))
link = DownloadLink.objects.order_by("pk").first()
for method, path in (("get", ""), ("head", ""), ("post", ""), ("get", "/file")):
    see(f"link{path} {method}", getattr(owner, method)(link.path + path))
with mock.patch("tasks.views.send", side_effect=RuntimeError(MARK)):
    see("link fault", owner.get(f"{link.path}/file"))
links = [link.path.removeprefix("/d/") for link in DownloadLink.objects.all()]
pathlib.Path(given["pages"]).write_text(json.dumps([pages, links]))
"""
KEYS = ("EXPORTER_SECRET_KEY", "EXPORTER_ENCRYPTION_KEYS", "EXPORTER_JWT_KEY")
KINDS = ("webhook", "feishu", "wecom", "dingtalk")
CHANNELS = (*KINDS, "untrusted", "closed", "unknown")
SPECIAL = "'\"<&%+ /\\=密;"  # what has to be escaped somewhere


def canary(special: str = SPECIAL, start: str = "") -> str:
    """A new secret whose two ends are random."""
    return start + secrets.token_hex(END // 2) + special + secrets.token_hex(END // 2)


@cache
def spellings(secret: str) -> set[bytes]:
    """`secret` and its two ends as they are, and as they look inside of other things."""
    told = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), html.escape(secret), repr(secret)[1:-1]}
    told |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], secret[:END], secret[-END:]}
    found = {text.encode() for text in told}
    for end in (secret[:END].encode(), secret[-END:].encode()):
        for shift in range(3):  # Base64 looks different wherever in a text it begins.
            code = base64.b64encode(bytes(shift) + end)[-(-shift * 4 // 3) : (shift + len(end)) * 4 // 3]
            found |= {code, code.replace(b"+", b"-").replace(b"/", b"_")}
    return found


def leaks(canaries: Mapping[str, str], shown: Mapping[str, bytes]) -> list[str]:
    """Which secret is to be seen where, with what stands around it."""
    return [
        f"{name} in {place}: …{content[max(0, at - 120) : at + 40].decode(errors='replace')}…"
        for (name, secret), (place, content) in product(canaries.items(), shown.items())
        if (at := next((content.find(word) for word in spellings(secret) if word in content), -1)) >= 0
    ]


def as_seen(request: Request, robots: Iterable[Robot]) -> bytes:
    """A request without the one token that belongs there: that of its robot, once, in the address."""
    address = f"{request.path} {request.query}"
    own = next((robot.token for robot in robots if robot.token in address), "\0")
    return f"{address.replace(own, '', 1)} {request.headers} ".encode() + request.body


def decoded(content: bytes) -> bytes:
    """A mail as it came and as it is read."""
    mail = message_from_bytes(content, policy=default)
    texts = [part.get_payload(decode=True) for part in mail.walk() if not part.is_multipart()]
    return b"\n".join([content, str(mail.items()).encode(), *(text for text in texts if isinstance(text, bytes))])


def settings_of(robot: Robot) -> dict[str, str]:
    address = {"url" if robot.kind == "webhook" else "webhook_url": robot.url}
    return address | ({"secret": robot.secret} if robot.secret else {})


class Stage:
    """An installation full of canaries, the servers around it, and what could be seen of it so far."""

    def __init__(self, instance: Instance, postgresql: PostgreSQL, stack: ExitStack) -> None:
        self.instance, self.shown, self.links = instance, {"output": b""}, list[str]()
        self.canaries = {name: canary() for name in (*KEYS, "source", "warehouse", "system database", "wrong", "typed")}
        self.canaries |= {"mail account": canary(SPECIAL.replace("密", "")), "imported token": canary("")}
        if instance.kind != "sqlite":
            self.canaries["system database in use"] = instance.environment["EXPORTER_SYSTEM_DATABASE__PASSWORD"]
        self.web, self.untrusted = stack.enter_context(Robots()), stack.enter_context(Robots("127.0.0.1"))
        account = Account(LOGIN.username, self.canaries["mail account"])
        self.mail = stack.enter_context(MailServer(tls="starttls", account=account))
        self.robots = {
            kind: self.web.add(kind, secret="" if kind == "wecom" else canary(start="SEC")) for kind in KINDS
        }
        for name, server in (("task", self.web), ("config", self.web), ("untrusted", self.untrusted)):
            self.robots[name] = server.add("dingtalk", secret=canary(start="SEC"))
        closed = f"127.0.0.1:{free_port()}"
        for name, place in (("closed", closed), ("unknown", self.web.place)):
            token = secrets.token_hex(7)  # as short as some programs have it
            self.robots[name] = Robot("webhook", token, f"http://{place}/webhook/{token}", canary(start="SEC"))
        self.canaries |= {f"{name}'s token": robot.token for name, robot in self.robots.items()}
        self.canaries |= {f"{name}'s secret": robot.secret for name, robot in self.robots.items() if robot.secret}
        login = {"host": "127.0.0.1", "username": postgresql.reader.username, "port": postgresql.port}
        self.refused: dict[str, object] = login | {"password": self.canaries["source"]}
        wrong = login | {"type": "postgresql", "password": self.canaries["system database"]}
        self.wrong_database = {f"EXPORTER_SYSTEM_DATABASE__{name.upper()}": str(value) for name, value in wrong.items()}
        warehouse = {"type": "mysql", "host": "127.0.0.1", "port": int(closed[10:]), "database": "x"}
        mail = {"smtp_server": "127.0.0.1", "smtp_port": self.mail.port, "username": LOGIN.username, "smtp_timeout": 3}
        authority().cert_pem.write_to_path(str(instance.home / "authority.pem"))
        instance.environment |= {name: self.canaries[name] for name in KEYS}
        instance.environment["SSL_CERT_FILE"] = str(instance.home / "authority.pem")
        configure(
            instance,
            logging={"level": "DEBUG"},
            web={"public_url": "http://localhost:5001"},
            email=mail | {"password": account.password},
            dingtalk={"webhook_url": self.robots["config"].url, "secret": self.robots["config"].secret},
            notifications={"private_hosts": [self.web.place, self.untrusted.place, closed]},
            data_sources={"warehouse": warehouse | {"password": self.canaries["warehouse"]}},
        )

    def python(self, program: str, pages: Path, *, rows: int = 0, **env: str) -> None:
        """What it is told is not in its arguments: tracebacks show those."""
        robots, task = self.robots.items(), self.robots["task"]
        given = {
            "channels": [(name, robot.kind, settings_of(robot)) for name, robot in robots if name in CHANNELS],
            "task": {"dingtalk_webhook": task.url, "dingtalk_secret": task.secret},
            "file": str(make_sqlite_file(self.instance.home / "source.db", ())),
            "refused": self.refused,
            "typed": [self.canaries["wrong"], self.canaries["typed"]],
            **{"pages": str(pages), "rows": rows, "debug": "EXPORTER_DEBUG" in env},
        }
        printed = self.instance.python(PROGRAM + program, env={"CANARIES": json.dumps(given), **env})
        self.shown["output"] += printed.encode()

    def browse(self, name: str, rows: int, env: Mapping[str, str]) -> None:
        file = self.instance.home.parent / f"{name}.json"
        self.python(BROWSE, file, rows=rows, **env)
        pages, links = json.loads(file.read_text())
        self.links += links
        self.shown |= {f"page {name}: {url}": page.encode() for url, page in pages.items()}

    def run(self, command: str, *, input: str | None = None, **env: str) -> None:
        done = self.instance.manage(*command.split(), check=False, input=input, env=env)
        place = f"command {command} {sorted(env)} {len(input or '')}"
        self.shown[place] = f"{done.returncode} {done.stdout}{done.stderr}".encode()

    def collect(self) -> None:
        """What is no answer of a command or a page."""
        home, robots = self.instance.home, self.robots.values()
        requests = [*self.web.requests, *self.untrusted.requests]
        self.shown["requests"] = b"\n".join(as_seen(request, robots) for request in requests)
        self.shown["mails"] = b"\n".join(decoded(mail.content) for mail in self.mail.log.mails)
        self.shown["database"] = self.instance.database_text()
        for place in ("logs", "exports"):
            files = [file for file in (home / place).rglob("*") if file.is_file()]
            self.shown[place] = b"\n".join(str(file).encode() + file.read_bytes() for file in files)


def make_everything_happen(stage: Stage) -> None:
    dingtalk, feishu, nobody = stage.robots["dingtalk"], stage.robots["feishu"], Path("/dev/null")
    password, token = stage.canaries["mail account"], stage.canaries["imported token"]
    stage.python(PLANT, nobody)
    stage.run("datasource sync")
    stage.web.script(cut(accepting=True))
    login = base64.b64encode(f"\0{LOGIN.username}\0{password}".encode()).decode()
    stage.mail.say("AUTH", f"535 5.7.8 {password} {login}")
    stage.mail.say("BODY", Fault.CUT)
    for number in (2, 3, 4):  # with --once it may end between the end of a run and its messages
        if not (stage.web.requests and stage.mail.log.mails):
            stage.run(f"runscheduler --once --workers {number}")
    scripts: dict[str, list[Step]] = {  # servers say back what they were sent
        "dingtalk": [says(310000, f"sign not match {dingtalk.secret} {dingtalk.url}")] * 2,  # it is signed again
        "feishu": [answers(500, f"{feishu.url} {feishu.secret}", "text/plain")],
        "webhook": [answers(302, Location=stage.robots["webhook"].url)],
        "wecom": [cut()],
    }
    for name, steps in scripts.items():
        while stage.web.next_step():  # no robot may get another one's answer
            pass
        stage.web.script(*steps)
        stage.run(f"channel test {name}-{MARK} --json")
    file = {"name": "new", "data_source": "good", "sql": "SELECT 1", "dingtalk_secret": token}
    foreign = file | {"dingtalk_webhook": f"https://example.com/robot/send?access_token={token}"}
    unknown = {"EXPORTER_ENCRYPTION_KEYS": "another-key"}
    commands: list[tuple[str, dict[str, str]]] = [
        *((command, {}) for command in COMMANDS.split("; ")),
        *(("task import - --json", {"input": json.dumps({"tasks": [task]})}) for task in (file, foreign)),
        *((command, unknown) for command in LOCKED.split("; ")),
        ("task resend 1 --all", {"SSL_CERT_FILE": str(nobody)}),
        ("channel list", {"EXPORTER_EMAIL__SMTP_PORT": password, "EXPORTER_EMAIL__PASWORD": password}),
        ("channel list", stage.wrong_database),
    ]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda command: stage.run(command[0], **command[1]), commands))
        list(pool.map(stage.browse, ("all", "no key", "debug"), (25, 2, 2), ({}, unknown, {"EXPORTER_DEBUG": "1"})))


def test_no_secret_is_shown_anywhere(instance: Instance, postgresql: PostgreSQL) -> None:
    with ExitStack() as stack:
        stage = Stage(instance, postgresql, stack)
        make_everything_happen(stage)
        stage.collect()
    commands = b"".join(content for place, content in stage.shown.items() if place.startswith("command"))
    assert [reason for reason in HAPPENED if f'"{reason}"'.encode() not in commands] == []
    for place in ("output", "requests", "mails", "database", "logs", "exports"):
        assert MARK.encode() in stage.shown[place], place
    for part in SHOWN:
        pages = {place: content for place, content in stage.shown.items() if f"/{part}/change/" in place}
        assert [place for place in pages if MARK.encode() not in pages[place]] == []
        assert len(pages) == 6, part
    assert f"RuntimeError: {MARK}".encode() in stage.shown["logs"]
    private = {place: stage.shown[place] for place in ("output", "database", "logs", "exports")}
    found = leaks(stage.canaries, stage.shown) + leaks({f"link {link}": link for link in stage.links}, private)
    assert not found, "\n".join(found)


def test_a_canary_is_found_in_any_disguise() -> None:
    secret, other = canary(), canary()
    coded = [base64.b64encode(f"{before}{secret}".encode()).decode() for before in ("", "a", "ab")]
    for seen in (secret, quote(secret), html.escape(secret), json.dumps(secret), secret[:END], secret[-END:], *coded):
        assert leaks({"it": secret, "other": other}, {"page": f"<p>{seen}</p>".encode()})[0].startswith("it in page")
