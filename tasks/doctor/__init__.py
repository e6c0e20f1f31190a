"""`manage.py system doctor`: everything that can be looked at, and for what is not well, what to do.

base.py says what a check is and carries them out; the other modules are the checks, by subject.
"""

from tasks.doctor import base, database, installation, outside, running
from tasks.doctor.base import Finding, Level, examine

__all__ = ["CHECKS", "Finding", "Level", "examine"]

CHECKS = [
    check
    for subject in (installation, database, running, outside)
    for check in base.CHECKS
    if check.look.__module__ == subject.__name__
]
