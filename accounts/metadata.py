"""What OPTIONS says of a REST path: the methods it has. The rest is in the API's description."""

from typing import TYPE_CHECKING, Any

from rest_framework.metadata import BaseMetadata
from rest_framework.request import Request

if TYPE_CHECKING:  # it imports this module
    from rest_framework.views import APIView


class Methods(BaseMetadata):
    """The methods of a path, also in ``Allow``."""

    def determine_metadata(self, request: Request, view: "APIView") -> dict[str, Any]:
        """Return them."""
        del request
        return {"methods": view.allowed_methods}
