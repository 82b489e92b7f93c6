-- Rendered by tokentide migrate with one branch per share_by_* view that reads usage_1m.
CREATE OR REPLACE VIEW {database}.share_last_hour
(
    dimension String COMMENT 'What the traffic is divided by: model, vendor, country, license, origin, size_class, reasoning or provider',
    value String COMMENT 'One of the 20 largest values by tokens, other for the rest, unknown for what is not known',
    tokens UInt64 COMMENT 'Prompt and completion tokens; requests with unknown tokens add nothing',
    requests UInt64 COMMENT 'Requests',
    spend_usd Decimal(18, 9) COMMENT 'Cost, USD; requests with unknown cost add nothing',
    token_share Nullable(Decimal(10, 9)) COMMENT 'tokens / all tokens of the dimension, 0 to 1; null when there are none',
    request_share Nullable(Decimal(10, 9)) COMMENT 'requests / all requests of the dimension, 0 to 1',
    spend_share Nullable(Decimal(10, 9)) COMMENT 'spend_usd / all spend of the dimension, 0 to 1; null when there is none'
)
AS
{branches}
COMMENT 'Shares of the last 60 minutes, for a quick look: exactly 1 in sum per dimension. Example: SELECT * FROM share_last_hour WHERE dimension = \'vendor\'';
