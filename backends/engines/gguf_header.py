"""The ``gguf`` library's reader of headers, made quick and bounded.

The library makes an array of every word of the vocabulary, which takes five seconds for 49,000 of them; here
they are stepped over. A header that no model has ends in a ``ValueError``. The format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import struct
import time
from pathlib import Path
from typing import Any, Final

from gguf import GGUFReader, GGUFValueType

#: Longest single text in a header, in bytes: chat templates and licences are the longest.
_TEXT_MAX: Final = 1 << 20
_DIMENSIONS_MAX: Final = 8
#: Bytes before the first entry of an array: its type and its length.
_ARRAY_START: Final = 12


class Header(GGUFReader):
    """Steps over arrays, and gives up on a header that no model has."""

    def __init__(self, file: Path, deadline: float) -> None:
        self._deadline = deadline
        super().__init__(file)

    def _get_str(self, offset: int) -> Any:
        (length,) = struct.unpack_from("<Q", self.data.data, offset)
        if length > _TEXT_MAX:
            msg = "a text in its header is too long"
            raise ValueError(msg)
        return super()._get_str(offset)

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind, count = struct.unpack_from("<IQ", self.data.data, orig_offs)
        if kind == GGUFValueType.STRING:
            end = self._after_texts(orig_offs + _ARRAY_START, count)
            amount = self._get(orig_offs + 4, "uint64")
            # Read as a plain number: how many there are is all that is asked of them.
            return end - orig_offs, [amount], [0], [GGUFValueType.UINT64]
        numbers = self.gguf_scalar_to_np[GGUFValueType(kind)]
        if count > len(self.data):
            msg = "an array in its header is longer than the file"
            raise ValueError(msg)
        part = self._get(orig_offs + _ARRAY_START, numbers, count)
        types = [GGUFValueType.ARRAY, GGUFValueType(kind)]
        return _ARRAY_START + part.nbytes, [part], [0], types

    def _after_texts(self, offset: int, count: int) -> int:
        """Return where ``count`` texts end."""
        data, unpack = self.data.data, struct.Struct("<Q").unpack_from
        for number in range(count):
            offset += 8 + unpack(data, offset)[0]
            if number % 10_000 == 0:
                self._in_time()
        return offset

    def _get_tensor_info_field(self, orig_offs: int) -> Any:
        self._in_time()
        (length,) = struct.unpack_from("<Q", self.data.data, orig_offs)
        (dimensions,) = struct.unpack_from("<I", self.data.data, orig_offs + 8 + length)
        if dimensions > _DIMENSIONS_MAX:
            msg = "a tensor has too many dimensions"
            raise ValueError(msg)
        return super()._get_tensor_info_field(orig_offs)

    def _in_time(self) -> None:
        if time.monotonic() > self._deadline:
            msg = "reading its header takes too long"
            raise ValueError(msg)
