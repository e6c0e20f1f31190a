"""What is left of a dead attempt, where its server can't be reached."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tasks import leftovers
from tasks.leftovers import clear_away
from tests.factories import make_execution, make_source, make_task


@pytest.fixture
def callers() -> Iterator[tuple[int, list[str]]]:
    """The port of a server that hangs up on everybody, and who has called."""
    seen: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            while True:
                try:
                    caller, address = server.accept()
                except OSError:
                    return
                seen.append(address[0])
                caller.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        yield server.getsockname()[1], seen
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.django_db
def test_a_server_that_can_not_be_reached_is_asked_once_a_minute(
    callers: tuple[int, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time costs seconds, in which no run is started."""
    port, seen = callers
    source = make_source(kind="mysql", host="127.0.0.1", port=port, database="shop", username="u", ssl_mode="disable")
    runs = [make_execution(make_task(data_source=source), attempt=1, backend_id=str(number)) for number in (1, 2, 3)]
    for run in runs:
        clear_away(run)
    assert len(seen) == 1
    # A minute later it is worth a try again.
    monkeypatch.setattr(leftovers, "LEFT_ALONE", 0)
    leftovers._left_alone_until.clear()
    for run in runs:
        clear_away(run)
    assert len(seen) == 4
