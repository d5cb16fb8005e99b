"""Exercises of chapter 15: three deployments, the roofline, and the batch at which it turns."""

import math

from utils.exercises import Exercise, Mistake, Question

_LARGEST = """\
from utils.planner import plan

batch = 1
while plan({model!r}, {hardware!r}, {precision!r}, context={context}, batch=batch + 1).fits:
    batch += 1
answer = batch
"""

EXERCISES = (
    Exercise(
        id="15.1",
        level=1,
        minutes=6,
        hints=(
            "Raise the batch until plan(...).fits turns false.",
            'plan("deepseek-llm-7b-base", "RTX4090", batch=2).fits is a start.',
        ),
        solution=_LARGEST.format(model="deepseek-llm-7b-base", hardware="RTX4090", precision="bfloat16", context=4096),
        after="Plain multi-head attention: each conversation of 4,096 tokens costs 2 GB of cache.",
        mistakes=(
            Mistake(1, "One fits, and there is still room for more."),
            Mistake(5, "That is the first batch that does not fit, or a sum without the reserve and the activations."),
            Mistake(24, "That is the card's memory in GB. How many conversations fit beside the weights?"),
        ),
    ),
    Exercise(
        id="15.2",
        level=2,
        minutes=8,
        hints=(
            "int8 for the weights; the cache stays in 16 bit.",
            'Try plan("DeepSeek-V2-Lite", "A100-40GB", "int8", context=32_768, batch=...).',
        ),
        solution=_LARGEST.format(model="DeepSeek-V2-Lite", hardware="A100-40GB", precision="int8", context=32768),
        after="The latent makes long conversations cheap: one of 32,768 tokens costs 1 GB, half of what 4,096 tokens "
        "cost the 7B model.",
        mistakes=(
            Mistake(22, "That is one conversation too many, or a plan without the reserve of 5 %."),
            Mistake(6, "Is the precision int8? That many fit with 16-bit weights."),
            Mistake(1, "One fits, and there is still a lot of room."),
        ),
    ),
    Exercise(
        id="15.3",
        level=2,
        minutes=8,
        hints=(
            "A plan says how many cards it needs: cards_needed. It does not depend on how many you name.",
            'plan("DeepSeek-V3", "8xH100", "float8", context=65_536, batch=32).cards_needed',
        ),
        solution="from utils.planner import plan\n\n"
        'answer = plan("DeepSeek-V3", "8xH100", "float8", context=65_536, batch=32).cards_needed',
        after="Eleven cards hold the sum of all bytes, but no split is that even: whole layers, and the cache of whole "
        "conversations, lie on one card. Machines have eight cards, so this means two of them, with room to spare.",
        mistakes=(
            Mistake(11, "Eleven hold the sum of all bytes. But does a split of them leave room on every card?"),
            Mistake(10, "That is enough for one short conversation. Name the context and the batch."),
            Mistake(9, "That holds the weights. Now add the cache of 32 long conversations, and a split."),
            Mistake(8, "Eight H100 do not even hold the weights."),
            Mistake(24, "Is the precision float8? In 16 bit the weights are twice as large."),
        ),
    ),
    Exercise(
        id="15.4",
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
        id="15.5",
        level=3,
        minutes=12,
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
