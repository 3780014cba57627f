"""Routing: which release answers a request, and which one runs in its shadow.

A service knows the releases of its `--profile` and of every `--also PROFILE` (the same variants with another version of
a graph, say). A request that pins one by its digest gets that; any other gets the default of its variant, which is the
first profile's unless the file of `--routes` says otherwise. The file is read again whenever it changes, so that a
default is switched, and switched back, on a running service; a request is resolved once and ends on the release it got.

    aesthetic:                               # by reward, so that one file serves all services
      default_variant: laion_v2
      releases: {laion_v2: 3f2a9c01}         # 8 digits of the digest or more
      shadow: {variant: laion_v2, release: 77b0e1d2, share: 0.1}
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from sync_r1.reward_models.cards import Part
from sync_r1.reward_models.errors import SyncR1Error
from sync_r1.reward_models.profiles import ServedReward
from sync_r1.reward_models.releases import Release
from sync_r1.reward_models.rewards.base import Reward
from sync_r1.reward_models.types import UnknownRelease, UnknownVariant
from sync_r1.services.echo import echoed
from sync_r1.services.file_stamp import stamp

logger = logging.getLogger(__name__)

_Prefix = Annotated[str, Field(pattern=r"^[0-9a-f]{8,64}$")]


class ShadowEntry(BaseModel):
    """What is scored beside the answer, counted and logged, and never returned."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: str
    release: _Prefix | None = None
    """The variant's default if None."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Of the requests."""


class RouteEntry(BaseModel):
    """What the file says of one reward; what it does not say is as in the first profile."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    default_variant: str | None = None
    releases: dict[str, _Prefix] = {}
    shadow: ShadowEntry | None = None


_FILE = TypeAdapter(dict[str, RouteEntry])


class RoutesError(SyncR1Error, ValueError):
    """The file cannot be used; the message says where and what was expected."""


@dataclass(frozen=True)
class Route:
    """One variant in one release, and what scores it."""

    variant: str
    reward: Reward
    release: Release


@dataclass(frozen=True)
class Shadow:
    """A route that runs beside a share of the requests."""

    route: Route
    share: float


class Routes:
    """The releases of one reward that a service can score, and which is the default of each variant now."""

    def __init__(self, served: Sequence[ServedReward], file: Path | None = None) -> None:
        """`served`: the reward as each profile has it, the first one's releases are the defaults.

        Raises RoutesError; GraphFileMissing when a weights file is absent.
        """
        self._reward, self._judges = served[0].name, served[0].judges
        self._by_digest: dict[str, Route] = {}
        first: dict[str, str] = {}
        for profile in served:
            for variant, release in profile.releases.items():
                self._by_digest.setdefault(release.digest, Route(variant, profile.variants[variant], release))
                first.setdefault(variant, release.digest)
        self._first, self._first_variant = first, served[0].default_variant
        self._file = file
        self._stamp = stamp(file) if file is not None else None
        self._defaults: dict[str, str] = {}
        self._default_variant = ""
        self._shadow: Shadow | None = None
        self._use(self._read())

    @property
    def reward(self) -> str:
        """The reward's name."""
        return self._reward

    @property
    def judges(self) -> Part:
        """Which part of a trajectory it is credit for."""
        return self._judges

    @property
    def routes(self) -> tuple[Route, ...]:
        """Every release that can be pinned."""
        return tuple(self._by_digest.values())

    @property
    def default_variant(self) -> str:
        """The variant of requests that name none."""
        self._reload_if_changed()
        return self._default_variant

    @property
    def default_releases(self) -> Mapping[str, str]:
        """Variant -> digest of the release of requests that pin none."""
        self._reload_if_changed()
        return self._defaults

    @property
    def shadow(self) -> Shadow | None:
        """What runs beside the answers now."""
        self._reload_if_changed()
        return self._shadow

    def resolve(self, variant: str, release: str) -> Route:
        """The one route of a request; both may be empty. Raises UnknownVariant, UnknownRelease."""
        self._reload_if_changed()
        variant = variant or self._default_variant
        if variant not in self._defaults:
            raise UnknownVariant(
                f"variant: {self._reward} has no variant {echoed(variant)}; it has {', '.join(sorted(self._defaults))}"
            )
        route = self._by_digest.get(release or self._defaults[variant])
        if route is None or route.variant != variant:
            known = ", ".join(digest for digest, other in self._by_digest.items() if other.variant == variant)
            raise UnknownRelease(f"release: {echoed(release)} is not served for variant {variant!r}; served: {known}")
        return route

    def _reload_if_changed(self) -> None:
        if self._file is None:
            return
        now = stamp(self._file)
        if now == self._stamp:
            return
        self._stamp = now
        try:
            self._use(self._read())
        except RoutesError as error:
            logger.error("the routes stay as they were: %s", error)
        else:
            logger.info("routes of %s: %s by default, %s", self._reward, self._default_variant, self._defaults)

    def _read(self) -> RouteEntry:
        if self._file is None:
            return RouteEntry()
        try:
            entries = _FILE.validate_python(yaml.safe_load(self._file.read_text()) or {})
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise RoutesError(f"--routes {self._file} cannot be read: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise RoutesError(f"--routes {self._file}: {where}: {first['msg']}") from None
        return entries.get(self._reward, RouteEntry())

    def _use(self, entry: RouteEntry) -> None:
        """All of the entry or, where one name in it is unknown, nothing of it. Raises RoutesError."""
        defaults = dict(self._first)
        for variant, prefix in entry.releases.items():
            defaults[variant] = self._find(variant, prefix)
        default_variant = entry.default_variant or self._first_variant
        if default_variant not in defaults:
            raise RoutesError(f"{self._where}.default_variant: {default_variant!r} is none of {sorted(defaults)}")
        shadow = None
        if entry.shadow is not None:
            variant, prefix = entry.shadow.variant, entry.shadow.release or defaults.get(entry.shadow.variant, "")
            shadow = Shadow(self._by_digest[self._find(variant, prefix)], entry.shadow.share)
        self._defaults, self._default_variant, self._shadow = defaults, default_variant, shadow

    def _find(self, variant: str, prefix: str) -> str:
        """The digest that starts with `prefix`."""
        of_variant = [digest for digest, route in self._by_digest.items() if route.variant == variant]
        found = [digest for digest in of_variant if prefix and digest.startswith(prefix)]
        if len(found) != 1:
            raise RoutesError(
                f"{self._where}: {variant!r} has {len(found) or 'no'} release{'s' if len(found) > 1 else ''} "
                f"{prefix!r}; this service has {of_variant or 'none of that variant'}"
            )
        return found[0]

    @property
    def _where(self) -> str:
        return f"--routes {self._file}: {self._reward}"
