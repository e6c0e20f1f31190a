"""Two hosts on one system database and one file share. One is cut off in the middle of its exports: the other takes them
up, the one that was cut off does no harm and comes back by itself, nothing is lost and nothing is done twice.

pytest --faults-long -n0 -s tests/deploy/test_two_hosts.py; the second test has the real times.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks import scheduler, supervisor
from tests.conftest import missing_program
from tests.deploy import short_leases
from tests.deploy.hosts import OUTSIDE, SERVERS, SYSTEM, Hub, NoNamespaces
from tests.deploy.two_hosts import Cut, World, finish
from tests.faults.load import MOST_RECOVERY
from tests.servers import PrivateServer
from tests.servers.robots import Robots

# Seconds, even shortened ones, are too few for two hosts on a machine that runs other tests.
pytestmark = pytest.mark.faults_long


@pytest.fixture
def hub() -> Iterator[Hub]:
    try:
        with missing_program(), Hub(2) as made:
            yield made
    except NoNamespaces as exc:
        pytest.skip(f"This machine lets us make no network namespaces: {exc}")


@pytest.fixture
def server(hub: Hub, kind: str) -> Iterator[PrivateServer]:
    with missing_program():
        made = SERVERS[kind](host=SYSTEM).start()
    yield made
    made.stop()


@pytest.fixture
def world(hub: Hub, server: PrivateServer, kind: str, tmp_path: Path) -> Iterator[World]:
    with Robots(host=OUTSIDE) as robots:
        made = World(hub, server, tmp_path / "share", kind, robots)
        yield made
        made.instance.close()


@pytest.mark.parametrize("kind", SERVERS)
def test_a_host_that_is_cut_off_for_a_while_costs_nothing(world: World) -> None:
    world.instance.environment["DJANGO_SETTINGS_MODULE"] = short_leases.__name__
    world.load(fast=6, slow=6, short=2, long=13, workers=4)
    cut = Cut(world, world.hosts, ("system",), short_leases.FENCE)
    world.fleet.start_all()
    cut.happen(most=40.0)
    cut.mend()
    finish(world, [cut])


@pytest.mark.parametrize("kind", SERVERS)
def test_two_hosts_that_are_cut_off_one_after_the_other(world: World) -> None:
    world.load(fast=12, slow=8, short=25, long=60, workers=6)
    # First it goes on reading from the source, writing to the share and may send messages; then it is all alone.
    cuts = [
        Cut(world, world.hosts[:1], ("system",), supervisor.SELF_FENCE),
        Cut(world, world.hosts[1:], ("system", "outside"), supervisor.SELF_FENCE, at_the_far_end=True),
    ]
    world.fleet.start_all()
    for cut in cuts:
        world.more("long")
        cut.happen(most=MOST_RECOVERY)
        cut.mend()
    finish(world, cuts)
    assert all(supervisor.SELF_FENCE - 5 < cut.facts["stopped after"] < scheduler.LEASE for cut in cuts)
