"""What the tests of the catalogue say it with."""

from datetime import UTC, datetime

from schemas.catalogue import Model, load_shipped


def ms(year: int, month: int, day: int, hour: int = 0) -> int:
    """Return an instant of UTC, epoch milliseconds."""
    return int(datetime(year, month, day, hour, tzinfo=UTC).timestamp()) * 1000


def model(name: str) -> Model:
    """Return the shipped model of a name."""
    found = load_shipped().resolve(name)
    assert found is not None, name
    return found.model
