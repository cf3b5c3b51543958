"""Images in messages: which are taken. Pure but for the limits, which are settings.

``data:`` URLs hold the image; their type is checked by its first bytes, whatever the URL calls it. An engine that
fetches any URL somebody names reaches what only the engine should (server-side request forgery), so other URLs
are refused unless the site's owner allows them.
"""

import base64
import binascii
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from django.conf import settings

from accounts.errors import InvalidRequest, TooLarge

_HEAD: Final = re.compile(
    r"data:([a-z0-9.+/-]{0,64})((?:;[a-z0-9=._+-]{0,64}){0,4}),", re.IGNORECASE
)
#: Characters of base64 that are looked at: enough for every mark below.
_LOOKED_AT: Final = 64
_TYPES: Final = "PNG, JPEG, WebP or GIF"


def images_check(messages: Iterable[object]) -> None:
    """Check every image of ``messages``, which are as OpenAI's API has them; nothing is copied.

    Raises:
        InvalidRequest: one is no image of a known type, or somewhere else, or there are too many.
        TooLarge: one is larger than ``MH_IMAGE_MAX_BYTES``.
    """
    for count, (where, part) in enumerate(_images(messages), start=1):
        if count > settings.MH_IMAGES_MAX:
            raise InvalidRequest(
                f"There are more than {settings.MH_IMAGES_MAX} images. Send fewer at once.",
                code="too_many_images",
                param=where,
            )
        image_check(_url(part.get("image_url"), where), where)


def _images(messages: Iterable[object]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        if not isinstance(content, list):
            continue
        for index, part in enumerate(content):
            if isinstance(part, Mapping) and part.get("type") == "image_url":
                yield f"messages[{number}].content[{index}]", part


def _url(value: object, where: str) -> str:
    url = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str) or not url:
        msg = 'An image is {"type": "image_url", "image_url": {"url": "data:image/png;base64,…"}}.'
        raise InvalidRequest(msg, code="invalid_image", param=where)
    return url


def image_check(url: str, where: str) -> None:
    """Check one image. Raises as ``images_check``."""
    scheme = url[:8].lower()
    if scheme.startswith(("http://", "https://")):
        if settings.MH_IMAGE_URLS:
            return
        raise InvalidRequest(
            "Addresses of images are not fetched here. Send the image itself, as a data: URL.",
            code="image_url_refused",
            param=where,
        )
    head = _HEAD.match(url) if scheme.startswith("data:") else None
    if head is None or not head[2].lower().endswith(";base64"):
        raise _invalid("Send an image as data:image/png;base64,…", where)
    _data_check(url, head.end(), where)


def _data_check(url: str, begin: int, where: str) -> None:
    length = len(url) - begin
    size = length // 4 * 3 - url.endswith("=") - url.endswith("==")
    if size > settings.MH_IMAGE_MAX_BYTES:
        raise TooLarge(
            f"An image is larger than the {settings.MH_IMAGE_MAX_BYTES} bytes this site accepts.",
            code="image_too_large",
            param=where,
        )
    start = _decoded(url[begin : begin + _LOOKED_AT], where)
    if length > _LOOKED_AT:
        # A cut or otherwise damaged image shows at its end.
        _decoded(url[-(length % 4 or 4) :], where)
    if not _is_image(start):
        raise _invalid(f"The data is no {_TYPES} image.", where)


def _decoded(text: str, where: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise _invalid("The data of an image is not base64.", where) from exc


def _is_image(start: bytes) -> bool:
    """Say whether the first bytes are those of a type engines read. Source: the formats' own signatures."""
    return start.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a")) or (
        start.startswith(b"RIFF") and start[8:12] == b"WEBP"
    )


def _invalid(message: str, where: str) -> InvalidRequest:
    return InvalidRequest(message, code="invalid_image", param=where)
