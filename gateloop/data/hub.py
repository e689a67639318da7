"""The Hugging Face hub, asked so that no network means a quick answer."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from pathlib import Path

from gateloop.errors import InputError

SECONDS = 5  # how long the hub may take to answer


def prepare(fetching: str) -> None:
    """Set time limits before the hub's client is imported; offline where nothing answers.

    Its client would otherwise try again for minutes. Offline it still finds what it has kept.
    """
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() in ("1", "true", "yes", "on"):
        return
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(SECONDS))
    os.environ.setdefault("HF_HUB_DOWNLOAD_TIMEOUT", str(SECONDS))
    if not _answers(os.environ.get("HF_ENDPOINT", "https://huggingface.co")):
        os.environ["HF_HUB_OFFLINE"] = "1"
        return
    print(f"fetching {fetching} from the Hugging Face hub", file=sys.stderr, flush=True)


def _answers(endpoint: str) -> bool:
    try:
        request = urllib.request.Request(endpoint, method="HEAD")
        urllib.request.urlopen(request, timeout=SECONDS).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


def download(repository: str, name: str, purpose: str) -> bytes:
    """A file of a repository on the hub; InputError with ``purpose`` where it cannot be had."""
    prepare(f"{name} of {repository}")
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise InputError(
            f"cannot fetch {purpose} (huggingface_hub is not installed: pip install "
            "huggingface_hub)"
        ) from error
    try:
        return Path(hf_hub_download(repository, name)).read_bytes()
    except Exception as error:  # the client and its transport raise what they like
        raise InputError(f"cannot fetch {purpose} ({reason(error)})") from error


def reason(error: Exception) -> str:
    """The first line of an error, short enough for one line of ours."""
    lines = f"{type(error).__name__}: {error}".strip().split("\n")
    return lines[0][:160]
