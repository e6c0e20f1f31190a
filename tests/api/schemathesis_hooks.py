"""Loaded by schemathesis (tests/api/test_schema.py): puts numbers of rows that exist where it made up some.

Otherwise nearly all of its requests would end with 404, and see nothing of what is behind.
"""

import json
import os
from typing import Any

import schemathesis

# By noun.
_ROWS: dict[str, list[int]] = json.loads(os.environ.get("EXPORTER_TESTS_ROWS", "{}"))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    number = (case.path_parameters or {}).get("id")
    rows = _ROWS.get(case.operation.path.split("/")[2])
    # One in eight stays what it is, and so does what is no number of a row.
    if rows and isinstance(number, int) and not isinstance(number, bool) and number % 8:
        case.path_parameters["id"] = rows[number % len(rows)]


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Sources and channels that exist, where a whole number says which."""
    if isinstance(body, dict):
        _point(body, "data_source", "data-sources")
        for rule in body["rules"] if isinstance(body.get("rules"), list) else ():
            if isinstance(rule, dict):
                _point(rule, "channel", "channels")
    return body


def _point(content: dict[str, Any], name: str, noun: str) -> None:
    number, rows = content.get(name), _ROWS.get(noun)
    if rows and isinstance(number, int) and not isinstance(number, bool) and number % 8:
        content[name] = rows[number % len(rows)]


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    """Numbers and truth values that come as text, and texts that come as numbers, are read as what is meant: 5 and "5", 0
    and false, are the same to us. Anything else that the schema forbids and the API takes is a fault."""
    coerced = "in body" in str(failure.message) and "Incorrect type" in str(failure.message)
    return not (coerced and type(failure).__name__ == "AcceptedNegativeData")
