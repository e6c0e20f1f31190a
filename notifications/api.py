"""/api/channels"""

from collections.abc import Mapping

from django_filters import rest_framework as filters
from drf_spectacular.utils import extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from exporter_site.access import audit
from exporter_site.access.models import Scope
from exporter_site.rest import ChangesViewSet, answers, documented, rights_to
from exporter_site.rest_input import YesNoFilter
from notifications import reasons, sender
from notifications.models import Channel
from notifications.serializers import ChannelSerializer, ChannelTestSerializer
from notifications.transports.base import ROBOT, Verdict


class ChannelFilter(filters.FilterSet):
    is_active = YesNoFilter()

    class Meta:
        model = Channel
        fields = ("kind", "is_active")


@documented(ChannelSerializer)
class ChannelViewSet(ChangesViewSet):
    """The channels that tasks share."""

    queryset = Channel.objects.shared()
    serializer_class = ChannelSerializer
    filterset_class = ChannelFilter
    ordering_fields = ("id", "name")
    rights: Mapping[str, str] = {**rights_to("notifications", "channel"), "test": "notifications.change_channel"}
    scopes: Mapping[str, Scope] = {"test": Scope.RUN}

    @extend_schema(request=None, responses=answers({200: ChannelTestSerializer}, 404))
    @action(detail=True, methods=["post"])
    def test(self, request: Request, pk: int) -> Response:
        """Send a test message now. 200 in both cases: `ok` says whether it was taken."""
        channel = self.get_object()
        audit.record(audit.Action.TEST, channel)
        found = sender.send_test(channel)
        return Response(
            {
                "ok": all(answer.verdict == Verdict.ACCEPTED for answer in found.values()),
                "recipients": [
                    {
                        "recipient": "" if name == ROBOT else name,
                        "ok": answer.verdict == Verdict.ACCEPTED,
                        "reason": answer.reason,
                        "message": f"{reasons.sentence(answer.reason)} {reasons.remedy(answer.reason)} {answer.text}".strip()
                        if answer.reason
                        else "",
                    }
                    for name, answer in found.items()
                ],
            }
        )
