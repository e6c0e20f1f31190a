"""Why an execution ended as it did: code -> what happened and what to do, in words.

The code is stored; the words are looked up when they are shown, in the reader's language.
"""

from typing import NamedTuple

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

Text = str | Promise


class Reason(NamedTuple):
    sentence: Text
    remedy: Text = ""
    passing: bool = False  # may be gone by itself in a while: worth a retry


REASONS: dict[str, Reason] = {
    "connection_failed": Reason(
        _("The database could not be reached."),
        _("Check host, port and network, then press “Test connection” on the data source."),
        passing=True,
    ),
    "connection_lost": Reason(
        _("The connection broke while rows were read. The file was discarded."),
        _("Run again. If it happens often, ask whether the server restarts or a firewall cuts long connections."),
        passing=True,
    ),
    "auth_failed": Reason(
        _("The database refused user name or password."),
        _("Correct them on the data source, then test the connection."),
    ),
    "unknown_database": Reason(
        _("The database does not exist, or the account may not use it."),
        _("Check its name on the data source, and the account's rights."),
    ),
    "tls_failed": Reason(
        _("No encrypted connection could be made."),
        _("Check the TLS mode of the data source and the server's certificate."),
    ),
    "secret_unreadable": Reason(
        _("The stored password can't be decrypted."),
        _("Restore the key file, or enter the password again on the data source."),
    ),
    "permission_denied": Reason(
        _("The account may not read what the SQL asks for."), _("Have the account granted SELECT on these tables.")
    ),
    "owner_not_allowed": Reason(
        _("The task's owner may not run it any more."),
        _("Give the owner the right again, or the task another owner, then run again."),
    ),
    "sql_refused": Reason(
        _("The SQL was not run: it does more than read, or a name in it has no value."),
        _("Change the task as the message below says."),
    ),
    "sql_error": Reason(_("The database refused the SQL."), _("Correct the SQL; “task test” shows the error quickly.")),
    "killed_on_server": Reason(
        _("Somebody, or a rule, ended the query on the database server."),
        _("Ask the database's administrators, then run again."),
        passing=True,
    ),
    "query_timeout": Reason(
        _("The query took longer than allowed."),
        _("Make it faster, mark the task as long running, or raise export.query_timeout."),
    ),
    "task_timeout": Reason(
        _("The run took longer than allowed."), _("Mark the task as long running, or raise scheduler.task_timeout.")
    ),
    "stalled": Reason(
        _("The database stopped sending rows."),
        _("Check the database's load and the network, then run again."),
        passing=True,
    ),
    "worker_lost": Reason(
        _("The process that ran the export died."),
        _("Look for a restart or lack of memory at that time, then run again."),
        passing=True,
    ),
    "out_of_memory": Reason(
        _("The export needed more memory than allowed."), _("Raise export.memory_limit, or select fewer wide columns.")
    ),
    "disk_full": Reason(
        _("There is too little free disk space."),
        _("Free space, or lower export.retention_days, then run again."),
        passing=True,
    ),
    "file_error": Reason(
        _("The file could not be written."), _("Check that the directories exist and may be written to.")
    ),
    "storage_unavailable": Reason(
        _("The file could not be put into the object storage."),
        _(
            "Look at the message below and at “manage.py system doctor object_storage”: address, bucket, keys, network. Then run again."
        ),
        passing=True,
    ),
    "file_too_large": Reason(
        _("A limit of the file format or of the file system was reached."),
        _("Select fewer columns, choose csv, or lower export.max_file_size."),
    ),
    "row_count_mismatch": Reason(
        _("The rows written are not those received. The file was discarded."), _("Run again and report this.")
    ),
    "source_inactive": Reason(_("The data source is switched off."), _("Activate it, or choose another.")),
    "cancelled": Reason(_("The run was cancelled."), _("Run it again, if it is needed.")),
    "interrupted": Reason(_("The system was stopped while the export ran."), _("Run it again, if it is needed.")),
    "unplannable": Reason(_("The schedule can't be read any more."), _("Correct schedule and time zone of the task.")),
    "overlap": Reason(_("The task was still running."), _("Wait for it, or allow parallel runs in the task.")),
    "misfire": Reason(
        _("Its time had passed by more than the grace time."), _("Run it by hand for that date if it is needed.")
    ),
    "coalesced": Reason(_("A newer run took its place."), _("Run it by hand for that date if it is needed.")),
    "restored": Reason(
        _("The system was restored from a backup that does not know what happened at this time; it may have run."),
        _("Look whether its file or message arrived. If not, run it by hand for that date, or backfill the dates."),
    ),
    "file_missing": Reason(
        _("The run succeeded, but its file was gone when the system was restored from a backup."),
        _("Run it by hand for that date if the file is needed."),
    ),
    "internal_error": Reason(_("The system itself failed."), _("The log has the details; please report them.")),
}


def sentence(code: str) -> Text:
    return REASONS[code].sentence if code in REASONS else code


def is_passing(code: str) -> bool:
    return code in REASONS and REASONS[code].passing


def remedy(code: str) -> Text:
    return REASONS[code].remedy if code in REASONS else ""
