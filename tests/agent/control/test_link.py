"""The link against a real mosquitto over mutual TLS: nothing is lost, whatever breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from device_agent.telemetry.spool import Spool
from device_agent.uplink.identity import Identity
from device_agent.uplink.link import Link, LinkTerms
from device_agent.uplink.mqtt_connection import MqttConnection, Will
from edgeops import topics
from edgeops.errors import TransportError
from edgeops.messages import Ack, DeviceState, ReportedState, UpdateStatus, encode
from edgeops_testkit.enrolled import DEVICE, Desk
from edgeops_testkit.waiting import refusing_port, wait_until_async

pytestmark = pytest.mark.slow


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk.make(tmp_path)
    yield made
    made.hub.close()


class Rig:
    """A link with a spool, and what came on `desired`."""

    def __init__(self, desk: Desk, *, ack_timeout_s: float = 20, in_flight: int = 64) -> None:
        self.hub = desk.hub
        self.identity: Identity = desk.enroll()
        self.spool = Spool(desk.root / "device" / "spool.db", DEVICE, size_bytes=1 << 30)
        self.desired: list[bytes] = []
        self.revision = 0
        self.terms = LinkTerms(
            host="127.0.0.1",
            port=desk.hub.broker.port,
            connect_timeout_s=5,
            retry_min_s=0.02,
            retry_max_s=0.1,
            ack_timeout_s=ack_timeout_s,
            in_flight=in_flight,
        )

    def make(self) -> Link:
        return Link(
            device=DEVICE,
            terms=self.terms,
            tls=self.identity.tls_context,
            spool=self.spool,
            on_desired=self.desired.append,
            report=self.report,
        )

    def report(self) -> ReportedState:
        self.revision += 1
        return ReportedState(
            device=DEVICE, session=self.spool.session, revision=self.revision, generation=0, running=None,
            update=UpdateStatus(phase="idle", generation=0), at_ms=0,
        )  # fmt: skip

    def run(self, work: Callable[[Link], Awaitable[None]]) -> None:
        """Runs the link while `work` does; then cancels it, as the agent does when it stops."""

        async def both() -> None:
            link = self.make()
            running = asyncio.create_task(link.run())
            try:
                await work(link)
            finally:
                running.cancel()
                await asyncio.wait([running])

        asyncio.run(both())

    def fill(self, count: int) -> None:
        for number in range(count):
            self.spool.append_event("x", {"number": number})

    def sequences(self) -> list[int]:
        return [entry.sequence for entry in self.hub.entries]


async def until(condition: Callable[[], object], what: str) -> None:
    await wait_until_async(lambda: bool(condition()), 20, what)


def test_a_connection_says_hello_reports_and_says_goodbye(desk: Desk) -> None:
    rig = Rig(desk)

    async def work(link: Link) -> None:
        await until(lambda: desk.hub.states and desk.hub.reports, "birth and report")
        assert link.figures.connected and desk.hub.states[-1].online

    rig.run(work)
    asyncio.run(until(lambda: not desk.hub.states[-1].online, "the goodbye"))
    first, last = desk.hub.states[0], desk.hub.states[-1]
    assert first.connection == last.connection and first.session == last.session == rig.spool.session


def test_the_spool_empties_only_upon_the_hubs_own_acknowledgement(desk: Desk) -> None:
    rig = Rig(desk)
    rig.fill(10)
    desk.hub.withhold_acks = True

    async def work(link: Link) -> None:
        await until(lambda: len(desk.hub.entries) == 10, "ten entries at the hub")
        assert rig.spool.count() == 10
        pairs = tuple((rig.spool.session, number) for number in (1, 2, 3, 99))
        desk.hub.broker.publish(
            topics.topic(DEVICE, "acks"), encode(Ack(device=DEVICE, pairs=pairs)), retain=False
        )
        await until(lambda: rig.spool.count() == 7, "three to be dropped")
        assert link.figures.acknowledged == 3

    rig.run(work)
    assert sorted(rig.sequences()) == list(range(1, 11))


def test_what_is_not_acknowledged_is_sent_again_after_a_while(desk: Desk) -> None:
    rig = Rig(desk, ack_timeout_s=0.2)
    rig.fill(3)
    desk.hub.withhold_acks = True

    async def work(link: Link) -> None:
        await until(lambda: len(desk.hub.entries) >= 6, "a second round")
        desk.hub.withhold_acks = False
        await until(lambda: rig.spool.count() == 0, "an empty spool")
        assert link.figures.resent >= 3

    rig.run(work)
    assert set(rig.sequences()) == {1, 2, 3}


def test_no_more_is_on_its_way_than_allowed(desk: Desk) -> None:
    rig = Rig(desk, in_flight=4)
    rig.fill(30)
    desk.hub.withhold_acks = True

    async def work(link: Link) -> None:
        await until(lambda: len(desk.hub.entries) == 4, "four entries")
        rig.fill(1)
        link.wake()
        link.report()
        # The report goes the same way, so when it is there nothing else is coming.
        await until(lambda: len(desk.hub.reports) == 2, "a second report")
        assert len(desk.hub.entries) == 4

    rig.run(work)
    assert rig.spool.count() == 31


def test_everything_arrives_after_the_broker_was_away(desk: Desk) -> None:
    rig = Rig(desk)

    async def work(link: Link) -> None:
        rig.fill(5)
        link.wake()
        await until(lambda: rig.spool.count() == 0, "five delivered")
        await asyncio.to_thread(desk.hub.broker.stop)
        await until(lambda: not link.figures.connected, "the link to break")
        rig.fill(50)
        link.wake()
        await until(lambda: link.figures.failures >= 2, "failed attempts")
        assert link.figures.last_error is not None and rig.spool.count() == 50
        await asyncio.to_thread(desk.hub.broker.start)
        await until(lambda: rig.spool.count() == 0, "all delivered")
        assert link.figures.last_error is None

    rig.run(work)
    assert sorted(set(rig.sequences())) == list(range(1, 56))
    births = [state.connection for state in desk.hub.states if state.online]
    assert births == sorted(set(births)) and len(births) == 2


def test_what_an_earlier_session_left_is_delivered_first(desk: Desk) -> None:
    rig = Rig(desk)
    rig.fill(3)
    earlier = rig.spool.session
    rig.spool.close()
    rig.spool = Spool(desk.root / "device" / "spool.db", DEVICE, size_bytes=1 << 30)
    rig.fill(2)

    async def work(_link: Link) -> None:
        await until(lambda: rig.spool.count() == 0, "an empty spool")

    rig.run(work)
    now = rig.spool.session
    seen = [(entry.session, entry.sequence) for entry in desk.hub.entries]
    assert seen == [(earlier, 1), (earlier, 2), (earlier, 3), (now, 1), (now, 2)]


def test_a_retained_desired_state_comes_with_every_connection(desk: Desk) -> None:
    rig = Rig(desk)
    desk.hub.broker.publish(topics.topic(DEVICE, "desired"), b"wanted")

    for connection in (1, 2):

        async def work(_link: Link, count: int = connection) -> None:
            await until(lambda: len(rig.desired) == count, "the desired state")

        rig.run(work)
    assert rig.desired == [b"wanted", b"wanted"]


def test_an_acknowledgement_that_is_none_is_counted_and_harmless(desk: Desk) -> None:
    rig = Rig(desk)
    rig.fill(1)
    desk.hub.withhold_acks = True

    async def work(link: Link) -> None:
        await until(lambda: desk.hub.entries, "the entry")
        pair = ((rig.spool.session, 1),)
        for payload in (b"nonsense", encode(Ack(device="pump-8", pairs=pair))):
            desk.hub.broker.publish(topics.topic(DEVICE, "acks"), payload, retain=False)
        await until(lambda: link.figures.malformed == 2, "both to be counted")

    rig.run(work)
    assert rig.spool.count() == 1


def test_the_broker_tells_when_a_connection_dies_without_a_goodbye(desk: Desk) -> None:
    identity = desk.enroll()
    topic = topics.topic(DEVICE, "state")

    async def work() -> None:
        def state(online: bool) -> bytes:
            return encode(DeviceState(device=DEVICE, session=1, connection=1, online=online, at_ms=0))

        connection = MqttConnection(
            client_id=DEVICE, tls=identity.tls_context(), will=Will(topic, state(False)), timeout_s=5
        )
        await connection.open("127.0.0.1", desk.hub.broker.port, [topics.topic(DEVICE, "desired")])
        connection.publish(topic, state(True), retain=True)
        await until(lambda: desk.hub.states, "the birth")
        socket = connection._client.socket()
        assert socket is not None
        socket.shutdown(2)
        await until(lambda: not desk.hub.states[-1].online, "the will")
        await connection.close()

    asyncio.run(work())
    assert [state.online for state in desk.hub.states] == [True, False]


def test_a_broker_that_is_not_there_or_not_ours_is_a_transport_error(desk: Desk, tmp_path: Path) -> None:
    identity = desk.enroll()
    other = Desk.make(tmp_path / "other")

    async def open_at(port: int) -> None:
        connection = MqttConnection(
            client_id=DEVICE, tls=identity.tls_context(), will=Will("a/b", b""), timeout_s=2
        )
        try:
            await connection.open("127.0.0.1", port, [topics.topic(DEVICE, "desired")])
        finally:
            await connection.close()

    with refusing_port() as port, pytest.raises(TransportError, match="refused"):
        asyncio.run(open_at(port))
    with pytest.raises(TransportError, match="CERTIFICATE_VERIFY_FAILED"):
        asyncio.run(open_at(other.hub.broker.port))
    other.hub.close()


def test_a_certificate_of_another_authority_is_cut_off(desk: Desk, tmp_path: Path) -> None:
    other = Desk.make(tmp_path / "other")
    stranger = other.enroll()
    other.hub.close()
    stranger.ca_path.write_bytes(desk.hub.ca_pem)

    async def work() -> None:
        connection = MqttConnection(
            client_id=DEVICE, tls=stranger.tls_context(), will=Will("a/b", b""), timeout_s=5
        )
        try:
            await connection.open("127.0.0.1", desk.hub.broker.port, [topics.topic(DEVICE, "desired")])
        finally:
            await connection.close()

    with pytest.raises(TransportError, match=r"closed the connection|cannot be reached"):
        asyncio.run(work())
    assert not desk.hub.states
