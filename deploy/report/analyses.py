"""What the report says: one entry per analysis, in the study's order."""

from collections.abc import Callable
from dataclasses import dataclass, field

from deploy.report import plots, words
from deploy.report.periods import Rows

CELL_MIN = 30
"""Sampled requests that a cell needs to be shown, and requests that a model needs in the price map."""


@dataclass(frozen=True)
class Analysis:
    """One figure with its paragraph.

    Attributes:
        view: Of the study, without ``study_``: it gives the numbers.
        more: Its arguments beside the period.
        say: Makes the paragraph of its rows; at least one.
        plot: Makes the figure.
        note: What must be known to read it.
        file: Name of its files, when the view has another figure.
    """

    section: str
    title: str
    view: str
    say: Callable[[Rows], str]
    plot: plots.Plot
    note: str = ""
    more: dict[str, int | str] = field(default_factory=dict)
    file: str = ""


MARKET, OPEN, AGENTS, TASKS, PLACES, USERS, MONEY = (
    "The market",
    "Open against closed",
    "Agentic inference",
    "What it is used for",
    "Where callers are",
    "Users",
    "Price and use",
)
SAMPLED = "Of sampled requests: estimates."
ANALYSES = (
    Analysis(
        MARKET,
        "Vendors",
        "33_vendors",
        words.shares("vendor", "all tokens"),
        plots.stacked_shares("vendor"),
        more={"top_n": 10},
    ),
    Analysis(
        MARKET,
        "What is paid to whom",
        "33_vendors",
        words.shares("vendor", "spend", "spend_share"),
        plots.stacked_shares("vendor", "spend_share"),
        "As far as the cost of requests is known.",
        {"top_n": 10},
        "33_vendors_spend",
    ),
    Analysis(
        MARKET,
        "Countries that models come from",
        "34_vendor_countries",
        words.shares("country", "all tokens"),
        plots.stacked_shares("country"),
        more={"top_n": 6},
    ),
    Analysis(
        MARKET,
        "Concentration",
        "35_concentration",
        words.concentration,
        plots.lines("dimension", "hhi", label="Herfindahl-Hirschman index"),
        "The sum of the squares of all shares in per cent: 10,000 if one has all.",
    ),
    Analysis(
        MARKET,
        "Who comes and goes",
        "36_churn",
        words.churn,
        plots.lines(None, "models_entered", label="new among the 20 largest models"),
        more={"top_n": 20},
    ),
    Analysis(
        MARKET,
        "Launches",
        "37_launches",
        words.launches,
        plots.bars("model", "highest_share", "highest share of a day's tokens", percent=True),
        "Models whose first request in the period is not on its first day.",
        {"top_n": 12},
    ),
    Analysis(
        OPEN,
        "Open and closed models",
        "01_open_and_closed",
        words.shares("origin", "all tokens"),
        plots.stacked_shares("origin"),
        "Open: the weights are published. By where the vendor is: China, or elsewhere.",
    ),
    Analysis(
        OPEN,
        "Volume",
        "02_weekly_volume",
        words.volume,
        plots.lines("origin", "tokens", label="tokens a week"),
    ),
    Analysis(
        OPEN,
        "Authors of open models",
        "03_open_authors",
        words.authors,
        plots.bars("vendor", "tokens", "tokens"),
        more={"top_n": 10},
    ),
    Analysis(
        OPEN,
        "The largest open models",
        "04_top_open_models",
        words.shares("model", "tokens of open models"),
        plots.stacked_shares("model"),
        more={"top_n": 10},
    ),
    Analysis(
        OPEN,
        "Sizes of open models in use",
        "05_open_size_classes",
        words.shares("size_class", "tokens of open models"),
        plots.stacked_shares("size_class"),
        "By all parameters: small below 15 billion, medium below 70, large from 70.",
    ),
    Analysis(
        OPEN,
        "How many open models of each size",
        "06_open_models_by_size",
        words.sizes,
        plots.lines("size_class", "models", label="models with requests"),
    ),
    Analysis(
        AGENTS,
        "Models that reason",
        "11_reasoning",
        words.shares("kind", "all tokens"),
        plots.stacked_shares("kind"),
        "All tokens of models that can reason, whether they did or not.",
    ),
    Analysis(
        AGENTS,
        "The largest models that reason",
        "12_top_reasoning_models",
        words.shares("model", "tokens of models that reason"),
        plots.stacked_shares("model"),
        more={"top_n": 8},
    ),
    Analysis(
        AGENTS,
        "Requests that end in a tool call",
        "13_tool_calls",
        words.shares("ended_by", "all tokens"),
        plots.stacked_shares("ended_by"),
    ),
    Analysis(
        AGENTS,
        "Models that call tools",
        "14_top_tool_models",
        words.tool_models,
        plots.lines(
            "model",
            "share_of_tool_call_requests",
            label="share of requests that called a tool",
            percent=True,
        ),
        more={"top_n": 6},
    ),
    Analysis(
        AGENTS,
        "Length of requests",
        "15_request_lengths",
        words.lengths,
        plots.lines(
            None, "mean_tokens_prompt", "mean_tokens_completion", label="tokens a request, mean"
        ),
    ),
    Analysis(
        AGENTS,
        "Medians and tails of lengths",
        "16_length_quantiles",
        words.quantiles,
        plots.lines(None, "tokens_p50", "tokens_p90", "tokens_p99", label="tokens a request"),
    ),
    Analysis(
        TASKS,
        "Length of prompts by category",
        "17_lengths_by_category",
        words.lengths_by_category,
        plots.lines("category", "mean_tokens_prompt", label="prompt tokens a request, mean"),
        "Of sampled requests.",
        {"cell_min": CELL_MIN},
    ),
    Analysis(
        TASKS,
        "Categories",
        "20_categories",
        words.categories,
        plots.stacked_shares("category"),
        "Of sampled requests: estimates.",
        {"cell_min": CELL_MIN},
    ),
    Analysis(
        TASKS,
        "What categories are made of",
        "22_tags_within_categories",
        words.tags,
        plots.parts("category", "subcategory"),
        SAMPLED,
        {"cell_min": CELL_MIN},
    ),
    Analysis(
        TASKS,
        "What open models are used for",
        "07_open_categories",
        words.shares("category", "sampled tokens of open models"),
        plots.stacked_shares("category"),
        SAMPLED,
        {"cell_min": CELL_MIN},
    ),
    Analysis(
        TASKS,
        "What open models of Chinese vendors are used for",
        "08_chinese_open_categories",
        words.shares("category", "sampled tokens of open models of Chinese vendors"),
        plots.stacked_shares("category"),
        SAMPLED,
        {"cell_min": CELL_MIN},
    ),
    Analysis(
        TASKS,
        "Whose models programming is done with",
        "09_programming_by_origin",
        words.shares("origin", "sampled tokens of programming"),
        plots.stacked_shares("origin"),
        SAMPLED,
        {"cell_min": CELL_MIN},
    ),
    Analysis(
        TASKS,
        "Whose models roleplay is done with",
        "10_roleplay_by_origin",
        words.shares("origin", "sampled tokens of roleplay"),
        plots.stacked_shares("origin"),
        SAMPLED,
        {"cell_min": CELL_MIN},
    ),
    Analysis(
        TASKS,
        "Vendors in programming",
        "21_programming_by_vendor",
        words.shares("vendor", "sampled tokens of programming"),
        plots.stacked_shares("vendor"),
        SAMPLED,
        {"cell_min": CELL_MIN},
    ),
    Analysis(
        PLACES,
        "Spend by continent",
        "24_spend_by_continent",
        words.shares("continent", "spend", "spend_share"),
        plots.stacked_shares("continent", "spend_share"),
        "By where the caller is, as far as producers say.",
    ),
    Analysis(
        PLACES,
        "Continents",
        "25_continents",
        words.places("continent"),
        plots.bars("continent", "tokens", "tokens"),
    ),
    Analysis(
        PLACES,
        "Countries",
        "26_countries",
        words.places("country"),
        plots.bars("country", "tokens", "tokens"),
        more={"top_n": 10},
    ),
    Analysis(
        PLACES,
        "Languages",
        "27_languages",
        words.languages,
        plots.bars("language", "token_share", "share of tokens", percent=True),
        "Of requests whose producer says.",
    ),
    Analysis(
        USERS,
        "Who stays",
        "28_retention_patterns",
        words.patterns,
        plots.bars(
            "model", "best_kept", "part of the best cohort active 2 to 5 months later", percent=True
        ),
        "Users by their producers' hashes. Patterns by rule: see the view's comment.",
        {"cell_min": CELL_MIN, "exact": 1},
    ),
    Analysis(
        USERS,
        "Users of vendors",
        "38_users",
        words.users,
        plots.lines("value", "users", label="users a week"),
        "A user of two vendors counts for both.",
        {"column": "vendor", "top_n": 6, "exact": 1},
    ),
    Analysis(
        USERS,
        "New users and those who stay",
        "39_new_and_returning_users",
        words.returning,
        plots.lines(None, "users_new", "users_kept", "users_back", label="users a week"),
        "New is who made no request in the period before.",
        {"exact": 1},
    ),
    Analysis(
        MONEY,
        "Price and use of categories",
        "29_price_and_use_of_categories",
        words.prices("category", "quadrant"),
        plots.scatter("category", "quadrant"),
        "Of sampled requests.",
        {"cell_min": CELL_MIN},
    ),
    Analysis(
        MONEY,
        "The market map",
        "30_price_and_use_of_models",
        words.prices("model", "segment"),
        plots.scatter("model", "segment"),
        "Cut at the medians of the models shown.",
        {"cell_min": CELL_MIN},
    ),
    Analysis(
        MONEY,
        "Does a lower price go with more use?",
        "30_price_elasticity",
        words.elasticity,
        plots.intervals(
            "origin",
            "elasticity_low",
            "elasticity",
            "elasticity_high",
            "per cent of tokens for one per cent of price",
        ),
        "An association between different models, not the effect of a price change.",
        {"cell_min": CELL_MIN},
    ),
)
