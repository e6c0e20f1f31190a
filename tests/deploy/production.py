"""docs/operations.md on a new Debian, with its systemd: installs as the document says, then does what years may do.

    sudo python3 -m tests.deploy.production bookworm mysql [--base DIRECTORY] [--keep]

A new system is made with debootstrap (or copied from --base, one that debootstrap has made with --include as below) and
its systemd started in namespaces of its own: processes, mounts, cgroups, and a network that has nothing but 127.0.0.1.
Blocks of the document that are marked `network` run in the network of this machine. Proxies, certificates and mirrors come
from the environment (PIP_…, SSL_CERT_FILE, http_proxy; MIRROR for debootstrap). Needs root, debootstrap and git.
"""

import argparse
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parents[2]
DOCUMENT = BASE_DIR / "docs" / "operations.md"
INCLUDED = "systemd-sysv,dbus,ca-certificates,procps"
SERVER_NAME = "export.example.test"
PATIENCE = 300.0  # seconds, for a machine that is busy with other things
_PASSED_ON = re.compile(r"(PIP_|SSL_CERT|REQUESTS_CA|https?_proxy|no_proxy)", re.IGNORECASE)
_BLOCK = re.compile(r"^```sh([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# PID 1 of the new system: mounts as in a container, then its own /sbin/init.
_BOOT = """
set -e
mount --bind "$1" "$1"; cd "$1"
mount -t proc proc proc; mount -t sysfs sysfs sys; mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run; mount -t tmpfs tmpfs tmp; mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do touch dev/$name; mount --bind /dev/$name dev/$name; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts; ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s /proc/self/fd dev/fd; ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr
mkdir -p mnt; pivot_root . mnt; umount -l /mnt
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init
"""


@dataclass(frozen=True, slots=True)
class Block:
    tags: frozenset[str]
    text: str


def blocks(document: str) -> Iterator[Block]:
    for tags, text in _BLOCK.findall(document):
        yield Block(frozenset(tags.split()), text)


def say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)


def until(condition: Callable[[], object], what: str, patience: float = PATIENCE) -> float:
    """Wait for `condition`; returns the seconds that it took."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > patience:
            raise AssertionError(f"not in {patience:.0f} s: {what}")
        time.sleep(0.2)
    return time.monotonic() - begun


class Machine:
    """A Debian in the directory `root`, switched on and off."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._process: subprocess.Popen[bytes] | None = None
        self._init = 0
        self._cgroup = _unified_cgroups() / f"production-{os.getpid()}"

    def boot(self) -> None:
        self._cgroup.mkdir(exist_ok=True)
        flags = ["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--propagation=private"]
        command = ["unshare", *flags, "--kill-child", "bash", "-c", _BOOT, "bash", str(self.root)]
        enter = shlex.quote(str(self._cgroup / "cgroup.procs"))
        self._process = subprocess.Popen(
            ["bash", "-c", f'echo $$ >{enter}; exec "$@"', "bash", *command], stdin=subprocess.DEVNULL
        )
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        until(lambda: children.read_text().strip(), "PID 1")
        self._init = int(children.read_text())
        until(
            lambda: self.run("systemctl is-system-running", check=False).strip() in ("running", "degraded"), "systemd"
        )

    def shut_down(self) -> None:
        if self._process is not None:
            os.kill(self._init, signal.SIGRTMIN + 4)  # systemd(1): poweroff.target
            try:
                self._process.wait(120)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def run(self, script: str, *, network: bool = False, check: bool = True, **variables: str) -> str:
        """What `script` prints, run by root with bash; with `network` in that of the real machine."""
        kinds = ["--mount", "--pid", "--uts", "--ipc", "--cgroup", *([] if network else ["--net"])]
        passed_on = {name: value for name, value in os.environ.items() if network and _PASSED_ON.match(name)}
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANGUAGE": "en",
            "DEBIAN_FRONTEND": "noninteractive",
            **passed_on,
            **variables,
        }
        done = subprocess.run(
            ["nsenter", "-t", str(self._init), *kinds, "bash", "-euo", "pipefail", "-c", f"cd\n{script}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check and done.returncode:
            raise AssertionError(f"exit code {done.returncode}:\n{script}\n{done.stdout[-4000:]}")
        return done.stdout

    def python(self, code: str) -> str:
        """What `code` prints in the installed system, as its user."""
        return self.run(f"data-export shell -v 0 -c {shlex.quote(code)}").strip()

    def pid_of(self, service: str) -> int:
        return int(self.run(f"systemctl show --value --property MainPID {service}"))

    def get(self, path: str, cookie: str = "") -> tuple[int, bytes]:
        """An answer of its nginx: the request is made in its network."""
        code = (
            "import http.client, ssl, sys\n"
            "trusted = ssl.create_default_context(cafile='/etc/ssl/data-export/fullchain.pem')\n"
            f"connection = http.client.HTTPSConnection({SERVER_NAME!r}, context=trusted, timeout=60)\n"
            f"connection.request('GET', {path!r}, headers={{'Cookie': {cookie!r}}})\n"
            "answer = connection.getresponse()\n"
            "sys.stdout.write(f'{answer.status} {answer.read().hex()}')"
        )
        status, _space, body = self.run(f"python3 -c {shlex.quote(code)}").partition(" ")
        return int(status), bytes.fromhex(body)


def _unified_cgroups() -> Path:
    return next(
        place for place in map(Path, ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")) if (place / "cgroup.procs").exists()
    )


def make_root(root: Path, suite: str, base: Path | None) -> None:
    if base is not None:
        subprocess.run(["cp", "-a", str(base), str(root)], check=True)
    else:
        mirror = os.environ.get("MIRROR", "http://deb.debian.org/debian")
        command = ["debootstrap", "--variant=minbase", f"--include={INCLUDED}", suite, str(root), mirror]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    if bundle := os.environ.get("SSL_CERT_FILE"):
        shutil.copy(bundle, root / "etc/ssl/certs/ca-certificates.crt")
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    with (root / "etc/hosts").open("a") as hosts:
        hosts.write(f"127.0.0.1 localhost production {SERVER_NAME}\n")
    (root / "etc/hostname").write_text("production\n")
    repository = root / "srv/repository.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", str(BASE_DIR), str(repository)], check=True)
    subprocess.run(["chown", "-R", "0:0", str(repository)], check=True)


class Trial:
    def __init__(self, machine: Machine, database: str) -> None:
        self.machine = machine
        self.database = database
        self.cookie = ""

    def timed(self, name: str) -> None:
        begun = time.monotonic()
        result = getattr(self, name)()
        words = name.replace("_", " ")
        say(f"{words}: {time.monotonic() - begun:.0f} s{f' ({result})' if result else ''}")

    def follow(self, wanted: str = "", suffix: str = "") -> None:
        """Run the blocks of the document that carry the tag `wanted`, or else those of the installation."""
        others = {"mysql", "postgresql", "upgrade", "back"} - {self.database, wanted}
        for block in blocks(DOCUMENT.read_text()):
            if block.tags & others or (wanted and wanted not in block.tags):
                continue
            network = "network" in block.tags
            text = block.text if network else block.text.rstrip() + suffix
            self.machine.run(text, network=network, REPOSITORY="/srv/repository.git", SERVER_NAME=SERVER_NAME)

    def installing(self) -> None:
        self.follow()

    def the_login_page_by_https(self) -> None:
        until(lambda: self.machine.get("/admin/login/")[0] == 200, "the login page")
        until(lambda: self.machine.get("/healthz")[0] == 200, "/healthz")

    def a_task_runs_on_its_schedule(self) -> str:
        self.machine.run("data-export demo")
        self.machine.python(
            "from datasources.models import DataSource; from tasks.models import ExportTask;"
            "source = DataSource.objects.get(kind='sqlite');"
            "ExportTask.objects.create(name='minute', data_source=source, sql='SELECT 1 AS n', cron='* * * * *')"
        )
        seconds = until(lambda: self.succeeded("minute", "schedule"), "a scheduled run")
        return f"started after {seconds:.0f} s"

    def succeeded(self, task: str, trigger: str) -> int:
        wanted = f"task__name={task!r}, trigger={trigger!r}, status='succeeded'"
        return int(
            self.machine.python(f"from tasks.models import *; print(Execution.objects.filter({wanted}).count())")
        )

    def its_file_comes_through_nginx_by_its_own_hand(self) -> None:
        code = (
            "from django.conf import settings; from django.contrib.auth.models import User; from django.test import Client;"
            "from tasks.models import *; settings.ALLOWED_HOSTS += ['testserver'];"
            "client = Client(); client.force_login(User.objects.create_superuser('trial'));"
            "run = Execution.objects.filter(task__name='minute', status='succeeded').last();"
            "print(client.cookies['sessionid'].value, run.pk, run.sha256)"
        )
        session, number, digest = self.machine.python(code).split()
        self.cookie = f"sessionid={session}"
        status, body = self.machine.get(f"/executions/{number}/download", self.cookie)
        assert (status, hashlib.sha256(body).hexdigest()) == (200, digest), status
        log = self.machine.run("cat /var/log/nginx/data-export.access.log")
        assert f"/executions/{number}/download" in log
        for secret in ("data/keys.json", "data"):
            refused = f"runuser -u www-data -- test -r /var/lib/data-export-system/{secret}"
            assert "1" in self.machine.run(f"{refused} || echo 1"), secret

    def the_services_may_do_little(self) -> str:
        for service in ("data-export-web", "data-export-scheduler"):
            status = self.machine.run(f"cat /proc/{self.machine.pid_of(service)}/status")
            for line in ("NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"):
                assert line in status, (service, line)
            inside = f"nsenter -t {self.machine.pid_of(service)} --mount"
            for place in ("/opt/data-export-system", "/etc", "/usr", "/var/lib"):
                assert "1" in self.machine.run(f"{inside} touch {place}/x 2>/dev/null || echo 1"), place
        return self.machine.run("systemd-analyze security data-export-scheduler | tail -1").strip()

    # ---- deaths

    def _long_run(self) -> int:
        """A run of some ten seconds, a minute on a busy machine, that has begun."""
        number = int(
            self.machine.python(
                "from datasources.models import DataSource; from tasks.models import *;"
                "source = DataSource.objects.get(kind='sqlite');"
                "sql = 'WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 12000000) SELECT n FROM c';"
                "task, _ = ExportTask.objects.get_or_create(name='long', defaults=dict(data_source=source, sql=sql, format='csv'));"
                "print(Execution.objects.enqueue(task, trigger='manual').pk)"
            )
        )
        until(lambda: self._run_is(number, "running"), "the long run's beginning")
        return number

    def _run_is(self, number: int, status: str) -> bool:
        code = f"from tasks.models import *; run = Execution.objects.get(pk={number}); print(run.status, run.attempt)"
        found = self.machine.python(code)
        assert found.split()[0] not in {"failed", "cancelled", "timed_out"} - {status}, found
        return found == f"{status} {0 if status == 'queued' else 1}"

    def _replaced(self, service: str) -> float:
        old = self.machine.pid_of(service)
        self.machine.run(f"kill -KILL {old}")
        return until(lambda: self.machine.pid_of(service) not in (0, old), f"a new {service}")

    def killing_the_scheduler_below_a_running_export(self) -> str:
        number = self._long_run()
        seconds = self._replaced("data-export-scheduler")
        assert self._run_is(number, "running"), "the export has ended too early to show anything"
        until(lambda: self._run_is(number, "succeeded"), "the adopted run's end")
        return f"a new one after {seconds:.1f} s; the run ended in its first attempt"

    def killing_the_fork_server(self) -> None:
        before = self.succeeded("minute", "schedule")
        # A scheduler has one from its first run on. The brackets: else the shell that asks would find itself.
        found = "pgrep -f '[m]anage.py forkserver'"
        until(lambda: self.machine.run(f"{found} || true"), "a server process")
        self.machine.run(f"kill -KILL $({found})")
        until(lambda: self.succeeded("minute", "schedule") > before, "the next run")

    def killing_a_worker_of_the_web_server(self) -> str:
        master = self.machine.pid_of("data-export-web")
        old = self.machine.run(f"cat /proc/{master}/task/{master}/children").split()
        self.machine.run(f"kill -KILL {old[0]}")

        def replaced() -> bool:
            now = self.machine.run(f"cat /proc/{master}/task/{master}/children").split()
            return len(now) == len(old) and old[0] not in now

        seconds = until(replaced, "a new worker")
        assert self.machine.get("/healthz")[0] == 200
        return f"a new one after {seconds:.1f} s"

    def killing_the_master_of_the_web_server(self) -> str:
        seconds = self._replaced("data-export-web")
        answered = until(lambda: self.machine.get("/healthz/web")[0] == 200, "the web server")
        return f"a new one after {seconds:.1f} s, answering {answered:.1f} s later"

    def a_scheduler_that_hangs(self) -> str:
        """With a shorter watchdog than that of the unit, by the drop-in that an operator would write."""
        place = "/etc/systemd/system/data-export-scheduler.service.d"
        drop_in = f"mkdir -p {place}; printf '[Service]\\nWatchdogSec=10\\n' >{place}/trial.conf"
        self.machine.run(f"{drop_in}; systemctl daemon-reload; systemctl restart data-export-scheduler")
        old = self.machine.pid_of("data-export-scheduler")
        self.machine.run(f"kill -STOP {old}")
        seconds = until(lambda: self.machine.pid_of("data-export-scheduler") not in (0, old), "a new scheduler")
        self.machine.run(f"rm {place}/trial.conf; systemctl daemon-reload; systemctl restart data-export-scheduler")
        return f"replaced after {seconds:.0f} s of a watchdog of 10 s"

    def a_stop_waits_for_a_running_export(self) -> None:
        number = self._long_run()
        self.machine.run("systemctl stop data-export-scheduler")
        assert self._run_is(number, "succeeded")
        self.machine.run("systemctl start data-export-scheduler")

    def a_crash_of_the_database(self) -> None:
        service = "mariadb" if self.database == "mysql" else "postgresql@*"
        process = "mariadbd" if self.database == "mysql" else "postgres"
        self.machine.run(f"pkill -KILL -x {process}")
        self.machine.run(f"systemctl restart '{service}'")
        until(lambda: self.machine.get("/healthz")[0] == 200, "/healthz after the database's crash")
        before = self.succeeded("minute", "schedule")
        until(lambda: self.succeeded("minute", "schedule") > before, "a run after the database's crash")

    # ---- upgrade

    def upgrading(self) -> str:
        """A commit with a migration that adds a column, by the document; the web server is asked all the time."""
        self._commit_a_migration()
        suffix = "" if "backup" in self.machine.run("data-export system --help") else " --no-backup"
        before = self.machine.run("readlink -f /opt/data-export-system/current")
        self.follow("upgrade", suffix)
        assert self.machine.run("readlink -f /opt/data-export-system/current") != before
        assert "9.9.9" in self.machine.python("import exporter_site; print(exporter_site.__version__)")
        assert self.machine.get("/healthz")[0] == 200
        self._goes_on()
        return "without a backup: this version has no such command" if suffix else "with a backup"

    def going_back(self) -> None:
        self.follow("back")
        assert "9.9.9" not in self.machine.python("import exporter_site; print(exporter_site.__version__)")
        assert self.machine.get("/healthz")[0] == 200
        self._goes_on()

    def _goes_on(self) -> None:
        before = self.succeeded("minute", "schedule")
        until(lambda: self.succeeded("minute", "schedule") > before, "the next run")

    def _commit_a_migration(self) -> None:
        with tempfile.TemporaryDirectory() as place:
            clone, repository = Path(place) / "clone", self.machine.root / "srv/repository.git"
            subprocess.run(["git", "clone", "--quiet", str(repository), str(clone)], check=True)
            version = clone / "exporter_site/__init__.py"
            version.write_text(re.sub(r'__version__ = ".*"', '__version__ = "9.9.9"', version.read_text()))
            latest = max(path.stem for path in (clone / "tasks/migrations").glob("0*.py"))
            (clone / "tasks/migrations/9999_trial.py").write_text(
                "from django.db import migrations\n\n\nclass Migration(migrations.Migration):\n"
                f'    dependencies = [("tasks", "{latest}")]\n'
                '    operations = [migrations.RunSQL("CREATE TABLE trial (id integer)", "DROP TABLE trial")]\n'
            )
            identity = ["-c", "user.name=trial", "-c", "user.email=trial@example.test"]
            for arguments in (
                ["add", "-A"],
                [*identity, "commit", "--quiet", "-m", "A next version"],
                ["push", "--quiet"],
            ):
                subprocess.run(["git", *arguments], cwd=clone, check=True)

    def switching_the_machine_off_and_on(self) -> None:
        self.machine.shut_down()
        self.machine.boot()
        until(lambda: self.machine.get("/healthz")[0] == 200, "/healthz after a boot")
        self._goes_on()


STEPS = (
    "installing",
    "the_login_page_by_https",
    "a_task_runs_on_its_schedule",
    "its_file_comes_through_nginx_by_its_own_hand",
    "the_services_may_do_little",
    "killing_the_scheduler_below_a_running_export",
    "killing_the_fork_server",
    "killing_a_worker_of_the_web_server",
    "killing_the_master_of_the_web_server",
    "a_scheduler_that_hangs",
    "a_stop_waits_for_a_running_export",
    "a_crash_of_the_database",
    "upgrading",
    "going_back",
    "switching_the_machine_off_and_on",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", choices=("bookworm", "trixie"))
    parser.add_argument("database", choices=("mysql", "postgresql"))
    parser.add_argument("--base", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the new system's directory behind")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="production-"))
    place.chmod(0o755)
    machine = Machine(place / "root")
    begun = time.monotonic()
    try:
        make_root(machine.root, options.suite, options.base)
        machine.boot()
        say(
            f"Debian {(machine.root / 'etc/debian_version').read_text().strip()} runs, {machine.run('systemctl --version | head -1').strip()}"
        )
        trial = Trial(machine, options.database)
        for step in STEPS:
            trial.timed(step)
        say(f"everything held, {time.monotonic() - begun:.0f} s in all")
    finally:
        machine.shut_down()
        if options.keep:
            say(f"left behind: {machine.root}")
        else:
            shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
