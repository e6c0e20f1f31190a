"""The one place that removes secrets from text that people or files will see.

Two nets: values that this process knows to be secret (it decrypted or read them), and shapes that carry secrets
(`access_token=…`, `://user:password@`), for text that comes from libraries.
"""

import json
import re
from urllib.parse import quote, quote_plus

MASK = "••••••"
# Shorter values would blank out innocent words; such a password is caught by the shapes only.
_SHORTEST = 5

_known: tuple[str, ...] = ()  # longest first: a secret that is part of another must not leave the rest of it
_SHAPES = (
    re.compile(r"(?P<keep>://[^\s:/@]*:)[^\s/]+(?=@)"),
    re.compile(
        r"(?P<keep>\b(?:access_token|token|password|passwd|pwd|secret|sign|api_key|key)=)"
        r"(?:'[^']+'|\"[^\"]+\"|[^\s&;,'\")]+)",
        re.IGNORECASE,
    ),
    re.compile(
        r"(?P<keep>(?P<q>[\"']?)\b\w*(?:password|passwd|secret|token)(?P=q)\s*:\s*(?P<quote>[\"']))(?:(?!(?P=quote)).)+",
        re.IGNORECASE,
    ),
    re.compile(r"(?P<keep>/d/\d+\.)[\w-]+"),  # a link to a file
    re.compile(r"(?P<keep>\b(?:Bearer|Basic)\s+)[\w.~+/-]{8,}=*", re.IGNORECASE),
)


def remember_secret(value: str) -> None:
    """From now on `value` is masked in everything this process logs or stores as an error."""
    global _known
    if len(value) < _SHORTEST or value in _known:
        return
    # As it is, and as it looks in a URL, in a traceback and in JSON. A new tuple: other threads may be reading.
    spellings = {value, quote(value, safe=""), quote_plus(value), repr(value)[1:-1], json.dumps(value)[1:-1]}
    _known = tuple(sorted(spellings.union(_known), key=len, reverse=True))


def redact(text: str) -> str:
    """`text` without known secrets and without what looks like one."""
    for secret in _known:
        if secret in text:
            text = text.replace(secret, MASK)
    for shape in _SHAPES:
        text = shape.sub(rf"\g<keep>{MASK}", text)
    return text
