CREATE OR REPLACE VIEW {database}.study_30_price_elasticity AS
WITH moments AS
    (
        SELECT
            origin_group,
            count() AS models,
            avg(x) AS mean_x,
            avg(y) AS mean_y,
            sum(x * x) - models * mean_x * mean_x AS sxx,
            sum(y * y) - models * mean_y * mean_y AS syy,
            sum(x * y) - models * mean_x * mean_y AS sxy
        FROM
        (
            SELECT arrayJoin([toString(origin), 'all']) AS origin_group, log(usd_per_million_tokens) AS x, log(tokens) AS y
            FROM {database}.study_30_price_and_use_of_models(from_day = {from_day:Date}, to_day = {to_day:Date}, cell_min = {cell_min:UInt32})
        )
        GROUP BY origin_group
    )
SELECT
    origin_group AS origin,
    models,
    if(models > 2 AND sxx > 1e-9, sxy / sxx, NULL) AS elasticity,
    if(isNull(elasticity), NULL, sqrt(greatest(syy - sxy * sxy / sxx, 0) / (models - 2) / sxx)) AS standard_error,
    elasticity - 1.959964 * standard_error AS elasticity_low,
    elasticity + 1.959964 * standard_error AS elasticity_high,
    if(isNull(elasticity) OR syy <= 0, NULL, sxy * sxy / sxx / syy) AS r_squared
FROM moments
ORDER BY models DESC, origin
COMMENT 'How much less the dearer models are used: elasticity of use by price over a period.
Study: analysis 30 (10 % lower price, 0.5 to 0.7 % more use: -0.05 to -0.07). One row for all models and one per origin. elasticity: per cent of tokens for one per cent of price, with its standard error and 95 % interval (normal). An association between different models, not what a price change would do. Null with fewer than three models.
Formula: least squares of ln(tokens) on ln(USD per million tokens), a point per model of study_30_price_and_use_of_models.
Columns: origin: all, or one. models: points. elasticity, standard_error, elasticity_low, elasticity_high. r_squared: part of the variance of ln(tokens) that the line explains.
Example: SELECT * FROM study_30_price_elasticity(from_day = today() - 28, to_day = today() + 1, cell_min = 30)';
