"""Series that must set an alert off, and series that must not: one value a minute in promtool's notation (`a+bxN`)."""

from __future__ import annotations

from dataclasses import dataclass

REWARD = 'namespace="n",reward="aesthetic"'


@dataclass(frozen=True)
class Case:
    """`fires` and `quiet`: series -> values; looked at after `minutes`."""

    fires: dict[str, str]
    quiet: dict[str, str]
    minutes: int = 30


def _requests(code: str, bad: str, good: str = "0+600x60") -> dict[str, str]:
    return {
        f'sync_r1_requests_total{{{REWARD},pod="a",code="OK",team=""}}': good,
        f'sync_r1_requests_total{{{REWARD},pod="a",code="{code}",team=""}}': bad,
    }


def _scores(**buckets: str) -> dict[str, str]:
    common = f'{REWARD},pod="a",variant="v",component="value"'
    return {
        f"sync_r1_score_count{{{common}}}": buckets.pop("count"),
        **{
            f'sync_r1_score_bucket{{{common},le="{edge[1:].replace("_", ".")}"}}': values
            for edge, values in buckets.items()
        },
    }


def _ready(a: str, b: str) -> dict[str, str]:
    return {f'sync_r1_ready{{{REWARD},pod="a"}}': a, f'sync_r1_ready{{{REWARD},pod="b"}}': b}


def _refused(reason: str, values: str) -> dict[str, str]:
    return {
        f'sync_r1_refused_total{{{REWARD},pod="a",reason="{reason}"}}': values,
        f'sync_r1_requests_total{{{REWARD},pod="a",code="OK",team=""}}': "0+600x60",
    }


def _seconds(slow: int) -> dict[str, str]:
    """Of 1,000 calls a minute, so many take between 30 and 60 s."""
    name = f'sync_r1_request_seconds_bucket{{{REWARD},pod="a",le='
    return {
        f'{name}"1"}}': f"0+{1000 - slow}x60",
        f'{name}"30"}}': f"0+{1000 - slow}x60",
        f'{name}"60"}}': "0+1000x60",
        f'{name}"+Inf"}}': "0+1000x60",
    }


def _items(failures: int) -> dict[str, str]:
    name = f'sync_r1_items_total{{{REWARD},pod="a",variant="v",outcome='
    return {f'{name}"score"}}': "0+1000x60", f'{name}"failure"}}': f"0+{failures}x60"}


def _shadow(failed: int) -> dict[str, str]:
    name = f'sync_r1_shadow_items_total{{{REWARD},pod="a",variant="v",release="r",result='
    return {f'{name}"compared"}}': "0+1000x60", f'{name}"failed"}}': f"0+{failed}x60"}


def _inflight(items: str) -> dict[str, str]:
    return {
        f'sync_r1_inflight_items{{{REWARD},pod="a"}}': items,
        f'sync_r1_inflight_limit{{{REWARD},pod="a"}}': "100x60",
    }


def _releases(second: str, values: str) -> dict[str, str]:
    name = f'sync_r1_release_info{{{REWARD},variant="v",'
    return {f'{name}pod="a",release="one"}}': "1x800", f'{name}pod="b",release="{second}"}}': values}


_CERTIFICATE = 'certmanager_certificate_expiration_timestamp_seconds{namespace="n",name="reward-server"}'

CASES = {
    "SyncR1RewardDown": Case(_ready("0x60", "0x60"), _ready("0x60", "1x60")),
    "SyncR1NotReady": Case(_ready("0x60", "1x60"), _ready("1x26 0x3 1x30", "1x60")),
    "SyncR1Gone": Case(_ready("1x20 _x40", "1x22 _x40"), _ready("1x60", "1x20 _x40")),
    "SyncR1Refusing": Case(_refused("inflight", "0+60x60"), _refused("quota", "0+600x60")),
    "SyncR1Full": Case(_inflight("90x60"), _inflight("100 0 0 0 0 100 0 0 0 0 " * 6)),
    "SyncR1Slow": Case(_seconds(20), _seconds(5)),
    "SyncR1DeadlinesMissed": Case(_requests("DEADLINE_EXCEEDED", "0+20x60"), _requests("DEADLINE_EXCEEDED", "0+2x60")),
    # The series begins with the first error: no growth is ever seen. The quiet one is an error of an hour ago.
    "SyncR1InternalErrors": Case(_requests("INTERNAL", "_x24 1x35"), _requests("INTERNAL", "7x60")),
    "SyncR1Unavailable": Case(_requests("UNAVAILABLE", "0+60x60"), _requests("UNAVAILABLE", "0+6x60")),
    "SyncR1ItemsFail": Case(_items(50), _items(5)),
    "SyncR1NonFinite": Case(
        {f'sync_r1_failures_total{{{REWARD},pod="a",code="NON_FINITE"}}': "_x24 1x35"},
        {
            f'sync_r1_failures_total{{{REWARD},pod="a",code="NON_FINITE"}}': "3x60",
            f'sync_r1_failures_total{{{REWARD},pod="a",code="BAD_IMAGE"}}': "0+9x60",
        },
    ),
    "SyncR1ScoresStuck": Case(
        _scores(count="0+100x90", _0_5="0x90", _0_55="0+100x90", _1_0="0+100x90"),
        _scores(count="0+100x90", _0_5="0+30x90", _0_55="0+70x90", _1_0="0+100x90"),
        minutes=60,
    ),
    "SyncR1ShadowFails": Case(_shadow(50), _shadow(0)),
    "SyncR1TwoDefaults": Case(_releases("two", "1x800"), _releases("two", "1x600 _x200"), minutes=790),
    # Seconds since 1970 are the test's own clock: in six days, and in a month.
    "SyncR1CertificateExpires": Case({_CERTIFICATE: "518400x90"}, {_CERTIFICATE: "2592000x90"}, minutes=70),
}
FURTHER_QUIET = {
    # Constant, but too few to say so.
    "SyncR1ScoresStuck": _scores(count="0+5x90", _0_5="0x90", _0_55="0+5x90", _1_0="0+5x90"),
    "SyncR1InternalErrors": _requests("OUT_OF_RANGE", "0+9x60"),
    "SyncR1Refusing": _refused("draining", "0+600x60"),
}
