"""The one place that removes secrets from text that people or files will see.

Two nets: values that this process knows to be secret (it decrypted or read them), and shapes that carry secrets
(`access_token=…`, `://user:password@`), for text that comes from libraries.
"""

import re

MASK = "••••••"
# Shorter values would blank out innocent words; such a password is caught by the shapes only.
_SHORTEST = 5

_known: set[str] = set()
_SHAPES = (
    re.compile(r"(?P<keep>://[^\s:/@]*:)[^\s/@]+(?=@)"),
    re.compile(
        r"(?P<keep>\b(?:access_token|token|password|passwd|pwd|secret|sign|api_key|key)=)[^\s&;,'\")]+", re.IGNORECASE
    ),
    re.compile(r"(?P<keep>\"?(?:password|passwd|secret|access_token)\"?\s*:\s*\")[^\"]+(?=\")", re.IGNORECASE),
    re.compile(r"(?P<keep>\bBearer\s+)[\w.~+/-]+=*", re.IGNORECASE),
)


def remember_secret(value: str) -> None:
    """From now on `value` is masked in everything this process logs or stores as an error."""
    if len(value) >= _SHORTEST:
        _known.add(value)


def redact(text: str) -> str:
    """`text` without known secrets and without what looks like one."""
    for secret in _known:
        if secret in text:
            text = text.replace(secret, MASK)
    for shape in _SHAPES:
        text = shape.sub(rf"\g<keep>{MASK}", text)
    return text
