"""Exercises of chapter 07: padding, token budgets, the time of a batch, slots, and the cache as a limit."""

from utils.exercises import Exercise, Mistake, Question


def _batches(lengths: list, budget: int, fits) -> int:
    count, batch = 0, []
    for length in sorted(lengths):
        if batch and not fits([*batch, length], budget):
            count, batch = count + 1, []
        batch.append(length)
    return count + bool(batch)


EXERCISES = (
    Exercise(
        id="07.1",
        level=1,
        minutes=5,
        hints=(
            "The batch computes rows times the longest length. Ordered is only the sum of the lengths.",
            "1 - sum(lengths) / (len(lengths) * max(lengths))",
        ),
        solution="def padding(lengths):\n"
        "    return 1 - sum(lengths) / (len(lengths) * max(lengths))\n\n\nanswer = padding",
        after="One long prompt is enough: nine of 10 tokens and one of 100 make four fifths and more padding.",
        mistakes=(
            Mistake(
                lambda lengths: sum(lengths) / (len(lengths) * max(lengths)),
                "That is the useful share. Padding is the rest.",
            ),
            Mistake(
                lambda lengths: len(lengths) * max(lengths) / sum(lengths) - 1,
                "That compares padding with the useful part. The question is its share of everything computed.",
            ),
            Mistake(
                lambda lengths: len(lengths) * max(lengths) - sum(lengths),
                "That is the number of padded positions. Divide it by all positions.",
            ),
        ),
        probes=(([8, 8],), ([10, 30],), ([10] * 9 + [100],)),
    ),
    Exercise(
        id="07.2",
        level=2,
        minutes=10,
        hints=(
            "Sorted upwards, the newest length is always the longest of its batch.",
            "Start a new batch when (rows + 1) * length > budget.",
        ),
        solution="def pack(lengths, budget):\n"
        "    batches, rows = 0, 0\n"
        "    for length in sorted(lengths):\n"
        "        if rows == 0 or (rows + 1) * length > budget:\n"
        "            batches, rows = batches + 1, 0\n"
        "        rows += 1\n"
        "    return batches\n\n\nanswer = pack",
        after="Many rows of short texts, few of long ones: nobody had to fix a batch size, only a budget.",
        mistakes=(
            Mistake(
                lambda lengths, budget: _batches(lengths, budget, lambda batch, limit: sum(batch) <= limit),
                "You add up the lengths. A batch computes a rectangle: rows times the longest.",
            ),
            Mistake(
                lambda lengths, budget: _batches(lengths, budget, lambda batch, limit: len(batch) * max(batch) < limit),
                "A batch that fills the budget exactly is allowed.",
            ),
            Mistake(
                lambda lengths, budget: _batches(
                    lengths, budget, lambda batch, limit: (len(batch) - 1) * max(batch) <= limit
                ),
                "Count the new row, too, before you compare with the budget.",
            ),
        ),
        probes=(([4, 4, 4, 4, 16], 16), ([8, 2, 4, 4], 12), ([1, 2, 3, 4, 5], 6), ([5, 6, 3], 12), ([6, 1, 8, 2], 8)),
    ),
    Exercise(
        id="07.3",
        level=2,
        minutes=8,
        hints=(
            "There are max(new) passes: one prefill, then max(new) - 1 decode passes with all rows.",
            "Positions: rows * (max(prompts) + max(new) - 1).",
        ),
        solution="def seconds(prompts, new):\n"
        "    positions = len(prompts) * (max(prompts) + max(new) - 1)\n"
        "    return 0.05 * max(new) + 0.002 * positions\n\n\nanswer = seconds",
        after="For short prompts the passes cost most, for long ones the positions: two reasons, two remedies.",
        mistakes=(
            Mistake(
                lambda prompts, new: (
                    0.05 * max(new) + 0.002 * sum(p + n - 1 for p, n in zip(prompts, new, strict=True))
                ),
                "You charge only what is useful. A static batch computes its padding, too.",
            ),
            Mistake(
                lambda prompts, new: 0.05 * (max(new) + 1) + 0.002 * len(prompts) * (max(prompts) + max(new)),
                "The prefill already gives the first token: there are max(new) - 1 decode passes.",
            ),
            Mistake(
                lambda prompts, new: 0.05 * max(new) + 0.002 * (max(prompts) + max(new) - 1),
                "That is the work of one row. All rows of the batch are computed.",
            ),
        ),
        probes=(([10, 30], [4, 8]), ([5], [1]), ([7, 7, 7], [2, 3, 1])),
        tolerance=1e-6,
    ),
    Exercise(
        id="07.4",
        level=2,
        minutes=6,
        hints=(
            "Draw two rows. The first slot is taken by the order of 8. What happens in the second one?",
            "The second slot serves 2 + 2 + 2 passes, beside the first.",
        ),
        solution="answer = max(8, 2 + 2 + 2)",
        after="Static batches of two would need 8 + 2 = 10 passes: the third and fourth would wait for the slowest.",
        mistakes=(
            Mistake(
                8 + 2, "That is static: two batches, each as long as its longest answer. Here a free slot is refilled."
            ),
            Mistake(8 + 2 + 2 + 2, "That is one by one. Two slots work at the same time."),
            Mistake(7, "Half of all tokens would be right if the work could be cut freely. One answer needs 8 passes."),
        ),
    ),
    Exercise(
        id="07.5",
        level=3,
        minutes=8,
        hints=(
            "Bytes for a token: 61 * (512 + 64) * 2.",
            "Divide the room by the bytes of 8,192 tokens, and round down.",
        ),
        solution="per_token = 61 * (512 + 64) * 2\nanswer = 40 * 10**9 // (per_token * 8192)",
        after="Room for 69, and each GPU wants hundreds of tokens a step: hence so many GPUs, and so small a cache.",
        mistakes=(
            Mistake(40 * 10**9 // (61 * 512 * 2 * 8192), "The RoPE key of 64 numbers is cached beside the latent."),
            Mistake(40 * 10**9 // (61 * (512 + 64) * 8192), "16 bits are two bytes for each number."),
            Mistake(
                40 * 2**30 // (61 * (512 + 64) * 2 * 8192), "Here 40 GB are 40 * 10**9 bytes; you used 2**30 for a GB."
            ),
            Mistake(
                40 * 10**9 // (2 * 61 * (512 + 64) * 2 * 8192),
                "MLA caches one latent for keys and values together: no factor of two for them.",
            ),
        ),
    ),
)

QUIZ = (
    Question(
        text="Why does a decode pass for sixteen people take much less than sixteen times as long as for one?",
        options=(
            (
                "The sixteen share one common KV cache",
                "Each has a cache of its own. What they share in a pass are the weights.",
            ),
            (
                "Each of them gets a processor core",
                "The chapter's clock comes from a machine with two cores, and sixteen are cheap there, too.",
            ),
            (
                "The weights are read once for all of them",
                "Reading the weights is most of the time of a small pass, and one reading serves every row.",
            ),
        ),
        right="c",
    ),
    Question(
        text="One request comes every ten seconds, and each is served in two. You replace fixed batches by a "
        "token budget. What happens to p95?",
        options=(
            (
                "It falls, as there is less padding",
                "A request that is alone in its batch has no padding. Section 4 shows all policies together on "
                "the quiet side.",
            ),
            (
                "It stays, as there is nobody to share with",
                "Policies differ in what they pick from a queue. Here the queue never has more than one.",
            ),
            (
                "It rises, as a budget takes time to fill",
                "The server never waits for a full batch: it takes who is there and begins.",
            ),
        ),
        right="b",
    ),
    Question(
        text="In one static batch, one request orders 2 tokens and another one 200. When does the first get its"
        " answer?",
        options=(
            (
                "After some 200 passes, at the end of the batch",
                "All rows run until the longest answer is done. Section 6 removes this wait with continuous batching.",
            ),
            (
                "After 2 passes, as soon as its row is done",
                "In a static batch its row is padded to the end. To leave after 2 passes is what continuous "
                "batching does.",
            ),
            (
                "After about 100 passes, in the mean of both",
                "Nothing is averaged: the longest order decides for every row.",
            ),
        ),
        right="a",
    ),
    Question(
        text="Why does DeepSeek-V3 need more conversations at once than a dense model, to keep a card's "
        "arithmetic busy?",
        options=(
            (
                "Its cache for each conversation is larger",
                "MLA's cache is small: 288 MB at 4,096 tokens, 1,594 MB for the 67B. It allows a large batch, and does "
                "not cause the need.",
            ),
            (
                "Its router must compare many tokens",
                "The router looks at each token on its own. No token has to wait for others to be routed.",
            ),
            (
                "Each of its experts sees few of the tokens",
                "A token visits 8 of 256 experts, so 32 times as many tokens are needed to bring each expert as many.",
            ),
        ),
        right="c",
    ),
)
