CREATE OR REPLACE VIEW {database}.study_27_languages AS
WITH
    groups AS
    (
        SELECT
            JSONExtractString(e.tags, 'language') AS language,
            sum(toUInt64(ifNull(e.tokens_prompt, 0)) + ifNull(e.tokens_completion, 0)) AS tokens,
            count() AS requests,
            sum(ifNull(e.cost_nanousd, 0)) AS nanousd
        FROM {database}.usage_events AS e
        WHERE e.occurred_at >= toDateTime({from_day:Date}, 'UTC') AND e.occurred_at < toDateTime({to_day:Date}, 'UTC')
            AND e.tags != '' AND language != ''
        GROUP BY language
    )
SELECT
    language,
    tokens,
    requests,
    CAST(toDecimal128(nanousd, 9) / 1000000000, 'Decimal(18, 9)') AS spend_usd,
    tokens / sum(tokens) OVER () AS token_share,
    requests / sum(requests) OVER () AS request_share,
    toFloat64(nanousd) / nullIf(sum(nanousd) OVER (), 0) AS spend_share
FROM groups
ORDER BY tokens DESC, language
COMMENT 'Languages of prompts over a period.
Study: analysis 27. Events have no field for it: producers that detect the language send it as tag language, a BCP 47 tag such as en or zh-Hans. Requests without it are left out.
Formula: sum(tokens of the language) / sum(tokens of all that name one). Source: usage_events, every request of the period with tags.
Columns: language. tokens, requests, spend_usd. token_share, request_share, spend_share: of requests that name a language.
Example: SELECT language, tokens, token_share FROM study_27_languages(from_day = today() - 28, to_day = today() + 1)';
