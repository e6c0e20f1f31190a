import secrets
import string
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import CommandParser
from django.utils.translation import gettext as _

from exporter_site.access.models import PasswordChange
from exporter_site.command import ExporterCommand, Failed

USERNAME = "admin"
PASSWORD_LENGTH = 16  # of 55 characters: 92 bits
# Without what is easily mistaken for another when it is typed.
ALPHABET = "".join(sorted(set(string.ascii_letters + string.digits) - set("0O1lI8B")))


class Command(ExporterCommand):
    help = "Creates the superuser “admin” with a generated password when there is no superuser; prints it this once."

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_json(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        existing = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
        username, password = (existing.username, None) if existing else (USERNAME, self._create())
        if options["as_json"]:
            self.print_json({"created": existing is None, "username": username, "password": password})
        elif password:
            self.say(_("User {username}, password {password}").format(username=username, password=password))
            self.say(_("The password is shown this once and stored nowhere. The first login asks for a new one."))
        else:
            self.say(
                _("There is the user {username} already. A new password: manage.py changepassword {username}").format(
                    username=username
                )
            )

    def _create(self) -> str:
        if User.objects.filter(username=USERNAME).exists():
            raise Failed(
                _("There is a user {username} without all rights. Make another one: manage.py createsuperuser").format(
                    username=USERNAME
                )
            )
        password = "".join(secrets.choice(ALPHABET) for _position in range(PASSWORD_LENGTH))
        user = User.objects.create_superuser(USERNAME, password=password)
        PasswordChange.objects.create(user=user)
        return password
