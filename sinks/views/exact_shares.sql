    -- In billionths of the total, rounded half up: a share is the difference of two running values, so
    -- that the shares of a bucket telescope to exactly 1. One function for all three measures, because
    -- the engine takes longer to analyse it than to compute it.
    arrayMap(
        (own, so_far, total) -> CAST(
            (intDiv(2000000000 * toInt128(so_far) + total, 2 * toInt128(nullIf(total, 0)))
            - intDiv(2000000000 * toInt128(so_far - own) + total, 2 * toInt128(nullIf(total, 0)))) * toDecimal64('0.000000001', 9), 'Nullable(Decimal(10, 9))'),
        [tokens, requests, nanousd], [tokens_so_far, requests_so_far, nanousd_so_far], [tokens_total, requests_total, nanousd_total]
    ) AS shares
