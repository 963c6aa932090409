"""Whether the Hugging Face hub can be reached: without this its libraries try for minutes."""

from __future__ import annotations

import functools
import os
import threading

from huggingface_hub import constants, get_session
from huggingface_hub.errors import HTTPError

ANSWER_S = 5.0  # a hub that has not answered by then is not there


@functools.cache
def settle() -> None:
    """Finds out, once a process, whether there is a hub; to be called before anything is loaded by a hub name.

    If the endpoint (HF_ENDPOINT, through the environment's proxies) does not answer, the hub's libraries go offline in
    this process and those it starts: what is in their cache loads from there, everything else is refused at once.
    """
    if not constants.is_offline_mode() and not _answers():
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"


def _answers() -> bool:
    answered = threading.Event()

    def ask() -> None:
        try:
            response = get_session().head(constants.ENDPOINT, timeout=ANSWER_S)
        except HTTPError:
            return
        if not response.is_server_error:
            answered.set()

    # In a thread of its own, because no time-out of a request bounds the look-up of a name.
    request = threading.Thread(target=ask, daemon=True)
    request.start()
    request.join(ANSWER_S)
    return answered.is_set()
