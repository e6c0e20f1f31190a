"""kind -> (label, dotted path): how database kinds, file formats and the like are found.

A new kind is one new file and one line in its registry. The class is imported on first use, so a driver that is not
installed hurts only those who ask for it.
"""

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from django.utils.functional import Promise
from django.utils.module_loading import import_string

T = TypeVar("T")
Label = str | Promise


class Registry(Generic[T]):
    """A read-only table of the classes that serve one purpose, by kind."""

    def __init__(self, entries: Mapping[str, tuple[Label, str]]) -> None:
        self._entries = dict(entries)

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def choices(self) -> list[tuple[str, Label]]:
        """(kind, label) pairs in the order of registration. Models refer to it by a module-level function."""
        return [(kind, label) for kind, (label, _) in self._entries.items()]

    def label(self, kind: str) -> Label:
        return self._entries[kind][0]

    def get(self, kind: str) -> type[T]:
        """The class of `kind`. Raises KeyError for an unknown one, ImportError when its driver is not installed."""
        found: type[T] = import_string(self._entries[kind][1])
        return found
