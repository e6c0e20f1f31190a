"""The programs that the system is compared with: each one a process that writes `orders` into one xlsx.

Each is what a competent user of that library would write: rows streamed from the server into the file, numbers as
numbers, dates with formats, text as text (order numbers of 19 digits, too: as numbers they would lose digits). They run
in an environment of their own, without Django, as `python -m benchmarks.peers.<name>`.
"""
