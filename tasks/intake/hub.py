"""Whether Hugging Face's hub can be reached, asked once and briefly: its own client tries again for minutes."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
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
    waiting = ThreadPoolExecutor(1)  # a name server that does not answer heeds no time limit
    try:
        return waiting.submit(_connects, url.hostname or "", url.port or 443).result(PATIENCE_S)
    except (OSError, ValueError):  # a time limit that was passed is an OSError too
        return False
    finally:
        waiting.shutdown(wait=False)


def _connects(host: str, port: int) -> bool:
    with socket.create_connection((host, port), PATIENCE_S):
        return True
