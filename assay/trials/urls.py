"""Places of a store as they may be shown: passwords are never repeated."""

import re

_IN_FRONT = re.compile(r"(?<=://)([^:/?#@\s]*):\S*@")  # up to the last @, which a password may hold unescaped
_OPTION = re.compile(r"(?i)([?&](?:ssl)?password=)[^&\s'\"]*")


def without_password(text: str) -> str:
    """`text` with `***` for the password of every URL in it."""
    return _OPTION.sub(r"\1***", _IN_FRONT.sub(r"\1:***@", text))
