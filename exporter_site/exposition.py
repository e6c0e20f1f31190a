"""Metrics in the text format of Prometheus, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/: a HELP and a TYPE line for each family, then its samples.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Literal

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Number = int | float
Labels = Mapping[str, str]


@dataclass(slots=True)
class Family:
    """The samples of one name: (suffix of the name, labels, value)."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: list[tuple[str, Labels, Number]] = field(default_factory=list)

    def add(self, value: Number, **labels: str) -> "Family":
        self.samples.append(("", labels, value))
        return self

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {_escaped(self.help)}"
        yield f"# TYPE {self.name} {self.kind}"
        for suffix, labels, value in self.samples:
            inside = ",".join(f'{name}="{_escaped(text, quotes=True)}"' for name, text in labels.items())
            yield f"{self.name}{suffix}{f'{{{inside}}}' if inside else ''} {value!r}"


def gauge(name: str, help: str, value: Number | None = None) -> Family:
    """With its one sample; without a value there is none yet."""
    return _family(name, "gauge", help, value)


def counter(name: str, help: str, value: Number | None = None) -> Family:
    """As gauge(); its value only grows, or begins anew at 0."""
    return _family(name, "counter", help, value)


def histogram(name: str, help: str, bounds: Sequence[Number], counts: Sequence[int], total: Number) -> Family:
    """`counts`: how many were at most each of `bounds` and above the one before; last, those above all of them.
    `total`: their sum."""
    family = Family(name, "histogram", help)
    sums = list(accumulate(counts))
    for bound, count in zip((*map(str, bounds), "+Inf"), sums, strict=True):
        family.samples.append(("_bucket", {"le": bound}, count))
    family.samples += [("_sum", {}, total), ("_count", {}, sums[-1])]
    return family


def render(families: Iterable[Family]) -> str:
    return "".join(f"{line}\n" for family in families for line in family.lines())


def _family(name: str, kind: Literal["counter", "gauge"], help: str, value: Number | None) -> Family:
    family = Family(name, kind, help)
    return family if value is None else family.add(value)


def _escaped(text: str, *, quotes: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quotes else text
