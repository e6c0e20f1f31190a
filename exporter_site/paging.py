"""Pages of long lists: nothing is counted further than it must, and wide rows are read for one page only."""

from typing import Any

from django.core.paginator import Page, Paginator
from django.utils.functional import cached_property

MOST_COUNTED = 10_000  # rows; beyond that a list says that there are more, and stays fast


class LookedBeyond(Page):  # type: ignore[type-arg]
    """A page that knows whether there is another one, without a count."""

    def __init__(self, rows: Any, number: int, paginator: "Paginator[Any]", *, more: bool) -> None:
        super().__init__(rows, number, paginator)
        self.more = more

    def has_next(self) -> bool:
        return self.more


class CappedPaginator(Paginator):  # type: ignore[type-arg]
    """Counts no further than it must to know that there are many."""

    @cached_property
    def counted(self) -> int | None:
        """How many rows there are; None for more than MOST_COUNTED."""
        found = self._rows.order_by().values("pk")[: MOST_COUNTED + 1].count()
        return found if found <= MOST_COUNTED else None

    @property
    def count(self) -> int:
        return self.counted if self.counted is not None else 1 << 31

    def page(self, number: Any) -> Any:
        """Numbers first, then their rows: an index gives the numbers, however many come before them and however they are
        sorted, while rows are wide."""
        number = self.validate_number(number)
        first = (number - 1) * self.per_page
        numbers = list(self._rows.values_list("pk", flat=True)[first : first + self.per_page + 1])
        more, numbers = len(numbers) > self.per_page, numbers[: self.per_page]
        rows = {row.pk: row for row in self._rows.order_by().filter(pk__in=numbers)}
        return LookedBeyond([rows[pk] for pk in numbers if pk in rows], number, self, more=more)

    @property
    def _rows(self) -> Any:
        return self.object_list
