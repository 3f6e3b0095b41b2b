"""Whether Hugging Face's hub can be reached, asked once and briefly: its own client tries again for minutes."""

import os
import socket
from functools import lru_cache
from threading import Thread
from urllib.parse import urlsplit

PATIENCE_S = 1.5
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


@lru_cache(1)
def hub_answers() -> bool:
    """Whether a connection to the hub, or to the proxy on the way there, can be made; False where the environment
    forbids it."""
    if any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in OFFLINE):
        return False
    proxy = next((os.environ[name] for name in ("HTTPS_PROXY", "https_proxy") if os.environ.get(name)), None)
    url = urlsplit(proxy or os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    answers: list[bool] = []
    # In a thread that nobody waits for: a name server that does not answer heeds no time limit.
    asking = Thread(target=_connect, args=(url.hostname or "", url.port or 443, answers), daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    return bool(answers)


def _connect(host: str, port: int, answers: list[bool]) -> None:
    try:
        with socket.create_connection((host, port), PATIENCE_S):
            answers.append(True)
    except OSError:
        return
