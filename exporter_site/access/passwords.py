"""Who must choose a new password: everybody whose password somebody else has set."""

from typing import Any

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from exporter_site.access.audit import Via, actor


class OwnPasswordValidator:
    """One of AUTH_PASSWORD_VALIDATORS: the new password is another one, and is the user's own afterwards."""

    def validate(self, password: str, user: Any = None) -> None:
        if user is not None and user.pk is not None and user.has_usable_password() and user.check_password(password):
            raise ValidationError(_("The new password must differ from the present one."), code="password_unchanged")

    def get_help_text(self) -> str:
        return _("Your new password must differ from the present one.")

    def password_changed(self, password: str, user: Any) -> None:
        from exporter_site.access.models import PasswordChange

        who = actor()
        if who.via == Via.ADMIN and who.user is not None and who.user.pk != user.pk:
            PasswordChange.objects.get_or_create(user=user)
        else:
            PasswordChange.objects.filter(user=user).delete()


def must_change(user: Any) -> bool:
    from exporter_site.access.models import PasswordChange

    return user.is_authenticated and PasswordChange.objects.filter(user=user).exists()
