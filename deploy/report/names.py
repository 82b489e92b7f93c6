"""What readers call the values of columns: CN is China. The numbers beside a figure keep the codes."""

from collections.abc import Sequence

from babel import Locale

from deploy.report.periods import Row, Rows

ENGLISH = Locale("en")
ORIGINS = {
    "proprietary": "proprietary models",
    "chinese_open": "Chinese open models",
    "other_open": "other open models",
}
# Makers whose name is more than the identifier: as they write it themselves.
VENDORS = {
    "01-ai": "01.AI",
    "agentica": "Agentica",
    "ai21": "AI21 Labs",
    "aion-labs": "AionLabs",
    "alibaba": "Alibaba",
    "all-hands-ai": "All Hands AI",
    "allenai": "Ai2",
    "amazon": "Amazon",
    "ant-group": "Ant Group",
    "anthropic": "Anthropic",
    "arcee-ai": "Arcee AI",
    "arliai": "Arli AI",
    "baidu": "Baidu",
    "bigcode": "BigCode",
    "bytedance": "ByteDance",
    "cognitivecomputations": "Cognitive Computations",
    "cohere": "Cohere",
    "databricks": "Databricks",
    "deepcogito": "Deep Cogito",
    "deepseek": "DeepSeek",
    "dots-studio": "Dots Studio",
    "eleutherai": "EleutherAI",
    "essentialai": "Essential AI",
    "featherless-ai": "Featherless AI",
    "fireworks-ai": "Fireworks AI",
    "google": "Google",
    "huggingface": "Hugging Face",
    "ibm": "IBM",
    "inception-labs": "Inception Labs",
    "infermatic": "Infermatic",
    "inflection-ai": "Inflection AI",
    "intel": "Intel",
    "koboldai": "KoboldAI",
    "kuaishou": "Kuaishou",
    "latitude": "Latitude",
    "liquid-ai": "Liquid AI",
    "mancer": "Mancer",
    "meituan": "Meituan",
    "meta": "Meta",
    "microsoft": "Microsoft",
    "minimax": "MiniMax",
    "mistral": "Mistral AI",
    "moonshot-ai": "Moonshot AI",
    "morph": "Morph",
    "neversleep": "NeverSleep",
    "nex-agi": "Nex AGI",
    "nous-research": "Nous Research",
    "nvidia": "NVIDIA",
    "open-orca": "OpenOrca",
    "openai": "OpenAI",
    "openchat": "OpenChat",
    "openrouter-stealth": "undisclosed vendors",
    "perceptron": "Perceptron AI",
    "perplexity": "Perplexity",
    "phind": "Phind",
    "poolside": "Poolside",
    "prime-intellect": "Prime Intellect",
    "pygmalionai": "PygmalionAI",
    "recursal": "Recursal AI",
    "reka-ai": "Reka AI",
    "relace": "Relace",
    "rwkv": "RWKV",
    "sakana-ai": "Sakana AI",
    "sarvam-ai": "Sarvam AI",
    "scb10x": "SCB 10X",
    "sentient": "Sentient",
    "shanghai-ai-lab": "Shanghai AI Laboratory",
    "shisa-ai": "Shisa.AI",
    "snowflake": "Snowflake",
    "stepfun": "StepFun",
    "tencent": "Tencent",
    "thinking-machines": "Thinking Machines Lab",
    "tng": "TNG",
    "together-ai": "Together AI",
    "tokyotech": "Institute of Science Tokyo",
    "typesafe": "TypeSafe",
    "upstage": "Upstage",
    "writer": "Writer",
    "xai": "xAI",
    "xiaomi": "Xiaomi",
    "z-ai": "Z.ai",
}


def named(column: str, value: str) -> str:
    """Return a value as a reader knows it; one without another name as it is.

    Args:
        column: vendor, origin, country (ISO 3166 alpha-2) or language (BCP 47) have names.

    Source:
        Unicode CLDR by way of Babel, for countries and languages.
    """
    if column == "country":
        return str(ENGLISH.territories.get(value, value))
    if column == "language":
        return _language(value)
    return {"origin": ORIGINS, "vendor": VENDORS}.get(column, {}).get(value, value)


def _language(tag: str) -> str:
    whole = ENGLISH.languages.get(tag.replace("-", "_"))
    base, _, rest = tag.partition("-")
    return str(whole or (f"{named('language', base)} ({rest})" if rest else tag))


def shown(rows: Sequence[Row], value_is: object = "") -> Rows:
    """Return rows in which values have their names.

    Args:
        value_is: The column that ``value`` stands for, in views by a column of choice.
    """
    return [
        {
            key: named(str(value_is) if key == "value" else key, value)
            if isinstance(value, str)
            else value
            for key, value in row.items()
        }
        for row in rows
    ]
