from typing import Any

from django.contrib.auth.management import create_permissions
from django.db import migrations

from exporter_site.access.roles import OURS, make_roles


def make(apps: Any, schema_editor: Any) -> None:
    # Django makes the rights of models only when all migrations are done; roles need them now.
    for label in OURS:
        config = apps.get_app_config(label)
        config.models_module = True
        create_permissions(config, apps=apps, verbosity=0, using=schema_editor.connection.alias)
        config.models_module = None
    make_roles(apps)


class Migration(migrations.Migration):
    dependencies = [
        ("access", "0001_initial"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("datasources", "0002_rights"),
        ("notifications", "0001_initial"),
        ("tasks", "0004_rights_and_requests"),
    ]
    operations = [migrations.RunPython(make, migrations.RunPython.noop)]
