"""A lock that is an object in object storage."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from histoslide.storage.location import file_system, object_key
from histoslide.storage.lock.holder import Found, Holder, lock_text

if TYPE_CHECKING:
    from upath import UPath

logger = logging.getLogger(__name__)

_SETTLE_S = 2.0
"""Where object storage cannot write on a condition: who still stands after this holds the lock."""


class LockObject:
    """A lock in object storage; its heartbeat writes it anew.

    Writes are conditional (``If-None-Match``, ``If-Match``), so that of two at once one fails.
    Storage that does not know conditions leaves the lock advisory, which is said once.
    """

    def __init__(self, path: UPath) -> None:
        self._path = path
        self._fs = file_system(path)
        self._bucket, _, self._key = object_key(path).partition("/")
        self._holder: Holder | None = None
        self._tag = ""
        self._advisory = False

    def create(self, holder: Holder) -> bool:
        """Write the lock if there is none, and find out whether the storage knows conditions."""
        self._holder = holder
        if self.read() is not None:
            return False
        if not self._put(IfNoneMatch="*"):
            return self._is_ours()  # an answer may have been lost and the request sent again
        if not self._advisory and self._put(IfNoneMatch="*"):  # ours is there: this must fail
            self._advisory = True
        if self._advisory:
            logger.warning(
                "%s: this object storage cannot write on a condition: two runs that start within "
                "%.0f s of each other may not notice",
                self._path,
                _SETTLE_S,
            )
            time.sleep(_SETTLE_S)
        return self._is_ours()

    def read(self) -> Found | None:
        """The lock as it is."""
        try:
            facts = self._fs.info(object_key(self._path), refresh=True)
            text = self._fs.cat_file(object_key(self._path))
        except FileNotFoundError:
            return None
        return Found(
            holder=Holder.read(text.decode(errors="replace")),
            stamp=(facts["ETag"],),
            age_s=(datetime.now(UTC) - facts["LastModified"]).total_seconds(),
        )

    def replace(self, found: Found, holder: Holder) -> bool:
        """Write the lock if it still is as it was found."""
        self._holder = holder
        if not self._put(IfMatch=found.stamp[0]):
            return self._is_ours()
        if self._advisory:
            time.sleep(_SETTLE_S)
        return self._is_ours()

    def beat(self) -> bool:
        """Write the lock anew."""
        if self._advisory:
            return self._is_ours() and self._put()
        return self._put(IfMatch=self._tag) or self._is_ours()

    def remove(self) -> None:
        """Remove the lock if it is ours."""
        if self._is_ours():
            self._fs.call_s3("delete_object", Bucket=self._bucket, Key=self._key)

    def _put(self, **condition: object) -> bool:
        assert self._holder is not None
        # The time is there so that every heartbeat has another ETag.
        body = lock_text(self._holder, beat=datetime.now(UTC).isoformat())
        options = {} if self._advisory else condition
        try:
            answer = self._fs.call_s3(
                "put_object", Bucket=self._bucket, Key=self._key, Body=body, **options
            )
        except OSError as error:
            code = _error_code(error)
            if code == "NotImplemented" and not self._advisory:
                self._advisory = True
                return self._put()
            if code in ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey"):
                return False
            raise
        self._tag = answer["ETag"]
        return True

    def _is_ours(self) -> bool:
        found = self.read()
        assert self._holder is not None
        if found is None or found.holder is None or found.holder.token != self._holder.token:
            return False
        self._tag = str(found.stamp[0])
        return True


def _error_code(error: OSError) -> str | None:
    response = getattr(error.__cause__, "response", None)
    return None if response is None else str(response.get("Error", {}).get("Code"))
