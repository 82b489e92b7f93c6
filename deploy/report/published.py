"""The numbers that the study published, and how the views answer them: for ``tokentide report --check``.

Source: "State of AI: An Empirical 100 Trillion Token Study with OpenRouter", a16z and OpenRouter,
December 2025 (arXiv 2601.10088), from two independent renderings of it; numbers that only one of them
has, or that were read off a chart, say so. A published "more than" is a lower bound, "about" a range.

Periods are the study's own: weeks from 4 November 2024 to 30 November 2025, categories from May 2025
on, lengths from late 2023.
"""

from dataclasses import dataclass
from typing import Literal

Mark = Literal["both", "one", "chart"]
"""In both renderings of the study, in one, or read off a chart by somebody else."""

YEAR = "from_day = '2024-11-04', to_day = '2025-12-01'"
LENGTHS = "from_day = '2023-11-27', to_day = '2025-12-01'"
TAGGED = "from_day = '2025-05-05', to_day = '2025-12-01', cell_min = 1"
RECENT = "week >= '2025-10-06'"


@dataclass(frozen=True)
class Published:
    """One published number.

    Attributes:
        analysis: Number of the view that answers it.
        says: What it is the number of.
        number: As published.
        low, high: Where the answer has to lie.
        sql: Gives the answer, one value.
    """

    analysis: int
    says: str
    number: str
    low: float
    high: float
    sql: str
    mark: Mark = "both"


def _mean(view: str, column: str, where: str, period: str = YEAR) -> str:
    return f"SELECT avg(toFloat64({column})) FROM study_{view}({period}) WHERE {where}"


def _of_weeks(view: str, where: str, weeks: str, period: str, share: str = "token_share") -> str:
    """Mean of the weekly sums of a share: a value that is not there in a week counts 0."""
    return (
        f"SELECT avg(part) FROM (SELECT week, sumIf(toFloat64({share}), {where}) AS part"
        f" FROM study_{view}({period}) WHERE {weeks} GROUP BY week)"
    )


def _profile(vendor: str, categories: str, weeks: str = "1") -> str:
    return (
        f"SELECT sumIf(tokens, category IN ({categories})) / sum(tokens)"
        f" FROM study_23_author_profiles({TAGGED}) WHERE vendor = '{vendor}' AND {weeks}"
    )


def _category(view: str, categories: str, weeks: str = "1", column: str = "category") -> str:
    return (
        f"SELECT sumIf(tokens, {column} IN ({categories})) / sum(tokens)"
        f" FROM study_{view}({TAGGED}) WHERE {weeks}"
    )


def _author(vendor: str, trillions: float) -> Published:
    of_ten = trillions / 33.80
    return Published(
        3,
        f"{vendor}, part of the ten largest authors of open models",
        f"{of_ten:.1%} ({trillions} of 33.80 T)",
        of_ten * 0.9,
        of_ten * 1.1,
        f"SELECT sumIf(tokens, vendor = '{vendor}') / sumIf(tokens, place <= 10)"
        f" FROM study_03_open_authors({YEAR}, top_n = 10)",
        "one",
    )


def _continent(name: str, percent: float, within: float) -> Published:
    return Published(
        25, f"{name}, tokens", f"{percent} %", (percent - within) / 100, (percent + within) / 100,
        f"SELECT sumIf(toFloat64(token_share), continent = '{name}') FROM study_25_continents({YEAR})",
        "one",
    )  # fmt: skip


def _country(code: str, percent: float, within: float) -> Published:
    return Published(
        26, f"{code}, tokens", f"{percent} %", (percent - within) / 100, (percent + within) / 100,
        f"SELECT sumIf(toFloat64(token_share), country = '{code}')"
        f" FROM study_26_countries({YEAR}, top_n = 50)",
        "one",
    )  # fmt: skip


def _language(code: str, name: str, percent: float) -> Published:
    return Published(
        27, f"{name}, tokens", f"{percent} %", percent * 0.0095 - 0.001, percent * 0.0105 + 0.001,
        f"SELECT sumIf(token_share, language = '{code}') FROM study_27_languages({YEAR})",
        "one",
    )  # fmt: skip


def _within(category: str, tag: str, percent: float, analysis: int = 22) -> Published:
    return Published(
        analysis, f"{tag} within {category}", f"{percent} %", percent / 100 - 0.03, percent / 100 + 0.03,
        f"SELECT any(token_share) FROM study_22_tags_within_categories({TAGGED})"
        f" WHERE category = '{category}' AND subcategory = '{tag}'",
        "both" if category in ("roleplay", "programming", "science") else "one",
    )  # fmt: skip


def _segment(model: str, usd: float, power: float) -> tuple[Published, Published]:
    found = f"FROM study_30_price_and_use_of_models({YEAR}, cell_min = 5) WHERE model = '{model}'"
    authors = (
        f"(SELECT sum(tokens) FROM study_03_open_authors({YEAR}, top_n = 10) WHERE place <= 10)"
    )
    return (
        Published(31, f"{model}, USD per million tokens", f"{usd}", usd * 0.95, usd * 1.05,
                  f"SELECT any(usd_per_million_tokens) {found}", "one"),
        Published(31, f"{model}, use, log10 of million tokens", f"{power}", power - 0.1, power + 0.1,
                  f"SELECT log10(any(tokens) / {authors} * 33.80e6) {found}", "one"),
    )  # fmt: skip


def _kept(model: str, cohort: str, later: int) -> str:
    return (
        f"SELECT sumIf(retention, cohort = '{cohort}-01' AND months_later = {later})"
        f" FROM study_28_retention(model = '{model}', {LENGTHS}, exact = true)"
    )


def _others(model: str, cohort: str, later: int) -> str:
    """Mean of the other cohorts after as many months."""
    return (
        f"SELECT avgIf(retention, cohort != '{cohort}-01' AND months_later = {later})"
        f" FROM study_28_retention(model = '{model}', {LENGTHS}, exact = true)"
    )


_CHINESE, _OTHER, _CLOSED = (
    f"origin = '{each}'" for each in ("chinese_open", "other_open", "proprietary")
)
_EIGHT_MODELS = (
    ("google/gemini-2.0-flash-001", 0.147, 6.68),
    ("deepseek/deepseek-chat-v3-0324", 0.394, 6.55),
    ("anthropic/claude-3.7-sonnet", 1.963, 6.87),
    ("anthropic/claude-sonnet-4", 1.937, 6.84),
    ("qwen/qwen-2-7b-instruct", 0.052, 2.91),
    ("ibm-granite/granite-4.0-h-micro", 0.036, 2.95),
    ("openai/gpt-4", 34.068, 3.53),
    ("openai/gpt-5-pro", 34.965, 3.42),
)  # fmt: skip
_LATE = "week >= '2025-09-29' AND week < '2025-11-24'"

PUBLISHED: tuple[Published, ...] = (
    Published(1, "open models, late 2025", "about one third", 0.27, 0.38,
              _of_weeks("01_open_and_closed", f"{_CHINESE} OR {_OTHER}", RECENT, YEAR)),
    Published(2, "Chinese open models, mean week", "13.0 %", 0.125, 0.135,
              _of_weeks("01_open_and_closed", _CHINESE, "1", YEAR)),
    Published(2, "other open models, mean week", "13.7 %", 0.132, 0.142,
              _of_weeks("01_open_and_closed", _OTHER, "1", YEAR)),
    Published(2, "proprietary models from outside China, mean week", "70 %", 0.68, 0.72,
              "SELECT avg(part) FROM (SELECT toStartOfWeek(day, 1) AS week,"
              " sumIf(tokens_prompt + tokens_completion, origin = 'proprietary' AND vendor_country != 'CN')"
              " / sum(tokens_prompt + tokens_completion) AS part FROM usage_1d"
              " WHERE day >= '2024-11-04' AND day < '2025-12-01' GROUP BY week)"),
    Published(2, "Chinese open models, lowest week", "1.2 %", 0.009, 0.015,
              f"SELECT min(toFloat64(token_share)) FROM study_01_open_and_closed({YEAR}) WHERE {_CHINESE}"),
    Published(2, "Chinese open models, highest week", "almost 30 %", 0.26, 0.30,
              f"SELECT max(toFloat64(token_share)) FROM study_01_open_and_closed({YEAR}) WHERE {_CHINESE}"),
    *(_author(vendor, trillions) for vendor, trillions in (
        ("deepseek", 14.37), ("alibaba", 5.59), ("meta", 3.96), ("mistral", 2.92), ("openai", 1.65),
        ("minimax", 1.26), ("z-ai", 1.18), ("tng", 1.13), ("moonshot-ai", 0.92), ("google", 0.82))),
    Published(4, "DeepSeek V3 and R1 among open models, early 2025", "more than 50 %", 0.50, 0.75,
              "SELECT max(part) FROM (SELECT week, sumIf(toFloat64(token_share), model IN"
              " ('deepseek/deepseek-chat', 'deepseek/deepseek-r1')) AS part"
              f" FROM study_04_top_open_models({YEAR}, top_n = 15) WHERE week < '2025-05-01' GROUP BY week)"),
    Published(4, "largest open model, late 2025", "none above 25 %", 0.05, 0.25,
              f"SELECT max(toFloat64(token_share)) FROM study_04_top_open_models({YEAR}, top_n = 15)"
              f" WHERE {RECENT} AND model NOT IN ('other', 'unknown')"),
    Published(5, "small models among open ones, at the end", "about 12 %", 0.10, 0.14,
              _of_weeks("05_open_size_classes", "size_class = 'small'", RECENT, YEAR), "chart"),
    Published(5, "large models among open ones, at the end", "about 50 %", 0.46, 0.54,
              _of_weeks("05_open_size_classes", "size_class = 'large'", RECENT, YEAR), "chart"),
    Published(7, "roleplay with open models", "about 52 %", 0.48, 0.56,
              _category("07_open_categories", "'roleplay'")),
    Published(7, "programming with open models", "15 to 20 %", 0.15, 0.20,
              _category("07_open_categories", "'programming'"), "chart"),
    Published(7, "translation with open models", "about 5 %", 0.03, 0.07,
              _category("07_open_categories", "'translation'"), "chart"),
    Published(7, "science with open models", "about 4 %", 0.025, 0.055,
              _category("07_open_categories", "'science'"), "chart"),
    Published(8, "roleplay with Chinese open models", "about 33 %", 0.29, 0.37,
              _category("08_chinese_open_categories", "'roleplay'")),
    Published(8, "programming and technology with Chinese open models", "39 %", 0.36, 0.42,
              _category("08_chinese_open_categories", "'programming', 'technology'")),
    Published(9, "closed models in programming, May to November", "most", 0.50, 1.0,
              _category("09_programming_by_origin", "'proprietary'", column="origin")),
    Published(10, "closed models in roleplay, late", "about 42 %", 0.38, 0.46,
              _category("10_roleplay_by_origin", "'proprietary'", RECENT, "origin")),
    Published(10, "open models from outside China in roleplay, late", "about 43 %", 0.39, 0.47,
              _category("10_roleplay_by_origin", "'other_open'", RECENT, "origin")),
    Published(10, "closed models in roleplay, May", "about 70 %", 0.65, 0.75,
              _category("10_roleplay_by_origin", "'proprietary'", "week < '2025-06-02'", "origin")),
    Published(11, "models that reason, first weeks of 2025", "about 0", 0.0, 0.05,
              "SELECT avg(part) FROM (SELECT toStartOfWeek(day, 1) AS week,"
              " sumIf(tokens_prompt + tokens_completion, reasoning IN ('always', 'optional'))"
              " / sum(tokens_prompt + tokens_completion) AS part FROM usage_1d"
              " WHERE day >= '2024-12-30' AND day < '2025-01-20' GROUP BY week)"),
    Published(11, "models that reason, last weeks", "more than 50 %", 0.50, 0.80,
              "SELECT sumIf(tokens_prompt + tokens_completion, reasoning IN ('always', 'optional'))"
              " / sum(tokens_prompt + tokens_completion) FROM usage_1d"
              " WHERE day >= '2025-10-06' AND day < '2025-12-01'"),
    Published(12, "place of Grok Code Fast 1 among models that reason, September on", "first", 1, 1,
              "SELECT toFloat64(indexOf(groupArray(model), 'x-ai/grok-code-fast-1')) FROM (SELECT model"
              f" FROM study_12_top_reasoning_models({YEAR}, top_n = 15) WHERE week >= '2025-09-01'"
              " AND model NOT IN ('other', 'unknown') GROUP BY model ORDER BY sum(tokens) DESC)"),
    Published(13, "tokens that end in a tool call, start", "about 5 %", 0.04, 0.06,
              _of_weeks("13_tool_calls", "ended_by = 'tool call'", "week < '2024-12-02'", YEAR), "chart"),
    Published(13, "tokens that end in a tool call, end", "about 15 %", 0.13, 0.17,
              _of_weeks("13_tool_calls", "ended_by = 'tool call'", "week >= '2025-11-03'", YEAR), "chart"),
    Published(13, "one spike in May: the week against the one before", "a spike", 1.4, 4.0,
              "SELECT sumIf(toFloat64(token_share), week = '2025-05-12')"
              f" / sumIf(toFloat64(token_share), week = '2025-05-05') FROM study_13_tool_calls({YEAR})"
              " WHERE ended_by = 'tool call'"),
    Published(15, "prompt tokens a request, early 2024", "about 1.5 K", 1350, 1650,
              _mean("15_request_lengths", "mean_tokens_prompt", "week < '2024-03-01'", LENGTHS)),
    Published(15, "prompt tokens a request, late 2025", "more than 6 K", 6000, 7000,
              _mean("15_request_lengths", "mean_tokens_prompt", "week >= '2025-11-03'", LENGTHS)),
    Published(16, "completion tokens a request, early 2024", "about 150", 125, 175,
              _mean("15_request_lengths", "mean_tokens_completion", "week < '2024-03-01'", LENGTHS)),
    Published(16, "completion tokens a request, late 2025", "about 400", 360, 440,
              _mean("15_request_lengths", "mean_tokens_completion", "week >= '2025-11-03'", LENGTHS)),
    Published(17, "prompt tokens in programming, late 2025", "often above 20 K", 20_000, 23_000,
              "SELECT sum(mean_tokens_prompt * requests_measured) / sum(requests_measured)"
              f" FROM study_17_lengths_by_category({TAGGED}) WHERE category = 'programming' AND {RECENT}"),
    Published(18, "tokens a request, late 2023", "below 2 K", 1_000, 2_000,
              _mean("15_request_lengths", "mean_tokens", "week < '2024-01-01'", LENGTHS)),
    Published(18, "tokens a request, late 2025", "more than 5.4 K", 5_400, 7_400,
              _mean("15_request_lengths", "mean_tokens", "week >= '2025-11-03'", LENGTHS)),
    Published(19, "programming against all, tokens a request, late 2025", "3 to 4 times", 3.0, 4.0,
              "SELECT sumIf(mean_tokens * requests_measured, category = 'programming')"
              " / sumIf(requests_measured, category = 'programming')"
              " / (sum(mean_tokens * requests_measured) / sum(requests_measured))"
              f" FROM study_17_lengths_by_category({TAGGED}) WHERE {RECENT}"),
    Published(20, "programming, early 2025", "about 11 %", 0.09, 0.17,
              "SELECT sumIf(toFloat64(token_share), category = 'programming') / uniqExact(week)"
              " FROM study_20_categories(from_day = '2025-01-06', to_day = '2025-03-03', cell_min = 1)"),
    Published(20, "programming, recent weeks", "more than 50 %", 0.50, 0.60,
              "SELECT max(toFloat64(token_share)) FROM study_20_categories"
              "(from_day = '2025-10-06', to_day = '2025-12-01', cell_min = 1) WHERE category = 'programming'"),
    Published(21, "Anthropic in programming, spend, before 17 November", "more than 60 %", 0.60, 0.85,
              _of_weeks("21_programming_by_vendor", "vendor = 'anthropic'", "week < '2025-11-17'", TAGGED, "spend_share")),
    Published(21, "Anthropic in programming, spend, week of 17 November", "below 60 %", 0.40, 0.60,
              _of_weeks("21_programming_by_vendor", "vendor = 'anthropic'", "week = '2025-11-17'", TAGGED, "spend_share")),
    Published(21, "OpenAI in programming, July", "about 2 %", 0.01, 0.05,
              _of_weeks("21_programming_by_vendor", "vendor = 'openai'", "week >= '2025-06-30' AND week < '2025-08-04'", TAGGED, "spend_share")),
    Published(21, "OpenAI in programming, November", "about 8 %", 0.05, 0.11,
              _of_weeks("21_programming_by_vendor", "vendor = 'openai'", "week >= '2025-11-03'", TAGGED, "spend_share")),
    Published(21, "Google in programming", "about 15 %", 0.11, 0.19,
              _of_weeks("21_programming_by_vendor", "vendor = 'google'", "1", TAGGED)),
    _within("roleplay", "Games/Roleplaying Games", 59.0),
    _within("roleplay", "Writers Resources", 15.6),
    _within("roleplay", "Adult", 15.4),
    _within("programming", "Programming/Other", 67.5),
    _within("programming", "Development Tools", 26.4),
    _within("translation", "Foreign Language Resources", 51.1),
    _within("science", "Machine Learning & AI", 80.4),
    Published(22, "largest tag within health", "none above 25 %", 0.0, 0.25,
              f"SELECT max(token_share) FROM study_22_tags_within_categories({TAGGED}) WHERE category = 'health'"),
    Published(32, "assistants and productivity software within technology", "65 %", 0.62, 0.68,
              f"SELECT sum(token_share) FROM study_22_tags_within_categories({TAGGED}) WHERE category = 'technology'"
              " AND subcategory IN ('Intelligent Personal Assistants', 'Business & Productivity Software')", "chart"),
    Published(23, "Anthropic, programming and technology", "more than 80 %", 0.80, 1.0,
              _profile("anthropic", "'programming', 'technology'")),
    Published(23, "Google, programming, late", "about 18 %", 0.15, 0.21,
              _profile("google", "'programming'", _LATE)),
    Published(23, "Google, legal", "about 5 %", 0.03, 0.07, _profile("google", "'legal'"), "one"),
    Published(23, "Google, science", "about 10 %", 0.08, 0.13, _profile("google", "'science'"), "one"),
    Published(23, "xAI, programming until late November", "more than 80 %", 0.80, 1.0,
              _profile("xai", "'programming'", "week < '2025-11-24'")),
    Published(23, "OpenAI, science, May", "more than 50 %", 0.50, 0.65,
              _profile("openai", "'science'", "week < '2025-06-02'")),
    Published(23, "OpenAI, science, late", "less than 15 %", 0.0, 0.15,
              _profile("openai", "'science'", "week >= '2025-11-17'")),
    Published(23, "OpenAI, programming, late", "29 %", 0.25, 0.33,
              _profile("openai", "'programming'", "week >= '2025-11-03'")),
    Published(23, "OpenAI, technology, late", "29 %", 0.25, 0.33,
              _profile("openai", "'technology'", "week >= '2025-11-03'")),
    Published(23, "DeepSeek, roleplay and chat", "more than two thirds", 0.64, 0.80,
              _profile("deepseek", "'roleplay', 'trivia'")),
    Published(23, "Qwen, programming", "40 to 60 %", 0.40, 0.60, _profile("alibaba", "'programming'")),
    Published(24, "Asia, spend, start", "about 13 %", 0.11, 0.15,
              _of_weeks("24_spend_by_continent", "continent = 'Asia'", "week < '2024-12-02'", YEAR, "spend_share")),
    Published(24, "Asia, spend, end", "about 31 %", 0.29, 0.33,
              _of_weeks("24_spend_by_continent", "continent = 'Asia'", "week >= '2025-11-03'", YEAR, "spend_share")),
    Published(24, "Europe, spend, mean week", "low to middle twenties", 0.19, 0.26,
              _of_weeks("24_spend_by_continent", "continent = 'Europe'", "1", YEAR, "spend_share")),
    _continent("North America", 47.22, 2.0),
    _continent("Asia", 28.61, 1.5),
    _continent("Europe", 21.32, 1.0),
    _continent("South America", 1.21, 0.25),
    _continent("Oceania", 1.18, 0.25),
    _continent("Africa", 0.46, 0.25),
    *(_country(code, percent, within) for code, percent, within in (
        ("US", 47.17, 2.0), ("SG", 9.21, 0.7), ("DE", 7.51, 0.7), ("CN", 6.01, 0.7), ("KR", 2.88, 0.5),
        ("NL", 2.65, 0.5), ("GB", 2.52, 0.5), ("CA", 1.90, 0.5), ("JP", 1.77, 0.5), ("IN", 1.62, 0.5))),
    _language("en", "English", 82.87),
    _language("zh-Hans", "Simplified Chinese", 4.95),
    _language("ru", "Russian", 2.47),
    _language("es", "Spanish", 1.43),
    _language("th", "Thai", 1.03),
    Published(28, "Claude 4 Sonnet, cohort of May 2025, five months later", "about 40 %", 0.36, 0.44,
              _kept("anthropic/claude-sonnet-4", "2025-05", 5)),
    Published(28, "Claude 4 Sonnet, other cohorts, four months later", "far below", 0.05, 0.25,
              _others("anthropic/claude-sonnet-4", "2025-05", 4)),
    Published(28, "Gemini 2.5 Pro, cohort of June 2025, five months later", "about 40 %", 0.36, 0.44,
              _kept("google/gemini-2.5-pro", "2025-06", 5)),
    Published(28, "GPT-4o Mini, cohort of July 2024, five months later", "it stays", 0.30, 0.45,
              _kept("openai/gpt-4o-mini", "2024-07", 5)),
    Published(28, "GPT-4o Mini, other cohorts, five months later", "at the bottom", 0.02, 0.14,
              _others("openai/gpt-4o-mini", "2024-07", 5)),
    Published(28, "DeepSeek R1, cohort of April 2025, month 3 against month 2", "it jumps back", 1.3, 4.0,
              "SELECT sumIf(retention, months_later = 3) / sumIf(retention, months_later = 2)"
              f" FROM study_28_retention(model = 'deepseek/deepseek-r1', {LENGTHS}, exact = true)"
              " WHERE cohort = '2025-04-01'", "one"),
    Published(29, "median price of a category, USD per million tokens", "0.73", 0.55, 0.95,
              "SELECT any(median_usd_per_million_tokens)"
              f" FROM study_29_price_and_use_of_categories({TAGGED})"),
    Published(30, "elasticity of use by price", "-0.05 to -0.07", -0.075, -0.045,
              f"SELECT any(elasticity) FROM study_30_price_elasticity({YEAR}, cell_min = 5)"
              " WHERE origin = 'all'"),
    *(each for model in _EIGHT_MODELS for each in _segment(*model)),
)  # fmt: skip

CONTRADICTIONS = (
    "Countries and continents: the United States (47.17 %) and Canada (1.90 %) together are more than"
    " North America (47.22 %).",
    "Open models by origin: 13.0, 13.7 and 70 % sum to 96.7 %. The rest is taken for proprietary models"
    " from China.",
    "DeepSeek's V3 and R1 came out on 26 December 2024 and 20 January 2025, and Chinese open models had"
    " 1.2 % in late 2024: that they were more than half of the open models' tokens can hold in early 2025"
    " only.",
    "Roleplay is about 33 % of the tokens of Chinese open models, which are more than half of the open"
    " ones, and about 52 % of all open models': then it is about 80 % of the others', and Chinese models"
    " are a third of the open models' roleplay. By source, they are 8 to 15 % of all roleplay, others 22"
    " to 43 %.",
    "Closed models were 70 % of roleplay in May, while roleplay was half of the open models' tokens, a"
    " fifth of all: closed models would have had to use a third of their tokens for roleplay, which none"
    " of the authors' profiles shows.",
    "Programming was about 11 % in early 2025, and categories are said to begin in May 2025.",
    "Tokens a request grew from below 2 K in late 2023 to 5.4 K in late 2025, one rendering says within"
    " 20 months.",
    "Authors in programming: one rendering says that requests are meant, one that spend is. More than"
    " 60 % for one author can hold by spend.",
)
"""What the study, or its renderings, say against themselves: no data can have all of it."""
