from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from exporter_site.command import ExporterCommand, Failed, WrongUse
from exporter_site.dump import DumpError
from exporter_site.formats import human_size
from tasks import backup, restore, status
from tasks.archive import BackupError
from tasks.housekeeping import Removed, housework
from tasks.restore import Restored
from tasks.storage.base import StorageError

if TYPE_CHECKING:
    from tasks.doctor import Finding

MARKS = {"ok": "✓", "warning": "!", "failed": "✗", "skipped": "-"}


class Command(ExporterCommand):
    help = "The whole system: status, cleanup, backup, restore, doctor."

    def add_arguments(self, parser: CommandParser) -> None:
        verbs = parser.add_subparsers(dest="verb", required=True)
        self.add_json(verbs.add_parser("status", help="is everything well, and what is going on"))
        cleanup = verbs.add_parser("cleanup", help="remove old logs and files, and what dead runs left")
        cleanup.add_argument("--days", type=int, help="older than so many days; export.retention_days when left out")
        cleanup.add_argument("--dry-run", action="store_true", help="only say what would be removed")
        self.add_json(cleanup)
        backup = verbs.add_parser("backup", help="the database and config.yaml as one file, the keys as another")
        backup.add_argument("--output", type=Path, help="a directory, or a new file ….tar.gz; data/backups if left out")
        backup.add_argument("--with-files", action="store_true", help="also the files of all executions")
        backup.add_argument("--no-keys", action="store_true", help="do not write the keys: they are kept elsewhere")
        self.add_json(backup)
        restore = verbs.add_parser("restore", help="let a backup be this installation")
        restore.add_argument("file", type=Path)
        restore.add_argument("--yes", action="store_true", help="replace what is here")
        self.add_json(restore)
        doctor = verbs.add_parser("doctor", help="look at everything; for what is not well, say what to do")
        doctor.add_argument("checks", nargs="*", metavar="CHECK", help="only these checks; all when left out")
        self.add_json(doctor)

    def handle_status(self, options: dict[str, Any]) -> None:
        found = status.system()
        if options["as_json"]:
            self.print_json(found.as_json())
        else:
            for line in found.lines():
                self.say(line)
        if problems := found.problems():
            raise Failed(" ".join(problems))

    def handle_cleanup(self, options: dict[str, Any]) -> None:
        if options["days"] is not None and options["days"] < 1:
            raise WrongUse(_("--days must be at least 1."))
        removed = Removed()
        try:
            for _piece in housework(options["days"], dry_run=options["dry_run"], removed=removed):
                pass
        except StorageError as exc:  # All the rest is done.
            raise Failed(exc) from None
        if options["as_json"]:
            self.print_json({name: getattr(removed, name) for name in Removed.__slots__})
            return
        if options["dry_run"]:
            self.say(_("This would be removed:"))
        self.say(_("Files of executions: {count}, {size}").format(count=removed.files, size=human_size(removed.bytes)))
        self.say(_("Log entries: {count}").format(count=removed.rows))
        self.say(_("Unfinished files of dead runs: {count}").format(count=removed.leftovers))
        self.say(_("Files that no log entry knows, set aside: {count}").format(count=removed.orphans))
        self.say(_("Files that were set aside a week ago: {count}").format(count=removed.discarded))

    def handle_backup(self, options: dict[str, Any]) -> None:
        try:
            made = backup.make(options["output"], with_files=options["with_files"], with_keys=not options["no_keys"])
        except (BackupError, DumpError) as exc:
            raise Failed(exc) from None
        if options["as_json"]:
            self.print_json(_with_texts(asdict(made)))
            return
        self.say(_("Backup: {file}, {size}").format(file=made.archive, size=human_size(made.bytes)))
        if options["with_files"]:
            self.say(_("With {count} files of executions").format(count=made.files))
        if made.keys is not None:
            self.say(
                _(
                    "Keys: {file}. Move this file elsewhere now: whoever has both can read every stored password; without it, nobody can."
                ).format(file=made.keys)
            )

    def handle_restore(self, options: dict[str, Any]) -> None:
        try:
            done = restore.restore(options["file"], replace=options["yes"])
        except (BackupError, DumpError) as exc:
            raise Failed(exc) from None
        if options["as_json"]:
            self.print_json(_with_texts(asdict(done)))
            return
        for line in _lines(done):
            self.say(line)

    def handle_doctor(self, options: dict[str, Any]) -> None:
        from tasks import doctor  # with all that it looks at: the other verbs start sooner without

        known = [each.name for each in doctor.CHECKS]
        if unknown := set(options["checks"]) - set(known):
            raise WrongUse(
                _("There is no check “{name}”. Known are: {known}.").format(name=min(unknown), known=", ".join(known))
            )
        chosen = [each for each in doctor.CHECKS if not options["checks"] or each.name in options["checks"]]
        findings = []
        for finding in doctor.examine(chosen):
            findings.append(finding)
            if not options["as_json"]:
                self._show(finding)
        counts = {level.value: sum(finding.level == level for finding in findings) for level in doctor.Level}
        if options["as_json"]:
            told = [{name: getattr(finding, name) for name in finding.__slots__} for finding in findings]
            self.print_json({"healthy": not counts["failed"], "counts": counts, "findings": told})
        else:
            self.say()
            self.say(_("{ok} well, {warning} warnings, {failed} failed, {skipped} not looked at").format(**counts))
        if counts["failed"]:
            words = ngettext(
                "{count} fault was found; what to do is written below it.",
                "{count} faults were found; what to do is written below each.",
                counts["failed"],
            )
            raise Failed(words.format(count=counts["failed"]))

    def _show(self, finding: "Finding") -> None:
        colours = {"ok": self.style.SUCCESS, "warning": self.style.WARNING, "failed": self.style.ERROR}
        paint = colours.get(finding.level.value, str)
        self.say(paint(f"{MARKS[finding.level.value]} {finding.sentence}"))
        if finding.remedy:
            self.say(f"    → {finding.remedy}")
        self.stdout.flush()  # each as it comes, in a pipe, too


def _with_texts(values: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _lines(done: Restored) -> Iterator[str]:
    """What was done, and what is left to do."""
    yield _("Restored: the state of {time}, version {version}; migrations since: {count}").format(
        time=status.local(done.taken_at), version=done.version, count=done.migrated
    )
    yield _("Planned times since then, recorded as missed: {count}").format(count=sum(done.missed.values()))
    for task, count in sorted(done.missed.items()):
        yield f"    {task}: {count}"
    yield _("Runs that were queued or running then, recorded as missed: {count}").format(count=done.ended)
    yield _("Messages that were not sent yet then, held back: {count}").format(count=done.held_back)
    yield _("Files put back: {files}; executions whose file is gone: {missing}").format(
        files=done.files, missing=done.missing
    )
    if done.quarantine is not None:
        yield _("Files that the backup does not know, set aside in {directory}: {count}").format(
            directory=done.quarantine, count=done.quarantined
        )
    if done.config is not None:
        yield _("The config.yaml of the backup differs; it lies in {file}.").format(file=done.config)
    if done.unreadable:
        yield _("Stored secrets that no key can read, to be entered again: {count}").format(count=done.unreadable)
    if not done.links_valid:
        yield _("Links to files that were sent before are not valid here: the secret key is another one.")
    yield _(
        "Nothing of this runs or is sent by itself: look at the missed runs and at the messages that were not delivered, then run, backfill or send again. Users, passwords and API keys are those of the backup, too: whoever has lost access since has it again."
    )
    yield _("Start the system: ./start_all.sh --restart")
