"""Checks of what a caller says: finite times, counts and shares, and addresses that name a host and a port.

Each raises `BadArgument` at once, naming the argument, what was expected and what came: a bound that is no number, or
is not finite, would let a wait go on for ever.
"""

from __future__ import annotations

import ipaddress
import math
import numbers
import re
from collections.abc import Sequence

from sync_r1.trainer_client.sdk.errors import BadArgument

LONGEST_S = 7 * 86_400.0
"""The longest time that may be asked for: gRPC counts milliseconds in 32 bits."""

DNS = "dns:///"
_SOCKETS = ("unix:", "unix-abstract:")
_EXAMPLES = "'localhost:9001', '[::1]:9001' or 'dns:///rewards:9001'"


def seconds(name: str, value: object, *, zero: bool = False) -> float:
    """`value` as seconds, finite, at most LONGEST_S, and > 0 (or >= 0 with `zero`)."""
    number = _number(name, value, f"a finite number of seconds, at most {LONGEST_S:g}")
    if not (0 <= number <= LONGEST_S) or (number == 0 and not zero):
        least = ">= 0" if zero else "> 0"
        raise BadArgument(f"{name}: expected seconds {least} and at most {LONGEST_S:g}, got {value!r}")
    return number


def amount(name: str, value: object, *, most: float = math.inf, above: float = -1.0) -> float:
    """`value` as a finite number, >= 0, more than `above` and at most `most`."""
    number = _number(name, value, "a finite number")
    if number < 0 or number <= above or number > most:
        least = f"> {above:g}" if above >= 0 else ">= 0"
        raise BadArgument(f"{name}: expected a number {least}{'' if most == math.inf else f' and at most {most:g}'}, "
                          f"got {value!r}")  # fmt: skip
    return number


def count(name: str, value: object, *, most: int = (1 << 31) - 1) -> int:
    """`value` as a whole number, 1 to `most`."""
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or not 1 <= int(value) <= most:
        raise BadArgument(f"{name}: expected a whole number from 1 to {most}, got {value!r}")
    return int(value)


def addresses(endpoints: object) -> tuple[str, ...]:
    """One address or several, each checked."""
    found = (endpoints,) if isinstance(endpoints, str) else endpoints
    if not isinstance(found, Sequence) or isinstance(found, bytes) or not found:
        raise BadArgument(f"endpoints: expected at least one endpoint such as {_EXAMPLES}, got {endpoints!r}")
    return tuple(address(one) for one in found)


def address(target: object) -> str:
    """HOST:PORT, [IPV6]:PORT, dns:///NAME:PORT or unix:PATH, as it was given."""
    if not isinstance(target, str) or not target.strip():
        raise BadArgument(f"endpoints: expected at least one endpoint such as {_EXAMPLES}, got {target!r}")
    if target.startswith(_SOCKETS):
        return target
    name = target.removeprefix(DNS)
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/+|dns:", name)
    if scheme:
        cure = f"{DNS}NAME:PORT asks every address of a name" if scheme[0].startswith("dns") else (
            "encryption is asked for with ClientSettings(tls=Tls(…))"
        )  # fmt: skip
        raise BadArgument(f"endpoint {target!r}: expected HOST:PORT without the scheme {scheme[0]!r}; {cure}")
    host, colon, port = name.rpartition(":")
    if not colon or not host or (":" in host and not _bracketed(host)):
        raise BadArgument(f"endpoint {target!r} names no port: expected HOST:PORT such as {_EXAMPLES}")
    if re.search(r"[\s/@?#]", host) or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise BadArgument(f"endpoint {target!r}: expected HOST:PORT with a port from 1 to 65535, such as {_EXAMPLES}")
    return target


def is_loopback(target: str) -> bool:
    """Whether the address is on this machine: a name for it, 127.0.0.0/8, ::1 or a socket file."""
    if target.startswith(_SOCKETS):
        return True
    host = target.removeprefix(DNS).rpartition(":")[0].strip("[]").rstrip(".").lower()
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _bracketed(host: str) -> bool:
    try:
        return host[0] + host[-1] == "[]" and ipaddress.ip_address(host[1:-1].partition("%")[0]).version == 6
    except ValueError:
        return False


def _number(name: str, value: object, expected: str) -> float:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        raise BadArgument(f"{name}: expected {expected}, got {type(value).__name__} {value!r}"[:300])
    if not math.isfinite(value):
        raise BadArgument(f"{name}: expected {expected}, got {value!r}")
    return float(value)
