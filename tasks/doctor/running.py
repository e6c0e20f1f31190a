"""What must be running, and what has come to a stop: scheduler, watchdog, files, messages, owners."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from django.utils import timezone
from django.utils.translation import gettext as _

from exporter_site.config import BASE_DIR
from notifications.models import Delivery
from tasks import daemon, reasons, rights, status, watchdog
from tasks.doctor.base import Finding, check, failed, ok, warning
from tasks.models import Execution, ExportTask, Pause, SchedulerProcess
from tasks.states import Status
from tasks.storage import LOCAL
from tasks.storage.base import StorageError

# Where systemd finds units, and what a container has in its root.
UNITS = (
    Path("/etc/systemd/system"), Path("/lib/systemd/system"), Path("/usr/lib/systemd/system"),
    Path.home() / ".config/systemd/user",
)  # fmt: skip
CONTAINER_MARKS = (Path("/.dockerenv"), Path("/run/.containerenv"))
NEWEST_FILES = 20  # runs whose files are looked for
WAITS_LONG = timedelta(hours=1)
MOST_NAMED = 10


@check(needs_database=True)
def scheduler() -> Iterator[Finding]:
    alive = list(SchedulerProcess.objects.alive())
    stale = daemon.pid_file().exists() and daemon.find() is None
    if not alive:
        died = _("The scheduler has died: its PID file {file} names a process that is gone.").format(
            file=daemon.pid_file()
        )
        yield failed(
            died if stale else _("No scheduler is running: nothing starts by itself."),
            _("Run “manage.py scheduler start”; logs/scheduler.log says why it ended."),
        )
    elif stale:
        yield warning(
            _("The PID file {file} names a process that is gone; another scheduler lives ({name}).").format(
                file=daemon.pid_file(), name=alive[0].name
            ),
            _("If there should be one on this machine: “manage.py scheduler start”. Otherwise remove the file."),
        )
    for pause in Pause.objects.active():
        yield warning(
            _("All runs are paused since {when} by {who}.").format(
                when=status.local(pause.begun_at), who=pause.begun_by
            ),
            _("When the maintenance is over: “manage.py scheduler resume”."),
        )
    if alive and not stale:
        yield ok(_("Scheduler: {name}").format(name=", ".join(each.name for each in alive)))


@check()
def watchdog_line() -> Iterator[Finding]:
    """Who starts the scheduler again when it has died."""
    unit = next((file for directory in UNITS for file in _units(directory)), None)
    if unit is not None:
        yield ok(_("systemd looks after the scheduler: {unit}").format(unit=unit))
        return
    try:
        with watchdog.SafeCrontab(readonly=True) as crontab:
            if crontab.ours:
                yield ok(_("The crontab looks after the scheduler, once a minute"))
                return
        why = ""
    except watchdog.CrontabError as exc:
        why = str(exc)
    if any(mark.exists() for mark in CONTAINER_MARKS):
        yield ok(_("In a container, its restart policy looks after the scheduler"))
        return
    yield warning(
        " ".join([_("Nothing starts the scheduler again when it has died, or after a reboot."), why]).strip(),
        _("Run “manage.py crontab add”, or have systemd run it (deploy/)."),
    )


def _units(directory: Path) -> Iterator[Path]:
    """The units that run a scheduler of this installation."""
    for file in directory.glob("*.service"):
        try:
            text = file.read_text(errors="replace")
        except OSError:
            continue
        if str(BASE_DIR) in text and "runscheduler" in text:
            yield file


@check(needs_database=True)
def kept_files() -> Iterator[Finding]:
    """Whether the newest files are where their rows say: a disk that is not mounted looks like an empty directory."""
    newest = Execution.objects.filter(status=Status.SUCCEEDED, files_removed_at=None).order_by("-id")[:NEWEST_FILES]
    kept = [(row.pk, file) for row in newest for file in row.stored_files()]
    try:
        missing = [(pk, file) for pk, file in kept if file.size() is None]
    except StorageError as exc:
        yield failed(str(exc), str(reasons.remedy("storage_unavailable")))
        return
    if missing:
        mounted = _(
            "Is the disk of export.output_dir mounted, and the directory the same as before? Otherwise run them again."
        )
        ruled = _("See whether a rule of the bucket removes files: it must not. Run again what is needed.")
        yield failed(
            _("{count} of the newest {all} files are gone, the first is that of execution {number}: {path}").format(
                count=len(missing), all=len(kept), number=missing[0][0], path=missing[0][1]
            ),
            mounted if missing[0][1].kind == LOCAL else ruled,
        )
    else:
        yield ok(_("The newest {count} files are where they belong").format(count=len(kept)))


@check(needs_database=True)
def deliveries() -> Iterator[Finding]:
    undelivered = Delivery.objects.undelivered()
    if count := undelivered.count():
        channels = sorted(set(undelivered.values_list("channel_name", flat=True)))
        yield warning(
            _("{count} messages were not delivered since yesterday, to: {channels}").format(
                count=count, channels="; ".join(channels[:MOST_NAMED])
            ),
            _("“Deliveries” in the admin says why. Mend the cause, then send them again there."),
        )
    late = Delivery.objects.waiting().filter(created_at__lt=timezone.now() - WAITS_LONG).count()
    if late:
        yield warning(
            _("{count} messages have been waiting for more than an hour.").format(count=late),
            _("See “Deliveries” in the admin: a server that is away, or no scheduler to send them."),
        )
    if not count and not late:
        yield ok(_("Messages: none is late or was given up since yesterday"))


@check(needs_database=True)
def owners() -> Iterator[Finding]:
    """Tasks whose owner lost the right to run them."""
    tasks = ExportTask.objects.filter(enabled=True, data_source__is_active=True).exclude(owner=None)
    refused = [
        f"“{task}”: {why}"
        for task in tasks.select_related("owner", "data_source").iterator()
        if (why := rights.refusal(task, task.data_source))
    ]
    if refused:
        yield failed(
            _("{count} enabled tasks may not run any more. {tasks}").format(
                count=len(refused), tasks=" ".join(refused[:MOST_NAMED])
            ),
            _("Give the owner the right again, give the task another owner, or disable it."),
        )
    else:
        yield ok(_("The owners of all enabled tasks may run them"))
