    1.959964 AS z,
    -- Of requests, which are drawn alike: Wilson (1927).
    (k, n) -> (k / n + z * z / (2 * n)) / (1 + z * z / n) AS wilson_middle,
    (k, n) -> z * sqrt(k / n * (1 - k / n) / n + z * z / (4 * n * n)) / (1 + z * z / n) AS wilson_reach,
    -- Of tokens: a ratio of two sums over the sample (Cochran 1977, 6.4), on the scale of its log odds.
    (share, own_squares, squares, total, n) -> sqrt(greatest((1 - 2 * share) * own_squares + share * share * squares, 0) * n / greatest(n - 1, 1)) / total / (share * (1 - share)) AS error_of_odds,
    (share, by) -> if(share > 0 AND share < 1, 1 / (1 + exp(-log(share / (1 - share)) - by)), NULL) AS moved_by