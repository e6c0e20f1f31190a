"""What lies on this machine: versions, configuration, keys, directories, disk, memory, time zones."""

import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from zoneinfo import ZoneInfo

import psutil
from django.conf import settings
from django.core.checks import Tags, run_checks
from django.utils import timezone
from django.utils.translation import gettext as _
from pydantic import BaseModel, SecretStr

from exporter_site import __version__, checks
from exporter_site.config import BASE_DIR, is_placeholder, resolve
from exporter_site.formats import human_size
from exporter_site.keys import keys_file
from tasks import files, storage
from tasks.doctor.base import Finding, check, failed, from_messages, ok, warning

OLDEST_PYTHON = (3, 11)
DRIVERS = ("mysqlclient", "psycopg")
FEW_INODES = 0.05  # of all
OLD_ZONES = 3  # years: governments change their clocks with less notice
_OWN_CHECKS = ("exporter.E004", "exporter.W001")  # told by checks of their own
_ZONE = "Asia/Shanghai"


@check()
def versions() -> Iterator[Finding]:
    python = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        yield failed(_("Python {version} is too old.").format(version=python), _("Install Python 3.11 or newer."))
    known = {name: _version(name) for name in ("Django", *DRIVERS)}
    for name, found in known.items():
        if not found:
            yield failed(
                _("The package {name} is not installed.").format(name=name),
                _("Run ./start_all.sh, or .venv/bin/pip install -r requirements.txt"),
            )
    installed = ", ".join(f"{name} {found}" for name, found in known.items() if found)
    yield ok(
        _("Version {version}, Python {python}, {others}").format(version=__version__, python=python, others=installed)
    )


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


@check()
def configuration() -> Iterator[Finding]:
    """Unknown keys and wrong values have ended this command at its start, with the nearest known key."""
    file = Path(os.environ.get("EXPORTER_CONFIG") or BASE_DIR / "config.yaml")
    yield from from_messages(checks.check_placeholders(None))
    for name, source in settings.CONFIG.data_sources.items():
        values = (source.host, source.database, source.username, source.password.get_secret_value())
        if any(map(is_placeholder, values)):
            yield warning(
                _("data_sources.{name} still has a sample value and is not used.").format(name=name),
                _("Put the real values into config.yaml or the environment, or remove the source."),
            )
    if not file.exists():
        yield ok(_("There is no {file}: all keys have their defaults, or come from the environment.").format(file=file))
        return
    text = file.read_text(encoding="utf-8-sig")
    if file.stat().st_mode & 0o044 and any(secret in text for secret in _secrets(settings.CONFIG)):
        yield warning(
            _("{file} holds passwords and can be read by other users.").format(file=file), f"chmod 600 {file}"
        )
    yield ok(_("Configuration: {file}").format(file=file))


def _secrets(section: object) -> Iterator[str]:
    """The secrets of the configuration that are none of the sample values."""
    values = (
        dict(section).values()
        if isinstance(section, BaseModel)
        else section.values()
        if isinstance(section, dict)
        else ()
    )
    for value in values:
        if isinstance(value, SecretStr):
            secret = value.get_secret_value()
            if secret and not is_placeholder(secret):
                yield secret
        else:
            yield from _secrets(value)


@check()
def key_file() -> Iterator[Finding]:
    file = keys_file()
    if not file.exists():
        yield ok(_("There is no key file: all keys come from the environment. Keep a copy of them."))
        return
    found = list(from_messages(checks.check_key_file(None)))
    yield from found
    if file.stat().st_uid != os.geteuid():
        yield failed(
            _("The key file {file} belongs to {owner}.").format(file=file, owner=_owner(file)),
            _("Give it to the user that runs the system: chown {user} {file}").format(user=_user(), file=file),
        )
    elif not found:
        yield ok(_("Key file: {file}, readable by its owner only. Is it in the backup?").format(file=file))


@check()
def directories() -> Iterator[Finding]:
    places = _places()
    whole = True
    for key, directory in places.items():
        trouble = list(_directory(key, directory))
        yield from trouble
        whole = whole and not trouble
    if not whole:
        return
    if settings.CONFIG.export.storage != storage.LOCAL:
        yield ok(_("Directory: {directory} can be written to").format(directory=files.temp_root()))
        return
    other_disk = list(from_messages(checks.check_directories(None)))
    yield from other_disk or _moving(*places.values())


def _places() -> dict[str, Path]:
    """The directories that exports need, by their keys."""
    places = {"export.temp_dir": files.temp_root()}
    if settings.CONFIG.export.storage == storage.LOCAL:
        places["export.output_dir"] = files.output_root()
    return places


def _directory(key: str, directory: Path) -> Iterator[Finding]:
    """What is wrong with it."""
    if not directory.is_dir():
        parent = next(path for path in directory.parents if path.exists())
        if parent.is_dir() and os.access(parent, os.W_OK | os.X_OK) and not _is_virtual(parent):
            yield warning(
                _("{key}: {directory} does not exist.").format(key=key, directory=directory),
                _("The first export makes it. If it is on a disk of its own, mount that first."),
            )
        else:
            yield failed(
                _("{key}: {directory} does not exist and can't be made.").format(key=key, directory=directory),
                _(
                    "Make it, and give it to the user that runs the system: mkdir -p {directory}; chown {user} {directory}"
                ).format(directory=directory, user=_user()),
            )
        return
    try:
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as exc:
        yield failed(
            _("{key}: {directory} can't be written to ({error}).").format(
                key=key, directory=directory, error=exc.strerror
            ),
            _("Give the user that runs the system the right to write there, or name another directory."),
        )
        return
    if directory.stat().st_uid != os.geteuid():
        yield warning(
            _("{key}: {directory} belongs to {owner}.").format(key=key, directory=directory, owner=_owner(directory)),
            _("Give it to the user that runs the system: chown {user} {file}").format(user=_user(), file=directory),
        )


def _is_virtual(path: Path) -> bool:
    """Whether nothing can be made there, whoever asks."""
    return path.parts[:2] in (("/", "proc"), ("/", "sys"))


def _moving(temp: Path, output: Path) -> Iterator[Finding]:
    """A finished file becomes visible by one rename: the same, with an empty directory."""
    made = Path(tempfile.mkdtemp(prefix=".doctor-", dir=temp))
    moved = output / made.name
    try:
        made.rename(moved)
    except OSError as exc:
        made.rmdir()
        yield failed(
            _("A directory can't be moved from {temp} to {output} ({error}).").format(
                temp=temp, output=output, error=exc.strerror
            ),
            _("Put export.temp_dir and export.output_dir on one file system, mounted once."),
        )
        return
    moved.rmdir()
    yield ok(_("Directories: {temp} and {output} can be written to").format(temp=temp, output=output))


@check()
def disk() -> Iterator[Finding]:
    needed = settings.CONFIG.export.min_free_disk
    for directory in set(map(_existing, _places().values())):
        found = os.statvfs(directory)
        free = found.f_bavail * found.f_frsize
        where = {"free": human_size(free), "needed": human_size(needed), "directory": directory}
        remedy = _("Free space, lower export.retention_days and run “manage.py system cleanup”, or get a bigger disk.")
        if free < needed:
            yield failed(
                _("{free} are free in {directory}, and exports need {needed} (export.min_free_disk).").format(**where),
                remedy,
            )
        elif free < 2 * needed:
            yield warning(
                _("Only {free} are free in {directory}; below {needed} exports are refused.").format(**where), remedy
            )
        else:
            yield ok(_("Free disk space in {directory}: {free}").format(**where))
        if found.f_files and found.f_favail < FEW_INODES * found.f_files:
            say = warning if found.f_favail else failed
            yield say(
                _("The file system of {directory} has room for only {count} more files, however small.").format(
                    directory=directory, count=found.f_favail
                ),
                _("Remove small files there, or put the directory on another file system (df -i shows it)."),
            )


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


@check()
def log_file() -> Iterator[Finding]:
    file = resolve(settings.CONFIG.logging.file)
    trouble = list(from_messages(checks.check_log_file(None)))
    yield from trouble
    if not trouble:
        yield ok(_("Log file: {file}").format(file=file))


@check()
def memory() -> Iterator[Finding]:
    limit, workers = settings.CONFIG.export.memory_limit, settings.CONFIG.scheduler.max_workers
    there = _memory_of_machine()
    values = {
        "limit": human_size(limit),
        "workers": workers,
        "most": human_size(limit * workers),
        "there": human_size(there),
    }
    if limit > there:
        yield failed(
            _("One export may take {limit} (export.memory_limit), and the machine has {there}.").format(**values),
            _("Lower export.memory_limit, or the system ends exports by force when memory runs out."),
        )
    elif limit * workers > there:
        yield warning(
            _("{workers} exports may take {limit} each, {most} together, and the machine has {there}.").format(
                **values
            ),
            _(
                "Exports usually need far less. To be safe at the worst, lower scheduler.max_workers or export.memory_limit."
            ),
        )
    else:
        yield ok(_("Memory: {there}; {workers} exports may take {most} at most").format(**values))


def _memory_of_machine() -> int:
    """Bytes; of the container, where there is a limit (cgroup v2)."""
    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return total


@check()
def time_zones() -> Iterator[Finding]:
    found = _version("tzdata")
    try:
        for name in (_ZONE, settings.TIME_ZONE):
            ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        yield failed(
            _("The time zone {name} is not known on this machine.").format(name=name),
            _("Install the time zone data: apt-get install tzdata, or .venv/bin/pip install tzdata"),
        )
        return
    year = int(found.partition(".")[0]) if found[:4].isdigit() else 0
    if year and year + OLD_ZONES < timezone.now().year:
        yield warning(
            _("The time zone data is of {year}.").format(year=year), _("Renew it: .venv/bin/pip install -U tzdata")
        )
    yield ok(_("Time zone {zone}, data of version {version}").format(zone=settings.TIME_ZONE, version=found or "?"))


@check()
def security() -> Iterator[Finding]:
    """What `manage.py check --deploy` finds."""
    if settings.DEBUG:
        yield failed(
            _("EXPORTER_DEBUG=1: pages of errors show settings and SQL to whoever meets one."),
            _("Remove EXPORTER_DEBUG from .env and the environment, and start again."),
        )
    messages = run_checks(tags=[Tags.security], include_deployment_checks=True)
    told = [
        each
        for each in messages
        if not each.is_silenced() and each.id not in _OWN_CHECKS and each.id != "security.W018"
    ]
    yield from from_messages(told)
    if not told and not settings.DEBUG:
        yield ok(_("“manage.py check --deploy” finds nothing"))


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except KeyError:  # a number without a name, in a container
        return str(path.stat().st_uid)


def _user() -> str:
    return psutil.Process().username()
