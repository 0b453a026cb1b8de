"""How long a store that asks for fewer requests wants us to wait: its Retry-After, which the client does not show.

One small question by hand, of the object that was refused; whoever asks pauses anyway.
"""

import email.utils
import math
import time
import urllib.error
import urllib.request
from datetime import timedelta
from typing import Any

from eyespot.data_pipeline.stores.clients import web_address
from eyespot.data_pipeline.stores.location import Address

SECONDS = 5.0
"""For the question."""
LONGEST = 600.0
"""A longer wait than this is not believed."""


def retry_after(native: Any, place: Address) -> float:
    """Seconds, 0 where it does not say so, or no longer refuses.

    Args:
        native: the client that was refused.
        place: of what.
    """
    import obstore

    try:
        address, headers = web_address(place)
        if not address:
            address = obstore.sign(native, "HEAD", place.key, timedelta(minutes=1))
        asked = urllib.request.Request(address, method="HEAD")
        for name, value in headers.items():
            asked.add_unredirected_header(name, value)  # a token is for the host that it was given for
        with urllib.request.urlopen(asked, timeout=SECONDS):
            return 0.0
    except urllib.error.HTTPError as error:
        return seconds_of(error.headers.get("Retry-After", ""))
    except Exception:  # some credentials cannot sign; and without an answer there is nothing to honour
        return 0.0


def seconds_of(text: str) -> float:
    """Of the header's two forms, seconds and a date; 0 of anything else."""
    try:
        found = float(text)
    except ValueError:
        try:
            found = email.utils.parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return min(max(0.0, found), LONGEST) if math.isfinite(found) else 0.0
