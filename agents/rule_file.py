"""The file of rules by hand, read again when it changes; a broken one keeps the rules as they were."""

from dataclasses import dataclass, field
from pathlib import Path

import structlog
from prometheus_client import Gauge

from schemas.errors import ConfigurationError
from streams.alerts.rules import Rule, parse_rules

log = structlog.get_logger()

RULES = Gauge("tokentide_alert_rules", "Rules by hand that are watched.")
BROKEN = Gauge(
    "tokentide_alert_rules_broken", "1 while the file of rules can't be used and older ones are."
)


def read_rules(path: Path) -> tuple[Rule, ...]:
    """Return the rules of a file.

    Raises:
        ConfigurationError: It can't be read or used; one line that says why.
    """
    try:
        return parse_rules(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigurationError(f"alert rules {path}: {reason}") from None
    except ConfigurationError as error:
        raise ConfigurationError(f"alert rules {path}: {error}") from None


@dataclass
class RuleFile:
    """The rules as they are now.

    Attributes:
        path: ``None`` when there is no file, hence no rule.
        fault: Why the newest content of the file is not used, or empty.
    """

    path: Path | None
    fault: str = ""
    _rules: tuple[Rule, ...] = ()
    _stamp: tuple[int, int, int] | None = field(default=None, repr=False)

    def load(self) -> None:
        """Read the file for the first time.

        Raises:
            ConfigurationError: As `read_rules`.
        """
        if self.path is None:
            return
        self._stamp = self._current_stamp()
        self._rules = read_rules(self.path)
        RULES.set(len(self._rules))

    def current(self) -> tuple[Rule, ...]:
        """Return the rules, read anew if the file has changed. Costs one look at its times."""
        stamp = self._current_stamp()
        if self.path is not None and stamp != self._stamp:
            self._stamp = stamp
            try:
                self._rules = read_rules(self.path)
            except ConfigurationError as error:
                self.fault = str(error)
                BROKEN.set(1)
                log.error("rules.refused", error=self.fault, kept=len(self._rules))
            else:
                self.fault = ""
                BROKEN.set(0)
                RULES.set(len(self._rules))
                log.info("rules.loaded", rules=len(self._rules))
        return self._rules

    def _current_stamp(self) -> tuple[int, int, int] | None:
        if self.path is None:
            return None
        try:
            found = self.path.stat()
        except OSError:
            return None
        # The inode: editors replace a file, and may keep its times.
        return found.st_mtime_ns, found.st_size, found.st_ino
