"""Who calls: users of apps in countries, their sessions, and the gateway each goes through."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import polars as pl

from deploy.local.simulator.partitions import UInt32s, murmur2
from deploy.local.simulator.seasons import Floats, Int64s, activity

# Caller's country, serving region, UTC offset in hours, share of tokens in percent.
# Source: State of AI (OpenRouter, a16z, 2025), countries by tokens; the smaller ones share "other".
_COUNTRIES = (
    ("US", "us-east", -6.0, 32.2),
    ("US", "us-west", -8.0, 15.0),
    ("SG", "ap-southeast", 8.0, 9.2),
    ("DE", "eu-central", 1.0, 7.5),
    ("CN", "ap-east", 8.0, 6.0),
    ("KR", "ap-northeast", 9.0, 2.9),
    ("NL", "eu-central", 1.0, 2.7),
    ("GB", "eu-west", 0.0, 2.5),
    ("CA", "us-east", -5.0, 1.9),
    ("JP", "ap-northeast", 9.0, 1.8),
    ("IN", "ap-south", 5.5, 1.6),
    ("FR", "eu-west", 1.0, 3.0),
    ("BR", "sa-east", -3.0, 2.5),
    ("PL", "eu-central", 1.0, 2.2),
    ("ES", "eu-west", 1.0, 2.0),
    ("AU", "ap-southeast", 10.0, 2.0),
    ("VN", "ap-southeast", 7.0, 1.9),
    ("TR", "eu-central", 3.0, 1.6),
    ("ZA", "eu-west", 2.0, 1.5),
)
_APPS = (
    "code-agent", "ide-assistant", "chat", "roleplay", "support-desk", "extraction", "research",
    "translator", "summaries", "workflow-runner", "voice-agent", "seo-writer", "tutor",
    "sql-helper", "code-review", "moderation", "mail-triage", "game-npc", "legal-search",
    "ci-bot", "notes", "crm-enricher", "shop-assistant", "data-labels",
)  # fmt: skip


@dataclass(frozen=True)
class Gateway:
    """What one kind of gateway reports beside the required fields."""

    name: str
    share: float
    cost: bool
    user: bool
    tool_calls: bool
    cached: bool


GATEWAYS = (
    Gateway("atlas", 0.48, cost=True, user=False, tool_calls=True, cached=True),
    Gateway("borealis", 0.32, cost=True, user=True, tool_calls=True, cached=True),
    Gateway("cirrus", 0.20, cost=False, user=False, tool_calls=False, cached=False),
)

_UTC_OFFSETS = np.array([country[2] for country in _COUNTRIES])
_USERS = 20_000
_SESSIONS = 5_000
# Events over which one set of sessions fades in and out: ten per session on average.
_EPOCH_EVENTS = 50_000


def zones() -> tuple[Floats, Floats]:
    """Return the UTC offsets in hours and the share of people living there."""
    shares = np.array([country[3] for country in _COUNTRIES])
    return _UTC_OFFSETS, shares / shares.sum()


@dataclass(frozen=True)
class Sessions:
    """Sessions, one row each.

    Attributes:
        keys: Session hashes: the record keys.
        key_hashes: murmur2 of the keys.
        text: Their part of an event: app, hashes, region, country, gateway.
        gateway: Index into ``GATEWAYS``.
        utc_offset_hours: Where the user lives.
        taste: 0 to 1: which model the session prefers.
    """

    keys: list[bytes]
    key_hashes: UInt32s
    text: pl.Series
    gateway: Int64s
    utc_offset_hours: Floats
    taste: Floats

    def take(self, rows: Int64s) -> "Sessions":
        return Sessions(
            keys=[self.keys[row] for row in rows.tolist()],
            key_hashes=self.key_hashes[rows],
            text=self.text.gather(rows),
            gateway=self.gateway[rows],
            utc_offset_hours=self.utc_offset_hours[rows],
            taste=self.taste[rows],
        )


class Population:
    """Users and their sessions, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        self._seed = seed
        self._country = rng.choice(len(_COUNTRIES), _USERS, p=zones()[1])
        self._app = rng.choice(len(_APPS), _USERS, p=_zipf(len(_APPS)))
        self._user_hashes = [_hash(f"{seed}:user:{user}") for user in range(_USERS)]
        self._user_cumulative = np.cumsum(_zipf(_USERS))
        self._open_sessions = lru_cache(maxsize=4)(self._make_sessions)

    def choose(self, numbers: Int64s, times_ms: Int64s, rng: np.random.Generator) -> Sessions:
        """Return the session that makes each event, one row per event.

        Sets of sessions follow one another by event number, each fading in over the one before.
        Of two sessions the one whose user is awake is the likelier.
        """
        fade = (rng.random(len(numbers)) * _EPOCH_EVENTS).astype(np.int64)
        epochs, place = np.unique((numbers + fade) // _EPOCH_EVENTS, return_inverse=True)
        sets = [self._open_sessions(int(epoch)) for epoch in epochs]
        first, second = (
            self._popular(rng.random(len(numbers))) + place * _SESSIONS for _ in range(2)
        )
        offsets = np.concatenate([one.utc_offset_hours for one in sets])
        awake = rng.random(len(numbers)) < activity(times_ms, offsets[first])
        return _joined(sets).take(np.where(awake, first, second))

    @staticmethod
    def _popular(places: Floats) -> Int64s:
        return np.searchsorted(_SESSION_CUMULATIVE, places).clip(0, _SESSIONS - 1)

    def _make_sessions(self, epoch: int) -> Sessions:
        rng = np.random.default_rng([self._seed, 2, epoch])
        users = np.searchsorted(self._user_cumulative, rng.random(_SESSIONS)).clip(0, _USERS - 1)
        gateway = rng.choice(len(GATEWAYS), _SESSIONS, p=[g.share for g in GATEWAYS])
        hashes = [_hash(f"{self._seed}:session:{epoch}:{i}") for i in range(_SESSIONS)]
        keys = [session.encode() for session in hashes]
        return Sessions(
            keys=keys,
            key_hashes=murmur2(keys),
            text=pl.Series(
                [
                    self._text(int(user), session, GATEWAYS[way])
                    for user, session, way in zip(users, hashes, gateway, strict=True)
                ]
            ),
            gateway=gateway,
            utc_offset_hours=_UTC_OFFSETS[self._country[users]],
            taste=rng.random(_SESSIONS),
        )

    def _text(self, user: int, session: str, gateway: Gateway) -> str:
        country, region, _, _ = _COUNTRIES[self._country[user]]
        user_hash = f'"user_hash":"{self._user_hashes[user]}",' if gateway.user else ""
        return (
            f',"app_id":"{_APPS[self._app[user]]}",{user_hash}"session_hash":"{session}"'
            f',"region":"{region}","country":"{country}"'
            f',"tags":{{"gateway":"{gateway.name}"}}'
        )


def _zipf(count: int, exponent: float = 0.9) -> Floats:
    weights = 1 / np.arange(1, count + 1) ** exponent
    shares: Floats = weights / weights.sum()
    return shares


# How long a session is: a few make most of the events.
_SESSION_CUMULATIVE = np.cumsum(_zipf(_SESSIONS, 0.6))


def _joined(sets: list[Sessions]) -> Sessions:
    if len(sets) == 1:
        return sets[0]
    return Sessions(
        keys=[key for one in sets for key in one.keys],
        key_hashes=np.concatenate([one.key_hashes for one in sets]),
        text=pl.concat([one.text for one in sets]),
        gateway=np.concatenate([one.gateway for one in sets]),
        utc_offset_hours=np.concatenate([one.utc_offset_hours for one in sets]),
        taste=np.concatenate([one.taste for one in sets]),
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
