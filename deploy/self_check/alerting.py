"""Checks of the settings of alerting, and of who is to be told."""

import socket
from collections.abc import Callable, Iterator
from http.client import HTTPException
from urllib.parse import urlsplit
from urllib.request import urlopen

from agents.rule_file import read_rules
from deploy.alerting import read_parameters, watched_dimensions, webhooks
from deploy.self_check.check import Check, ok, unsafe, warning
from schemas.errors import ConfigurationError
from streams.settings import Settings

REACH_SECONDS_MAX = 3.0


def alerting_checks(settings: Settings) -> list[Check]:
    """Return what was found. What a worker would refuse to start with is unsafe."""
    return [
        _of_setting("alert dimensions", lambda: _dimensions(settings)),
        _of_setting("alert parameters", lambda: _parameters(settings)),
        _of_setting("alert rules", lambda: _rules(settings)),
        *_receivers(settings),
    ]


def _of_setting(name: str, look: Callable[[], str]) -> Check:
    try:
        return ok(name, look())
    except ConfigurationError as error:
        return unsafe(name, str(error), "mend it, or leave the setting out: no worker starts")


def _dimensions(settings: Settings) -> str:
    return f"changes are looked for in {', '.join(sorted(watched_dimensions(settings)))}"


def _parameters(settings: Settings) -> str:
    parameters = read_parameters(settings.alert_parameters_file)
    if settings.alert_parameters_file is None:
        return f"built in, version {parameters.version}: tokentide alerts calibrate writes your own"
    return f"{settings.alert_parameters_file}, version {parameters.version}"


def _rules(settings: Settings) -> str:
    if settings.alert_rules_file is None:
        return "none by hand"
    return f"{len(read_rules(settings.alert_rules_file))} in {settings.alert_rules_file}"


def _receivers(settings: Settings) -> Iterator[Check]:
    name = "alert receivers"
    try:
        has_webhook = bool(webhooks(settings))
    except ConfigurationError as error:
        yield unsafe(name, str(error), "set the address of the webhook, or leave it out")
        return
    if not has_webhook and not settings.alertmanagers:
        yield ok(name, "none: alerts are stored and published, and nobody is told")
    if has_webhook:
        yield _webhook(settings)
    for url in settings.alertmanagers:
        yield _alertmanager(url)


def _webhook(settings: Settings) -> Check:
    """Look whether somebody listens; the address may hold a key and is not shown."""
    name = "alert webhook"
    url = urlsplit(settings.alerts_webhook_url.get_secret_value())
    try:
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        socket.create_connection((url.hostname or "", port), REACH_SECONDS_MAX).close()
    except (OSError, ValueError):
        fix = "start the receiver, or mend TOKENTIDE_ALERTS_WEBHOOK_URL; alerts wait for it"
        return warning(name, "nothing listens at its address", fix)
    if not settings.alerts_webhook_secret.get_secret_value():
        fix = "set TOKENTIDE_ALERTS_WEBHOOK_SECRET, and check the signature there"
        return warning(name, "it listens, but alerts are not signed: anybody could send one", fix)
    return ok(name, "it listens, alerts are signed")


def _alertmanager(url: str) -> Check:
    name = "alertmanager"
    try:
        with urlopen(f"{url.rstrip('/')}/-/ready", timeout=REACH_SECONDS_MAX):
            return ok(name, f"{url} is ready")
    except (OSError, ValueError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        fix = "start it, or mend TOKENTIDE_ALERTMANAGER_URLS; alerts wait for it"
        return warning(name, f"{url} is not ready: {reason}", fix)
