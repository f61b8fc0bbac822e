"""Replies without what may differ between two runs of the same request: ids, times, cached tokens."""
import json
import re

VOLATILE = ("id", "created", "expires", "timings", "predict_seconds", "attend_seconds", "seconds", "prompt_tokens_details", "attention_id",
            "next", "bytes", "peak_memory_bytes")  # fmt: skip
NAMES = re.compile(rb"\b(attn|sweep|cmpl|chatcmpl|req)-[0-9a-f]{16,24}")
TIMES = re.compile(rb'"(?:created|expires)": ?"?\d+"?|"next":"[0-9a-f]+"|textLength="[0-9.]+"|"peak_memory_bytes": ?\d+|\d{4}-\d\d-\d\d[T ]\d\d:\d\d|"[a-z_]*seconds": ?[-+.e0-9]+|'
                   rb'"timings": ?\{[^}]*\}|"cached_tokens": ?\d+')  # fmt: skip


def stripped(value):
    """A reply as JSON gives it."""
    if isinstance(value, dict):
        return {k: stripped(v) for k, v in value.items() if k not in VOLATILE}
    return [stripped(v) for v in value] if isinstance(value, list) else value


def stripped_text(body):
    """The bytes of any reply: JSON, frames of a stream, files."""
    try:
        return NAMES.sub(b"", json.dumps(stripped(json.loads(body)), sort_keys=True).encode())
    except ValueError:
        return TIMES.sub(b"", NAMES.sub(b"", body))
