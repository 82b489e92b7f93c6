"""What the study's market is made of: models, what they are used for, lengths, places.

Numbers of the study itself are in ``deploy/report/published.py``; the ones here are chosen so that
those come out (`market.py` does the fitting), and mean nothing beyond that. A line over time is a
list of (week, value) from the week of 4 November 2024, with straight lines between.

Source of the study: "State of AI: An Empirical 100 Trillion Token Study with OpenRouter", a16z and
OpenRouter, December 2025.
"""

from datetime import date
from typing import NamedTuple

Line = tuple[tuple[float, float], ...]

FIRST_WEEK = date(2024, 11, 4)
LEAD_IN_WEEKS = 49
"""Before the first week, from late 2023: for the charts of lengths, which begin earlier."""
STUDY_WEEKS = 56
"""Up to 30 November 2025."""

REQUESTS: Line = ((-49, 0.05), (-20, 0.25), (0, 1.0), (20, 2.0), (40, 3.6), (55, 4.6))
"""Requests a week, relative."""

# Shares of all tokens by origin. The rest is proprietary, of which a part is Chinese.
CHINESE_OPEN: Line = (
    (-49, 0.005), (0, 0.012), (7, 0.025), (11, 0.11), (13, 0.185), (18, 0.15), (22, 0.09), (34, 0.09),
    (36, 0.20), (37, 0.26), (38, 0.285), (40, 0.25), (44, 0.205), (49, 0.19), (55, 0.20),
)  # fmt: skip
OTHER_OPEN: Line = (
    (-49, 0.32), (0, 0.31), (8, 0.27), (12, 0.11), (18, 0.105), (30, 0.105), (38, 0.085), (40, 0.11),
    (46, 0.10), (55, 0.105),
)  # fmt: skip
CHINESE_PROPRIETARY = 0.033

# Of open tokens by size class; the rest is large.
SMALL: Line = ((-49, 0.42), (0, 0.38), (12, 0.17), (25, 0.15), (40, 0.13), (50, 0.12), (55, 0.12))
MEDIUM: Line = ((-49, 0.14), (0, 0.16), (12, 0.13), (25, 0.20), (40, 0.25), (49, 0.38), (55, 0.38))


class Entry(NamedTuple):
    """A model.

    Attributes:
        start: Week of its release.
        weight: Of its author's tokens, relative, while it is young.
        half_life: Weeks until it is used half as much.
        profile: A key of `PROFILES`.
        usd: Paid per million tokens.
        tools: How much it is used with tools, relative.
    """

    model: str
    start: float
    weight: float
    half_life: float
    profile: str
    usd: float
    tools: float = 1.0


CHINESE = (
    Entry("deepseek/deepseek-chat", 7.4, 7.0, 12, "deepseek", 0.42),
    Entry("deepseek/deepseek-r1", 11.0, 11.0, 14, "deepseek", 1.05),
    Entry("deepseek/deepseek-chat-v3-0324", 20.0, 5.0, 16, "deepseek", 0.394),
    Entry("deepseek/deepseek-r1-0528", 29.3, 3.0, 14, "deepseek", 0.95),
    Entry("deepseek/deepseek-chat-v3.1", 41.4, 3.0, 10, "deepseek", 0.48, 1.5),
    Entry("deepseek/deepseek-v3.2-exp", 47.0, 2.5, 12, "deepseek", 0.31, 1.5),
    Entry("deepseek/deepseek-r1-distill-llama-70b", 11.4, 0.3, 14, "deepseek", 0.55),
    Entry("qwen/qwen-2.5-72b-instruct", -6.6, 1.0, 14, "qwen", 0.36),
    Entry("qwen/qwen-2.5-coder-32b-instruct", 1.1, 2.0, 18, "qwen", 0.16),
    Entry("qwen/qwq-32b", 17.4, 1.2, 12, "qwen", 0.21),
    Entry("qwen/qwen3-235b-a22b", 25.1, 1.5, 12, "qwen", 0.33),
    Entry("qwen/qwen3-30b-a3b", 25.1, 2.0, 26, "qwen", 0.14),
    Entry("qwen/qwen3-32b", 25.1, 1.5, 26, "qwen", 0.13),
    Entry("qwen/qwen3-14b", 25.1, 0.8, 26, "qwen", 0.09),
    Entry("qwen/qwen3-8b", 25.1, 0.5, 26, "qwen", 0.06),
    Entry("qwen/qwen-2.5-7b-instruct", -6.6, 0.6, 30, "qwen", 0.07),
    Entry("qwen/qwen-2-7b-instruct", -20, 0.01, 40, "qwen", 0.052),
    Entry("qwen/qwen3-235b-a22b-2507", 37.0, 1.6, 20, "qwen", 0.21, 1.5),
    Entry("qwen/qwen3-coder", 37.1, 3.0, 14, "coder", 0.47, 2.0),
    Entry("z-ai/glm-4.5", 38.0, 1.0, 10, "coder", 0.69, 3.0),
    Entry("z-ai/glm-4.5-air", 38.0, 1.2, 14, "coder", 0.23, 3.0),
    Entry("z-ai/glm-4.6", 47.1, 2.0, 14, "coder", 0.62, 3.0),
    Entry("moonshotai/kimi-k2", 35.7, 2.2, 8, "coder", 0.56, 2.0),
    Entry("moonshotai/kimi-k2-0905", 43.4, 1.4, 10, "coder", 0.61, 2.0),
    Entry("moonshotai/kimi-k2-thinking", 52.4, 1.0, 10, "coder", 0.72, 2.0),
    Entry("minimax/minimax-01", 10.3, 0.15, 12, "chat", 0.28),
    Entry("minimax/minimax-m1", 32.0, 0.2, 10, "coder", 0.62),
    Entry("minimax/minimax-m2", 51.1, 3.0, 10, "coder", 0.32, 3.0),
)
OTHER = (
    Entry("meta-llama/llama-3.1-8b-instruct", -15, 2.0, 26, "chat", 0.04),
    Entry("meta-llama/llama-3.1-70b-instruct", -15, 2.0, 14, "chat", 0.3),
    Entry("meta-llama/llama-3.1-405b-instruct", -15, 0.4, 14, "chat", 1.4),
    Entry("meta-llama/llama-3.3-70b-instruct", 4.6, 3.0, 22, "chat", 0.16),
    Entry("meta-llama/llama-4-maverick", 21.7, 1.2, 14, "chat", 0.24),
    Entry("meta-llama/llama-4-scout", 21.7, 0.5, 14, "chat", 0.15),
    Entry("meta-llama/llama-3.2-3b-instruct", -6, 0.3, 26, "chat", 0.03),
    Entry("meta-llama/llama-3-8b-instruct", -29, 1.2, 14, "chat", 0.06),
    Entry("mistralai/mistral-nemo", -16, 2.0, 24, "story", 0.03),
    Entry("mistralai/mistral-7b-instruct", -49, 1.2, 14, "chat", 0.06),
    Entry("mistralai/mixtral-8x7b-instruct", -47, 1.5, 14, "story", 0.28),
    Entry("mistralai/mistral-small-24b-instruct-2501", 12.4, 1.8, 14, "chat", 0.08),
    Entry("mistralai/mistral-small-3.1-24b-instruct", 19, 1.8, 16, "chat", 0.1),
    Entry("mistralai/mistral-small-3.2-24b-instruct", 32.6, 2.4, 24, "story", 0.11),
    Entry("mistralai/devstral-small", 35.4, 0.6, 16, "coder", 0.13, 2.0),
    Entry("mistralai/mistral-large-2411", 2.1, 0.5, 14, "story", 2.6),
    Entry("openai/gpt-oss-120b", 39.1, 2.0, 26, "gpt-oss", 0.09, 2.0),
    Entry("openai/gpt-oss-20b", 39.1, 1.6, 26, "gpt-oss", 0.05, 1.5),
    Entry("tngtech/deepseek-r1t-chimera", 24.9, 1.0, 14, "story", 0.24),
    Entry("tngtech/deepseek-r1t2-chimera", 35.1, 2.0, 20, "story", 0.31),
    Entry("google/gemma-2-9b-it", -19, 1.0, 16, "chat", 0.04),
    Entry("google/gemma-3-27b-it", 18.3, 2.0, 20, "chat", 0.11),
    Entry("google/gemma-3-4b-it", 18.4, 0.4, 20, "chat", 0.04),
    Entry("nousresearch/hermes-3-llama-3.1-405b", -11, 0.6, 26, "story", 0.9),
    Entry("nousresearch/hermes-3-llama-3.1-70b", -11, 0.5, 26, "story", 0.35),
    Entry("microsoft/wizardlm-2-8x22b", -29, 0.8, 26, "story", 0.48),
    Entry("microsoft/phi-4", 5.4, 0.3, 26, "chat", 0.08),
    Entry("cohere/command-r", -34, 0.4, 26, "story", 0.3),
    Entry("nvidia/llama-3.1-nemotron-70b-instruct", -3, 0.4, 20, "chat", 0.3),
    Entry("nvidia/nemotron-nano-9b-v2", 43.6, 0.6, 20, "gpt-oss", 0.06),
    Entry("perplexity/r1-1776", 15.3, 2.0, 40, "chat", 1.2),
    Entry("databricks/dbrx-instruct", -31, 2.0, 40, "story", 0.7),
    Entry("ai21/jamba-1-5-mini", -10, 0.6, 26, "chat", 0.2),
    Entry("all-hands/openhands-lm-32b-v0.1", 21.2, 0.4, 26, "coder", 0.3, 2.0),
    Entry("ibm-granite/granite-4.0-h-micro", 47.6, 0.01, 30, "chat", 0.036),
)
PROPRIETARY = (
    Entry("openai/gpt-4o-mini", -16, 7.0, 40, "openai", 0.19, 4.0),
    Entry("openai/gpt-4o", -25, 3.0, 20, "openai", 3.1),
    Entry("openai/gpt-4.1", 23, 4.0, 30, "openai", 2.0, 1.5),
    Entry("openai/gpt-4.1-mini", 23, 6.0, 40, "openai", 0.42, 1.5),
    Entry("openai/gpt-5", 39.4, 3.5, 20, "openai", 2.2, 1.5),
    Entry("openai/gpt-5-mini", 39.4, 2.5, 24, "openai", 0.36, 1.5),
    Entry("openai/o3-mini", 12.4, 0.8, 12, "openai", 1.5),
    Entry("openai/gpt-4", -49, 0.01, 40, "openai", 34.068),
    Entry("openai/gpt-5-pro", 48, 0.01, 20, "openai", 34.965),
    Entry("anthropic/claude-3.5-sonnet", -2, 9.0, 12, "anthropic", 2.9, 4.0),
    Entry("anthropic/claude-3.7-sonnet", 16.0, 12.0, 12, "anthropic", 1.963, 4.0),
    Entry("anthropic/claude-sonnet-4", 28.5, 13.0, 16, "anthropic", 1.937, 2.0),
    Entry("anthropic/claude-sonnet-4.5", 47.0, 25.0, 20, "anthropic", 2.05, 4.0),
    Entry("anthropic/claude-opus-4", 28.5, 0.7, 30, "anthropic", 9.6, 2.0),
    Entry("anthropic/claude-haiku-4.5", 49.3, 2.0, 20, "anthropic", 0.93, 2.0),
    Entry("anthropic/claude-3-haiku", -35, 1.2, 20, "chat", 0.32),
    Entry("anthropic/claude-3-opus", -35, 0.5, 14, "chat", 18.2),
    Entry("google/gemini-flash-1.5", -26, 5.0, 16, "google", 0.09),
    Entry("google/gemini-2.0-flash-001", 13.1, 8.0, 18, "google", 0.147),
    Entry("google/gemini-2.5-pro", 32.1, 8.0, 40, "google", 2.0, 1.0),
    Entry("google/gemini-2.5-flash", 32.1, 8.0, 30, "google", 0.38),
    Entry("google/gemini-2.5-flash-lite", 32.1, 2.0, 30, "google", 0.11),
    Entry("x-ai/grok-2", -12, 0.6, 14, "chat", 2.4),
    Entry("x-ai/grok-3", 15, 1.0, 16, "xai", 3.4),
    Entry("x-ai/grok-3-mini", 31, 0.8, 16, "xai", 0.32),
    Entry("x-ai/grok-4", 35.2, 2.4, 16, "xai", 2.0),
    Entry("x-ai/grok-code-fast-1", 42.1, 24.0, 16, "xai", 0.05, 3.0),
    Entry("x-ai/grok-4-fast", 45.6, 5.0, 12, "xai", 0.12),
    Entry("amazon/nova-lite-v1", 4.4, 0.3, 30, "chat", 0.09),
    Entry("mistralai/mistral-medium-3", 26.2, 0.5, 30, "chat", 0.55),
)
CHINESE_CLOSED = (
    Entry("qwen/qwen-max", 12.8, 1.0, 30, "qwen", 1.7),
    Entry("qwen/qwen-plus", -40, 1.5, 60, "qwen", 0.36),
    Entry("qwen/qwen3-max", 46.1, 1.0, 30, "qwen", 1.5),
)

# What tagged tokens are for, by profile, from May 2025 on (week 26) to the end.
CATEGORIES = (
    "programming", "roleplay", "technology", "science", "trivia", "translation", "academia",
    "legal", "finance", "health", "marketing", "marketing/seo",
)  # fmt: skip
PROFILES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "anthropic": ((.80, .05, .07, .02, .01, .01, .01, .01, .01, .005, .003, .002),
                  (.82, .04, .07, .015, .01, .01, .01, .01, .005, .005, .003, .002)),
    "google": ((.26, .20, .12, .11, .08, .10, .03, .05, .02, .015, .01, .005),
               (.18, .24, .13, .10, .09, .11, .04, .05, .03, .015, .01, .005)),
    "xai": ((.86, .03, .04, .01, .01, .01, .01, .01, .01, .005, .003, .002),
            (.84, .04, .05, .01, .01, .01, .01, .01, .01, .005, .003, .002)),
    "openai": ((.10, .06, .14, .57, .03, .02, .02, .01, .02, .01, .01, .01),
               (.29, .13, .29, .11, .04, .03, .03, .02, .03, .015, .01, .005)),
    "deepseek": ((.07, .60, .08, .04, .13, .04, .01, .01, .01, .01, .01, .01),
                 (.15, .46, .08, .04, .22, .02, .01, .01, .01, .01, .01, .01)),
    "qwen": ((.50, .06, .16, .07, .05, .08, .02, .02, .01, .01, .01, .01),
             (.48, .10, .16, .06, .04, .08, .02, .02, .01, .01, .01, .01)),
    "coder": ((.62, .06, .20, .03, .02, .03, .01, .01, .01, .003, .004, .003),
              (.68, .05, .18, .03, .02, .02, .01, .01, .01, .003, .004, .003)),
    "gpt-oss": ((.26, .38, .16, .10, .03, .02, .01, .01, .01, .007, .008, .005),
                (.28, .38, .16, .08, .03, .02, .01, .01, .01, .007, .008, .005)),
    "chat": ((.02, .86, .02, .02, .02, .03, .01, .005, .005, .003, .004, .003),
             (.02, .90, .02, .01, .01, .02, .01, .003, .002, .002, .002, .001)),
    "story": ((.01, .86, .02, .02, .03, .02, .01, .01, .01, .003, .004, .003),
              (.01, .92, .01, .01, .01, .01, .01, .01, .004, .003, .002, .001)),
}  # fmt: skip
XAI_LAST_WEEK = (0.55, 0.13, 0.14, 0.02, 0.03, 0.02, 0.07, 0.01, 0.01, 0.01, 0.005, 0.005)
"""Free distribution in consumer apps, from late November."""
DIP_WEEK, DIP_PROFILE, DIP = 54, "anthropic", 0.33
"""From the week of 17 November on: part of its usual price that this author has."""
PROGRAMMING_BEFORE: Line = ((-49, 0.12), (8, 0.22), (14, 0.34), (26, 1.0))
"""Part of its later share that programming had before May 2025; the other categories fill up."""

# Mean prompt tokens of a request; programming and all the others.
PROMPT_PROGRAMMING: Line = (
    (-49, 4_500),
    (-10, 7_000),
    (0, 9_000),
    (20, 15_000),
    (30, 20_500),
    (55, 21_500),
)
PROMPT_OTHER: Line = ((-49, 1_450), (-20, 1_700), (0, 2_000), (30, 3_300), (55, 3_800))
COMPLETION: Line = ((-49, 145), (-10, 165), (0, 185), (20, 260), (40, 350), (55, 400))
COMPLETION_REASONING = 1.1
"""How much longer completions of models that reason are."""

# Tokens whose request ended in a tool call.
TOOL_CALLS: Line = ((-49, 0.02), (0, 0.05), (20, 0.07), (40, 0.115), (55, 0.15))
SPIKE_WEEK, SPIKE_SHARE, SPIKE_MODEL = 27, 0.10, "openai/gpt-4o-mini"
"""One account, in May 2025: a share of all tokens of its week, all of them with tools."""

# Where callers are: Asia grows, Europe shrinks a little, America is the rest.
ASIA: Line = ((-49, 0.10), (0, 0.13), (14, 0.22), (28, 0.285), (40, 0.30), (55, 0.315))
EUROPE: Line = ((-49, 0.24), (0, 0.24), (20, 0.215), (55, 0.205))
ELSEWHERE = {"BR": 0.0075, "AR": 0.0046, "AU": 0.0093, "NZ": 0.0025, "ZA": 0.0030, "NG": 0.0016}
WITHIN_ASIA = {"SG": 0.324, "CN": 0.212, "KR": 0.101, "JP": 0.062, "IN": 0.057, "TH": 0.05, "VN": 0.05,
               "ID": 0.05, "TR": 0.04, "AE": 0.03, "PH": 0.024}  # fmt: skip
WITHIN_EUROPE = {"DE": 0.353, "NL": 0.125, "GB": 0.118, "FR": 0.1, "PL": 0.09, "ES": 0.07, "IT": 0.06,
                 "SE": 0.044, "FI": 0.04}  # fmt: skip
WITHIN_AMERICA = {"US": 0.9615, "CA": 0.0385}
LANGUAGES = {"en": 0.8287, "zh-Hans": 0.0495, "ru": 0.0247, "es": 0.0143, "th": 0.0103, "de": 0.016,
             "ja": 0.014, "ko": 0.013, "fr": 0.012, "pt": 0.010, "it": 0.0075}  # fmt: skip

# Tags within a category, of its tokens.
SUBCATEGORIES = {
    "roleplay": {"Games/Roleplaying Games": 0.59, "Writers Resources": 0.156, "Adult": 0.154,
                 "Online Communities": 0.10},
    "programming": {"Programming/Other": 0.675, "Development Tools": 0.264, "Scripting Languages": 0.03,
                    "C & C++": 0.02, "Java": 0.011},
    "translation": {"Foreign Language Resources": 0.511, "Translation Tools": 0.489},
    "science": {"Machine Learning & AI": 0.804, "Physics": 0.07, "Mathematics": 0.066, "Biology": 0.06},
    "technology": {"Intelligent Personal Assistants": 0.35, "Business & Productivity Software": 0.30,
                   "Technical Support": 0.2, "Consumer Electronics": 0.15},
    "health": {"Public Health": 0.22, "Counseling Services": 0.22, "Medical Literature": 0.2,
               "Nutrition": 0.18, "Conditions": 0.18},
}  # fmt: skip

# How dear a category is within its model, before the model's own price is put right.
DEARNESS = {"programming": 0.5, "roleplay": 0.6, "technology": 2.2, "science": 0.8, "trivia": 0.6,
            "translation": 0.6, "academia": 1.7, "legal": 0.55, "finance": 1.9, "health": 1.8,
            "marketing": 1.7, "marketing/seo": 0.7}  # fmt: skip

SAMPLED = 0.01
"""Requests that carry a category: four times the study's 0.25 %, because they are fewer here."""


class Cohorts(NamedTuple):
    """How users of a model come back.

    Attributes:
        usual: Part of a cohort that is active 1, 2, ... months later; the last one goes on.
        special: The same for cohorts of one month.
    """

    usual: tuple[float, ...]
    special: dict[str, tuple[float, ...]]


LOW = (0.16, 0.12, 0.10, 0.09, 0.08, 0.07)
COHORTS = {
    "anthropic/claude-sonnet-4": Cohorts((0.30, 0.22, 0.17, 0.15, 0.13), {"2025-05": (0.62, 0.53, 0.47, 0.43, 0.40, 0.39)}),
    "google/gemini-2.5-pro": Cohorts((0.28, 0.21, 0.17, 0.14, 0.12), {"2025-06": (0.60, 0.52, 0.46, 0.42, 0.40)}),
    "google/gemini-2.5-flash": Cohorts((0.30, 0.24, 0.21, 0.19, 0.18), {}),
    "openai/gpt-4o-mini": Cohorts(LOW, {"2024-07": (0.45, 0.40, 0.38, 0.36, 0.35, 0.34, 0.33)}),
    "meta-llama/llama-4-maverick": Cohorts((0.15, 0.11, 0.09, 0.08), {}),
    "google/gemini-2.0-flash-001": Cohorts((0.16, 0.12, 0.10, 0.09), {}),
    "deepseek/deepseek-r1": Cohorts((0.25, 0.18, 0.14, 0.12, 0.10), {"2025-04": (0.22, 0.15, 0.31, 0.22, 0.17)}),
    "deepseek/deepseek-chat-v3-0324": Cohorts((0.26, 0.20, 0.16, 0.13, 0.11), {"2025-07": (0.21, 0.33, 0.22, 0.16)}),
}  # fmt: skip
USUAL = Cohorts((0.24, 0.18, 0.15, 0.13, 0.12), {})
