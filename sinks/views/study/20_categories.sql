CREATE OR REPLACE VIEW {database}.study_20_categories AS
WITH
    -- Wilson 1927, at 95 %: requests are drawn alike. That of tokens is wider: a request has many or few.
    1.959964 AS z,
    1 + z * z / requests_total AS scale,
    (toFloat64(r.request_share) + z * z / (2 * requests_total)) / scale AS middle,
    z * sqrt(toFloat64(r.request_share) * (1 - toFloat64(r.request_share)) / requests_total + z * z / (4 * pow(requests_total, 2))) / scale AS reach
SELECT
    week, value AS category, requests AS sampled_requests,
    requests < {cell_min:UInt32} AS is_withheld,
    if(is_withheld, NULL, r.token_share) AS token_share,
    if(is_withheld, NULL, r.request_share) AS request_share,
    if(is_withheld, NULL, r.spend_share) AS spend_share,
    if(is_withheld, NULL, greatest(middle - reach, 0)) AS request_share_low,
    if(is_withheld, NULL, least(middle + reach, 1)) AS request_share_high,
    requests_total AS sampled_requests_total,
    is_partial
FROM {database}.study_request_shares(column = 'category', only = 'tagged', top_n = 1000, from_day = {from_day:Date}, to_day = {to_day:Date}, by_week = true) AS r
ORDER BY week, sampled_requests DESC, category
COMMENT 'Task categories of all models, by week.
Study: analysis 20, figure 19 (programming became the largest). Shares are of requests that the gateway sampled and tagged: estimates. request_share_low and request_share_high: 95 % interval of the request share (Wilson). A category of fewer than cell_min requests in a week is withheld: null, never 0.
Formula: sum(tokens of the category) / sum(tokens of tagged requests). Source: usage_context_1h.
Columns: week: its Monday. category. sampled_requests, of sampled_requests_total in the week. is_withheld: there are too few. token_share, request_share, spend_share: of tagged requests. request_share_low, request_share_high. is_partial: the week is not over, or the period cuts it.
Example: SELECT week, category, token_share, request_share, request_share_low, request_share_high FROM study_20_categories(from_day = today() - 28, to_day = today() + 1, cell_min = 30)';
