"""The texts of the admin theme, so that makemessages keeps their Chinese in our catalogue.

django-unfold ships no Chinese, and makemessages looks at our own files only: what is not named here would be thrown out
of django.po at its next run. Nothing imports this module. tests/core/test_translations.py compares it with the
installed theme, so a new release of the theme shows here what it says anew.
"""

from django.utils.translation import gettext_noop, ngettext_lazy

THEME = (
    gettext_noop("Welcome"),  # in an f-string, where Python before 3.12 sees no call
    gettext_noop("Select record"),
    gettext_noop("Select action"),
    gettext_noop("Date"),
    gettext_noop("Select currency"),
    gettext_noop("Select action to run"),
    gettext_noop(
        'Raw passwords are not stored, so there is no way to see this user’s password, but you can change the password using <a href="{}" class="text-primary-600 dark:text-primary-500">this form</a>.'
    ),
    gettext_noop("Submit"),
    gettext_noop("Value"),
    gettext_noop("From"),
    gettext_noop("To"),
    gettext_noop("Date from"),
    gettext_noop("Date to"),
    gettext_noop("Not enough data."),
    gettext_noop("You can not create nested object without parent"),
    gettext_noop("Dataset not found. No action performed."),
    gettext_noop("Select value"),
    gettext_noop("Type to search"),
    gettext_noop("Run"),
    gettext_noop("Expand row"),
    gettext_noop("Welcome back to"),
    gettext_noop("Filters"),
    gettext_noop("After you've created a user, you’ll be able to edit more user options."),
    gettext_noop("You have been successfully logged out from the administration"),
    gettext_noop("No results matching your query"),
    gettext_noop("Loading more results..."),
    gettext_noop("Image preview"),
    gettext_noop("Click to download"),
    gettext_noop("Previous"),
    gettext_noop("Next"),
    gettext_noop("Light"),
    gettext_noop("Dark"),
    gettext_noop("System"),
    gettext_noop("Return to site"),
    gettext_noop("True"),
    gettext_noop("False"),
    gettext_noop("No results found"),
    gettext_noop("This page yielded into no results. Create a new item or reset your filters."),
    gettext_noop("Reset filters"),
    gettext_noop("Search apps and models..."),
    gettext_noop("Select all rows"),
    gettext_noop("All applications"),
    gettext_noop("General"),
    gettext_noop("Cancel"),
    gettext_noop("Apply Filters"),
    gettext_noop("More actions"),
    gettext_noop("Go back"),
    gettext_noop("Recent searches"),
    gettext_noop("No recent searches"),
    gettext_noop("Record picture"),
    gettext_noop("This item will be deleted."),
    gettext_noop("Click to cancel"),
    gettext_noop("No data"),
    gettext_noop("Choose file to upload"),
    gettext_noop("Toggle password visibility"),
    ngettext_lazy(
        "\n                Found %(counter)s result in %(time)s seconds\n            ",
        "\n                Found %(counter)s results in %(time)s seconds\n            ",
        "counter",
    ),
)

# What Django's own Chinese lacks, or says in a way that misleads or that nobody here would say.
DJANGO = (
    ngettext_lazy(
        "This password is too short. It must contain at least %d character.",
        "This password is too short. It must contain at least %d characters.",
        "min_length",
    ),
    gettext_noop("%(model)s instance with %(field)s %(value)r is not a valid choice."),
    gettext_noop("Error:"),
    gettext_noop("Forgotten your login credentials?"),
    gettext_noop("After you’ve created a user, you’ll be able to edit more user options."),
    gettext_noop("Delete selected %(model)s"),
    gettext_noop(
        'Are you sure you want to delete the %(object_name)s "%(escaped_object)s"? All of the following related items will be deleted:'
    ),
    gettext_noop("Select %s to change"),
    gettext_noop("Select %s to view"),
    ngettext_lazy("%(counter)s result", "%(counter)s results", "counter"),
    gettext_noop(" By %(filter_title)s "),
    gettext_noop("Save as new"),
    gettext_noop("Save and add another"),
    gettext_noop("Log out"),
    gettext_noop("Thanks for spending some quality time with the web site today."),
    gettext_noop("group"),
    gettext_noop("groups"),
    gettext_noop("staff status"),
    gettext_noop(
        "Designates whether this user should be treated as active. Unselect this instead of deleting accounts."
    ),
)
