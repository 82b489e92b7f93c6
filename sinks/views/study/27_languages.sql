CREATE OR REPLACE VIEW {database}.study_27_languages AS
WITH
    groups AS
    (
        SELECT
            toString(u.language) AS language,
            sum(u.tokens_prompt + u.tokens_completion) AS tokens,
            sum(u.requests) AS requests,
            sum(u.cost_nanousd) AS nanousd
        FROM {database}.usage_located_1d AS u
        WHERE day >= {from_day:Date} AND day < {to_day:Date} AND u.language != 'unknown'
        GROUP BY language
    )
SELECT
    language,
    tokens,
    requests,
    nanousd * toDecimal64('0.000000001', 9) AS spend_usd,
    tokens / sum(tokens) OVER () AS token_share,
    requests / sum(requests) OVER () AS request_share,
    toFloat64(nanousd) / nullIf(sum(nanousd) OVER (), 0) AS spend_share
FROM groups
ORDER BY tokens DESC, language
COMMENT 'Languages of prompts over a period.
Study: analysis 27. Events have no field for it: producers that detect the language send it as tag language, a BCP 47 tag such as en or zh-Hans. Requests without it, or with a text that has not this form, are left out.
Formula: sum(tokens of the language) / sum(tokens of all that name one). Source: usage_located_1d, exact.
Columns: language. tokens, requests, spend_usd. token_share, request_share, spend_share: of requests that name a language.
Example: SELECT language, tokens, token_share FROM study_27_languages(from_day = today() - 28, to_day = today() + 1)';
