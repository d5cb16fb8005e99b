"""Exercises of chapter 15: the roofline, the batch at which it turns, and four commissions."""

import math

from utils.exercises import Exercise, Mistake, Question, _commissions
from utils.exercises._commissions import Commission, Request


def _deployment(model: str, precision: str, hardware: str, split: str, batch: int) -> dict[str, str | int]:
    return {"model": model, "precision": precision, "hardware": hardware, "split": split, "batch": batch}


_ANSWER = """\
answer = {{
    "model": "{model}",
    "precision": "{precision}",
    "hardware": "{hardware}",
    "split": "{split}",
    "batch": {batch},
}}
"""


EXERCISES = (
    Exercise(
        id="15.1",
        level=1,
        minutes=6,
        hints=(
            "Two times: one for the arithmetic, one for reading. Both happen side by side.",
            "max(flops / peak, read / bandwidth)",
        ),
        solution="def least_time(flops, read, peak, bandwidth):\n"
        "    return max(flops / peak, read / bandwidth)\n\n\nanswer = least_time",
        after="The name comes from the shape: a slope where memory limits, a flat roof where arithmetic does.",
        mistakes=(
            Mistake(
                lambda flops, read, peak, bandwidth: flops / peak + read / bandwidth,
                "Reading and arithmetic can overlap, so the bound is the longer one, not the sum.",
            ),
            Mistake(
                lambda flops, read, peak, bandwidth: min(flops / peak, read / bandwidth),
                "The step cannot be faster than the slower of the two.",
            ),
            Mistake(lambda flops, read, peak, bandwidth: flops / peak, "The bytes must be read as well."),
        ),
        probes=((1e12, 1e9, 1e14, 1e12), (1e9, 1e10, 1e14, 1e12), (2e12, 2e10, 1e14, 1e12)),
    ),
    Exercise(
        id="15.2",
        level=2,
        minutes=8,
        hints=(
            "Set the two times equal: 2 P n / peak = 2 P / bandwidth. P cancels.",
            "n = peak / bandwidth, rounded up.",
        ),
        solution="import math\n\n\n"
        "def balanced_batch(peak, bandwidth):\n"
        "    return math.ceil(peak / bandwidth)\n\n\nanswer = balanced_batch",
        after="About 300 for an H100 in 16 bit. Below that, every further conversation is nearly free.",
        mistakes=(
            Mistake(
                lambda peak, bandwidth: math.ceil(2 * peak / bandwidth),
                "A weight takes 2 bytes to read and 2 FLOPs a token: the twos cancel.",
            ),
            Mistake(
                lambda peak, bandwidth: math.floor(peak / bandwidth),
                "Rounded down, memory is still the bound. Round up.",
            ),
            Mistake(
                lambda peak, bandwidth: math.floor(peak / bandwidth) + 1,
                "Where the division comes out even, the two times are equal, and that is enough: do not add one.",
            ),
            Mistake(lambda peak, bandwidth: bandwidth / peak, "The other way round: arithmetic grows with the batch."),
        ),
        probes=((989e12, 3.35e12), (312e12, 1.555e12), (10.5, 2.0), (12.0, 3.0), (15.0, 3.0)),
    ),
    Commission(
        id="15.3",
        level=2,
        minutes=10,
        hints=(
            "Is the model in catalog.models()? Then try the cheapest card: does plan(...) fit with a batch of 12?",
            "Plain multi-head attention is dear here. Which of the four models keep less cache for a conversation?",
            "Half of the weights' bytes make room on a small card: try precision int8 or float8.",
        ),
        solution=_ANSWER.format(
            **_deployment("DeepSeek-R1-Distill-Llama-8B", "int8", "1xRTX4090", "one card", 12),
        ),
        after="A name in an article is no model, and the cache of twelve conversations can outweigh the weights.",
        mistakes=(
            Mistake(_deployment("DeepSeek-13B", "int8", "1xRTX4090", "one card", 12), _commissions.PHANTOM),
            Mistake(_deployment("deepseek-llm-7b-base", "int8", "1xRTX4090", "one card", 12), _commissions.HEADS),
            Mistake(
                _deployment("DeepSeek-R1-Distill-Qwen-14B", "int8", "1xRTX4090", "one card", 12), _commissions.CACHE
            ),
            Mistake(_deployment("DeepSeek-V2-Lite", "bfloat16", "1xRTX4090", "one card", 12), _commissions.WEIGHTS),
            Mistake(_deployment("DeepSeek-V2-Lite", "int8", "1xRTX4090", "one card", 1), _commissions.QUEUE),
            Mistake(_deployment("deepseek-llm-7b-base", "bfloat16", "1xL40S", "one card", 12), _commissions.STEP),
            Mistake(_deployment("DeepSeek-V2-Lite", "int8", "1xA100-80GB", "one card", 12), _commissions.DEAR),
        ),
        request=Request(
            models=(
                *("deepseek-llm-7b-base", "DeepSeek-V2-Lite"),
                *("DeepSeek-R1-Distill-Llama-8B", "DeepSeek-R1-Distill-Qwen-14B"),
            ),
            precisions=("bfloat16", "float8", "int8"),
            cards={"RTX4090": 0.5, "L40S": 1.0, "A100-80GB": 1.8},
            counts=(1, 2, 4),
            context=4096,
            answer=512,
            first_token=1,
            each_token=0.04,
            budget=1.2,
            users=12,
        ),
    ),
    Commission(
        id="15.4",
        level=2,
        minutes=15,
        hints=(
            "Nobody waits, so the batch is free: raise it until the answers are enough or the cache has no room.",
            "What does bitsandbytes do to the experts of V2-Lite? Chapter 06 has weighed them. bfloat16 is on the safe "
            "side.",
            "Answers in an hour: 3600 * batch / (prefill_seconds + 256 * step_seconds), from a plan with answer=256.",
        ),
        solution=_ANSWER.format(**_deployment("DeepSeek-V2-Lite", "bfloat16", "2xRTX4090", "data 2", 32)),
        after="bitsandbytes saves next to nothing of a mixture. The batch makes the speed, until it eats the memory.",
        mistakes=(
            Mistake(_deployment("DeepSeek-V2-Lite", "int8", "1xRTX4090", "one card", 8), _commissions.FUSED),
            Mistake(_deployment("DeepSeek-V2-Lite", "bfloat16", "2xRTX4090", "pipeline 2", 128), _commissions.BATCH),
            Mistake(_deployment("DeepSeek-V2-Lite", "bfloat16", "2xRTX4090", "tensor 2", 64), _commissions.LATENT),
            Mistake(_deployment("DeepSeek-V2-Lite", "bfloat16", "1xL40S", "one card", 4), _commissions.THROUGHPUT),
            Mistake(_deployment("DeepSeek-R1-Distill-Qwen-32B", "int8", "1xL40S", "one card", 4), _commissions.PROMPTS),
            Mistake(_deployment("DeepSeek-V2-Lite", "bfloat16", "2xA100-80GB", "data 2", 32), _commissions.DEAR),
        ),
        request=Request(
            models=("DeepSeek-V2-Lite", "DeepSeek-R1-Distill-Qwen-14B", "DeepSeek-R1-Distill-Qwen-32B"),
            precisions=("bfloat16", "int8"),
            cards={"RTX4090": 0.5, "L40S": 1.0, "A100-80GB": 1.8},
            counts=(1, 2, 4),
            context=6144,
            answer=256,
            first_token=30,
            each_token=0.2,
            budget=2.0,
            per_hour=9000,
            bitsandbytes=True,
        ),
    ),
    Commission(
        id="15.5",
        level=3,
        minutes=20,
        hints=(
            "Weights and cache first: which cards, and how many, hold both? Then the splits, one by one.",
            "A tensor split keeps the whole latent on each card; in a data split, one group reads a long prompt alone. "
            "What is left?",
            "A pipeline cuts weights, cache and the reading of a prompt. Every step passes all its stages, so watch "
            "step_seconds.",
        ),
        solution=_ANSWER.format(**_deployment("DeepSeek-V3.1", "published", "8xH200", "pipeline 8", 40)),
        after="Three splits, three prices: tensor copies the latent, data leaves a prompt to one group, and a pipeline "
        "passes its stages one by one.",
        mistakes=(
            Mistake(_deployment("DeepSeek-V3.1", "published", "8xH200", "tensor 8", 40), _commissions.LATENT),
            Mistake(_deployment("DeepSeek-V3.1", "published", "8xH200", "data 8", 40), _commissions.GROUPS),
            Mistake(_deployment("DeepSeek-V3.1", "float8", "16xH20", "pipeline 16", 40), _commissions.PREFILL),
            Mistake(_deployment("DeepSeek-V3.2", "published", "8xH100", "pipeline 8", 40), _commissions.WEIGHTS),
            Mistake(_deployment("DeepSeek-V3.2", "published", "8xB200", "data 8", 40), _commissions.DEAR),
        ),
        request=Request(
            models=("DeepSeek-V3.1", "DeepSeek-R1-0528", "DeepSeek-V3.2"),
            precisions=("published", "float8", "bfloat16"),
            cards={"H20": 1.6, "H100": 2.5, "H200": 3.5, "B200": 6.0},
            counts=(8, 16),
            context=65_536,
            answer=2048,
            first_token=5,
            each_token=0.05,
            budget=42.0,
            users=40,
        ),
    ),
    Commission(
        id="15.6",
        level=3,
        minutes=12,
        hints=(
            "How far does each model read? Then: how much cache does a conversation keep (plan(...).cache / batch)?",
            "The entry of V4 serves all heads, as MLA's latent does. Which split cuts it?",
            "A prompt of a million tokens is arithmetic. Which cards have it, and which split shares one prompt?",
        ),
        solution=_ANSWER.format(**_deployment("DeepSeek-V4-Flash", "published", "4xH100", "pipeline 4", 16)),
        after="A million tokens of V4-Flash, the model of the cheapest answer, are 7 GB in 16 bits; V3's kind of cache "
        "would take ten times that. What is left to pay for is the reading.",
        mistakes=(
            Mistake(_deployment("DeepSeek-V3.2", "published", "8xB200", "pipeline 8", 16), _commissions.REACH),
            Mistake(_deployment("DeepSeek-V4-Flash", "published", "4xH200", "tensor 4", 16), _commissions.LATENT),
            Mistake(_deployment("DeepSeek-V4-Flash", "published", "8xH100", "data 8", 16), _commissions.GROUPS),
            Mistake(_deployment("DeepSeek-V4-Flash", "published", "8xH20", "pipeline 8", 16), _commissions.PREFILL),
            Mistake(_deployment("DeepSeek-V4-Pro", "published", "8xH100", "pipeline 8", 16), _commissions.WEIGHTS),
            Mistake(_deployment("DeepSeek-V4-Flash", "published", "8xB200", "pipeline 8", 16), _commissions.DEAR),
        ),
        request=Request(
            models=("DeepSeek-V3.2", "DeepSeek-V4-Flash", "DeepSeek-V4-Pro"),
            precisions=("published", "float8", "bfloat16"),
            cards={"H20": 1.6, "H100": 2.5, "H200": 3.5, "B200": 6.0},
            counts=(4, 8, 16),
            context=1_000_000,
            answer=2000,
            first_token=20,
            each_token=0.03,
            budget=30.0,
            users=16,
        ),
    ),
)

QUIZ = (
    Question(
        text="In a plan for DeepSeek-V3, you double the number of conversations. What doubles?",
        options=(
            (
                "Weights, cache and activations",
                "The weights serve all conversations. Section 1's figure shows them level while the batch grows.",
            ),
            (
                "Cache and activations alike",
                "Prompts are read in pieces of 4,096 tokens, however many wait. Only the small part for the "
                "logits grows.",
            ),
            (
                "The cache, and little else",
                "Each conversation brings its own cache. Weights are shared, and activations hardly grow.",
            ),
        ),
        right="c",
    ),
    Question(
        text="V3 runs tensor-parallel on 8 cards. You double the cards and keep the conversations. How much "
        "cache does each card hold?",
        options=(
            (
                "Half as much, as twice as many share it",
                "That holds for separate key and value heads. MLA's latent belongs to all heads and cannot be "
                "cut by them.",
            ),
            (
                "As much as before, as each keeps all of it",
                "A tensor split cuts heads, and every head needs the whole latent. Section 4 shows the fullest card.",
            ),
            (
                "Twice as much, as twice as many tokens run",
                "The conversations are the same, so the cache has the same size. It is only kept more often.",
            ),
        ),
        right="b",
    ),
    Question(
        text="One person waits for V3's answer. You take cards with twice the arithmetic and the same "
        "bandwidth. How much faster can it write?",
        options=(
            (
                "Not at all: reading the bytes sets the bound",
                "One token uses each weight once, so the time goes into reading. More arithmetic helps prefill.",
            ),
            (
                "Twice as fast, as the work is done in half the time",
                "The bound is the larger of two times. The arithmetic was the smaller one already.",
            ),
            (
                "By half, as one of the two times is halved",
                "The times do not add up here: the roofline takes the larger one, and this one stays.",
            ),
        ),
        right="a",
    ),
    Question(
        text="Why does a batch of 32 help a mixture of experts less than a dense model?",
        options=(
            (
                "Its router takes longer for more tokens",
                "The router is tiny, and the planner's bound counts bytes and FLOPs. The bytes of experts are "
                "what grows.",
            ),
            (
                "Its tokens choose experts that must be read too",
                "A dense model reads the same weights for all 32. In a mixture, they touch many more experts "
                "than one token does.",
            ),
            (
                "Its cache grows faster with each conversation",
                "V3's latent cache is smaller than that of the 67B. The difference lies in the weights that are read.",
            ),
        ),
        right="b",
    ),
)
