from django.core.management.commands import makemessages


class Command(makemessages.Command):
    """Also sees our two other names for gettext; without them their texts would be thrown out of the catalogue."""

    xgettext_options = [*makemessages.Command.xgettext_options, "--keyword=_t", "--keyword=early_gettext"]
