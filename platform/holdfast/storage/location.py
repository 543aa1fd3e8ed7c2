"""What a user may give as `storage=`, as a path. Nothing is opened or made here."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from urllib.parse import unquote

import platformdirs

from holdfast.engine.redaction import redact

ENVIRONMENT_VARIABLE = "HOLDFAST_STORAGE"

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_logger = logging.getLogger(__name__)


def parse_location(location: str | os.PathLike[str] | None) -> Path:
    """The absolute path of a storage folder.

    Args:
        location: A path (`~` is expanded) or a `file://` URI. None: the environment variable
            `HOLDFAST_STORAGE`, else the folder `holdfast` of the user's data directory, which a log line names.

    Raises:
        ValueError: Another scheme, another host, or an empty location.
        TypeError: Not a text or a path.
    """
    given = os.environ.get(ENVIRONMENT_VARIABLE) or None if location is None else location
    if given is None:
        default = Path(platformdirs.user_data_dir("holdfast", appauthor=False)).absolute()
        _logger.info("storage.default_location path=%s", default)
        return default
    text = os.fspath(given)
    if not isinstance(text, str):
        raise TypeError(f"storage must be a path or a file:// URI, as text, not {given!r}")
    scheme = _SCHEME.match(text)
    if scheme:
        if scheme[1].lower() != "file":
            raise ValueError(
                f"storage {redact(text)!r}: scheme {scheme[1]!r} is not known; give a local path or a file:// URI"
            )
        host, slash, rest = text[scheme.end() :].partition("/")
        if host not in ("", "localhost") or not slash or not rest:
            raise ValueError(
                f"storage {redact(text)!r}: give an absolute path on this host, as in file:///srv/holdfast"
            )
        text = "/" + unquote(rest)
    if not text.strip() or "\0" in text:
        raise ValueError(f"storage {text!r} is not a path; give a local path or a file:// URI")
    return Path(os.path.abspath(Path(text).expanduser()))
