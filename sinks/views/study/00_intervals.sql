    1.959964 AS z,
    3.841458881 AS z_squared,
    -- Of requests, which are drawn alike: Wilson (1927).
    (k, n) -> (k + z_squared / 2) / (n + z_squared) AS wilson_middle,
    (k, n) -> z * sqrt(k * (n - k) / n + z_squared / 4) / (n + z_squared) AS wilson_reach,
    -- Of tokens: a ratio of two sums over the sample (Cochran 1977, 6.4), on the scale of its log odds.
    (share, own_squares, squares, total, n) -> sqrt(greatest((1 - 2 * share) * own_squares + share * share * squares, 0) * n / greatest(n - 1, 1)) / total / (share * (1 - share)) AS error_of_odds,
    -- Null where there are no odds: the share is 0 or all.
    (share, by) -> 1 / (1 + nullIf((1 - share) / nullIf(share, 0), 0) * exp(-by)) AS moved_by
