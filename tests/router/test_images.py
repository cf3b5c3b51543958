"""Which images are taken."""

import base64
from typing import Any

import pytest

from accounts.errors import InvalidRequest, MhError, TooLarge
from router.images import images_check

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)


def url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def check(*urls: Any) -> None:
    parts = [{"type": "image_url", "image_url": {"url": item}} for item in urls]
    images_check([{"role": "user", "content": [{"type": "text", "text": "?"}, *parts]}])


@pytest.mark.parametrize(
    "data", [PNG, b"\xff\xd8\xff\xe0" + bytes(99), b"RIFF\0\0\0\0WEBPVP8 ", b"GIF89a\0", b"GIF87a"]
)
def test_images_are_known_by_their_first_bytes(data: bytes) -> None:
    check(url(data), url(data, "image/x-whatever"), url(data, ""))


@pytest.mark.parametrize(
    ("image", "code"),
    [
        (url(b"<svg onload=1>", "image/svg+xml"), "invalid_image"),
        (url(b"%PDF-1.7"), "invalid_image"),
        (url(b""), "invalid_image"),
        ("data:image/png;base64,!!!!" + "A" * 100, "invalid_image"),
        (url(PNG) + "=A", "invalid_image"),
        (url(PNG)[:-1], "invalid_image"),
        ("data:image/png,rawbytes", "invalid_image"),
        ("data:", "invalid_image"),
        ("/etc/passwd", "invalid_image"),
        ("file:///etc/passwd", "invalid_image"),
        ("", "invalid_image"),
        (None, "invalid_image"),
        ("http://169.254.169.254/latest", "image_url_refused"),
        ("HTTPS://example.com/a.png", "image_url_refused"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(url(PNG), image)
    assert (caught.value.code, caught.value.param) == (code, "messages[0].content[2]")


def test_there_are_limits(settings: Any) -> None:
    settings.MH_IMAGE_MAX_BYTES = len(PNG)
    settings.MH_IMAGES_MAX = 2
    check(url(PNG), url(PNG))
    with pytest.raises(TooLarge) as large:
        check(url(PNG + b"x"))
    assert (large.value.status, large.value.code) == (413, "image_too_large")
    with pytest.raises(InvalidRequest) as many:
        check(url(PNG), url(PNG), url(PNG))
    assert many.value.code == "too_many_images"


def test_urls_pass_where_the_owner_allows_them(settings: Any) -> None:
    settings.MH_IMAGE_URLS = True
    check("https://example.com/a.png")
    with pytest.raises(MhError):
        check("ftp://example.com/a.png")


def test_messages_of_any_shape_are_no_fault() -> None:
    images_check([{}, {"content": None}, {"content": "x"}, {"content": [None, 7, {}]}, None])
