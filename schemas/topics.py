"""The topics of tokentide: names, cleanup policy and retention."""

from dataclasses import dataclass, field

USAGE_TOPIC = "llm-usage-v1"
DEAD_LETTER_TOPIC = "llm-usage-v1-dead-letter"
MODELS_TOPIC = "llm-models-v1"
SHARE_ALERTS_TOPIC = "llm-share-alerts-v1"
PANES_TOPIC = "llm-usage-panes-v1"
SHARES_TOPIC = "llm-shares-v1"

PANES_PARTITIONS = 4
"""The dimensions are dealt out to so many partitions, hence to at most so many workers. Another
number would deal them anew: it goes with another version of the topic."""


@dataclass(frozen=True)
class Topic:
    """A topic as ``tokentide topics`` creates it.

    Attributes:
        partitions: ``None`` takes ``TOKENTIDE_USAGE_PARTITIONS``.
        config: Kafka's topic settings that differ from the broker's defaults.
    """

    name: str
    partitions: int | None
    config: dict[str, str] = field(default_factory=dict)


DAY_MS = 86_400_000

TOPICS = (
    # LogAppendTime: the broker's clock, not the producer's, says when an event arrived, so the
    # check for events from the future gives the same answer on every repeat of a range.
    Topic(
        USAGE_TOPIC,
        None,
        {"message.timestamp.type": "LogAppendTime", "retention.ms": str(7 * DAY_MS)},
    ),
    # As many partitions as the usage topic: the dead letters of a partition stay together.
    # A dead letter is longer than its record by its headers.
    Topic(
        DEAD_LETTER_TOPIC,
        None,
        {"retention.ms": str(30 * DAY_MS), "max.message.bytes": str(2 << 20)},
    ),
    Topic(MODELS_TOPIC, 1, {"cleanup.policy": "compact"}),
    # One partition: the transitions of all alerts in the order in which they were stored.
    Topic(SHARE_ALERTS_TOPIC, 1, {"retention.ms": str(400 * DAY_MS)}),
    # What is older is asked of ClickHouse. A range of 50,000 events with as many users has 2 MB.
    # LogAppendTime: no worker's clock pushes the watermark.
    Topic(
        PANES_TOPIC,
        PANES_PARTITIONS,
        {
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": str(DAY_MS // 4),
            "max.message.bytes": str(16 << 20),
        },
    ),
    Topic(
        SHARES_TOPIC,
        1,
        {"cleanup.policy": "compact,delete", "retention.ms": str(2 * DAY_MS)},
    ),
)
