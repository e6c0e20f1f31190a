"""Messages and transports for tests."""

from typing import Any

from notifications.transports import transports
from notifications.transports.base import ROBOT, Answer, Message, Transport
from tests.servers.robots import Robot


def make_message(**fields: Any) -> Message:
    defaults: dict[str, Any] = {
        "key": "delivery-7-1",
        "title": "✅ 用户数据导出",
        "text": "### ✅ 用户数据导出\n\n**行数**: 1,000  \n> #7",
        "facts": [("行数", "1,000")],
        "url": "https://reports.example.com/d/abc",
        "data": {"event": "success", "execution": 7},
    }
    return Message(**defaults | fields)


def transport_to(robot: Robot, **settings: Any) -> Transport:
    """A transport to `robot` with its secret and keyword, its settings cleaned as a form does it."""
    transport_class = transports.get(robot.kind)
    address = "url" if robot.kind == "webhook" else "webhook_url"
    given = {address: robot.url, "secret": robot.secret, "keyword": robot.keyword, **settings}
    values = {setting.name: given.get(setting.name, setting.empty) for setting in transport_class.fields}
    transport_class.clean(values)
    return transport_class(values)


def send(robot: Robot, message: Message | None = None, **settings: Any) -> Answer:
    answers = transport_to(robot, **settings).send(message or make_message(), [ROBOT])
    assert list(answers) == [ROBOT]
    return answers[ROBOT]
