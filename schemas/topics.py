"""The topics of tokentide: names, cleanup policy and retention."""

from dataclasses import dataclass, field

USAGE_TOPIC = "llm-usage-v1"
DEAD_LETTER_TOPIC = "llm-usage-v1-dead-letter"
MODELS_TOPIC = "llm-models-v1"


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
)
