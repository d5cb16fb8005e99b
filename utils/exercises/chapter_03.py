"""Exercises of chapter 03: clipping, schedules, AdamW's first step and micro-batches."""

import math

from utils.exercises import Exercise, Mistake, Question


def _rate(step, steps, warmup, peak, *, late=0, fall=0, length=None):
    """Warm-up and cosine; the keyword arguments shift it, the way typical mistakes do."""
    if step < warmup:
        return peak * (step + 1 - late) / warmup
    return peak * (1 + math.cos(math.pi * (step + 1 - fall - warmup) / (length or steps - warmup))) / 2


EXERCISES = (
    Exercise(
        id="03.1",
        level=1,
        minutes=5,
        hints=(
            "The norm is the root of the sum of the squares. If it is above max_norm, scale all by one factor.",
            "factor = max_norm / norm if norm > max_norm else 1",
        ),
        solution=(
            "def clipped(gradient, max_norm):\n"
            "    norm = sum(g * g for g in gradient) ** 0.5\n"
            "    factor = max_norm / norm if norm > max_norm else 1.0\n"
            "    return [factor * g for g in gradient]\n\n\n"
            "answer = clipped"
        ),
        after="One factor for all: the direction stays.",
        mistakes=(
            Mistake(
                lambda gradient, max_norm: [max(-max_norm, min(max_norm, g)) for g in gradient],
                "That is value clipping: it cuts each number on its own and changes the direction.",
            ),
            Mistake(
                lambda gradient, max_norm: [g * max_norm / (math.hypot(*gradient) or 1) for g in gradient],
                "That also stretches short gradients to max_norm. Clipping only shortens: the factor is at most 1.",
            ),
            Mistake(
                lambda gradient, max_norm: [
                    g * min(1, max_norm / (sum(x * x for x in gradient) or max_norm)) for g in gradient
                ],
                "The square root of the norm is missing.",
            ),
        ),
        probes=(([3.0, 4.0], 1.0), ([0.3, -0.4], 1.0), ([6.0, -2.0, 3.0], 2.0), ([0.0, 0.0], 1.0)),
    ),
    Exercise(
        id="03.2",
        level=1,
        minutes=3,
        hints=(
            "Which share of the tokens are 1.7 of 2.0 trillion? The rate steps down after 80 % and after 90 %.",
            "85 % lie between the two steps. There the rate is 31.6 % of its peak.",
        ),
        solution="answer = 3.2e-4 * 0.316  # 85 % of the tokens: after the first step, before the second",
        after="Two equal steps: 0.316 is the root of a tenth, and two of them make a tenth.",
        mistakes=(
            Mistake(3.2e-4, "That is the peak. After 80 % of the tokens the rate is lower."),
            Mistake(3.2e-5, "That is the rate after 90 % of the tokens. 1.7 of 2.0 trillion are 85 %."),
            Mistake(4.2e-4 * 0.316, "4.2e-4 is the peak of the 7B. The 67B has 3.2e-4."),
            Mistake(3.2e-4 * 0.684, "The rate falls *to* 31.6 % of its peak, not *by* 31.6 %."),
        ),
        tolerance=2e-3,
    ),
    Exercise(
        id="03.3",
        level=2,
        minutes=5,
        hints=(
            "At the first step, what are m / (1 - beta1) and v / (1 - beta2)?",
            "The corrected m is the gradient, the corrected v its square. Divide one by the root of the other.",
        ),
        solution=(
            "m = 0.1 * 0.02 / (1 - 0.9)  # corrected: the gradient itself\n"
            "v = 0.05 * 0.02**2 / (1 - 0.95)  # corrected: its square\n"
            "answer = 3e-4 * m / v**0.5"
        ),
        after="The learning rate itself: the size of the first gradient cancels.",
        mistakes=(
            Mistake(3e-4 * 0.02, "That is SGD's step. AdamW divides by the root of v."),
            Mistake(3e-4 * 0.1 / 0.05**0.5, "The corrections 1 - beta ** t are missing: m and v start at zero."),
            Mistake(3e-4 / 0.02, "v is a mean of squares: take its root before you divide."),
            Mistake(-3e-4, "Right size. The question asks for the distance, a positive number."),
        ),
        tolerance=1e-3,
    ),
    Exercise(
        id="03.4",
        level=3,
        minutes=10,
        hints=(
            "Check four steps by hand: 0, warmup - 1, warmup and steps - 1.",
            "Below warmup: peak * (step + 1) / warmup.",
            "From warmup on, the progress is (step + 1 - warmup) / (steps - warmup). It ends at exactly 1.",
        ),
        solution=(
            "import math\n\n\n"
            "def rate(step, steps, warmup, peak):\n"
            "    if step < warmup:\n"
            "        return peak * (step + 1) / warmup\n"
            "    progress = (step + 1 - warmup) / (steps - warmup)\n"
            "    return peak * (1 + math.cos(math.pi * progress)) / 2\n\n\n"
            "answer = rate"
        ),
        after="The peak is used once, the rate 0 once, and no step of the budget is lost in between.",
        mistakes=(
            Mistake(
                lambda *arguments: _rate(*arguments, late=1),
                "Your warm-up is one step late: step 0 has the rate 0, so its whole batch is wasted.",
            ),
            Mistake(
                lambda *arguments: _rate(*arguments, fall=1),
                "Off by one after the peak: step `warmup` still has the full rate, and the last step is not 0.",
            ),
            Mistake(
                lambda step, steps, warmup, peak: _rate(step, steps, warmup, peak, length=steps),
                "The cosine has steps - warmup steps to fall, not all the steps of the run.",
            ),
            Mistake(
                lambda step, steps, warmup, peak: _rate(step, steps, warmup, 1.0),
                "That is the factor. Multiply it by the peak.",
            ),
        ),
        probes=(*((step, 20, 4, 3e-4) for step in (0, 3, 4, 12, 18)), (9, 10, 2, 1e-2)),
        tolerance=1e-6,
    ),
    Exercise(
        id="03.5",
        level=2,
        minutes=5,
        hints=(
            "Go back to sums: a mean times its number of tokens is the sum of the losses.",
            "Add up the sums, add up the tokens, divide once.",
        ),
        solution=(
            "def whole_loss(micro_batches):\n"
            "    total = sum(loss * tokens for loss, tokens in micro_batches)\n"
            "    return total / sum(tokens for _, tokens in micro_batches)\n\n\n"
            "answer = whole_loss"
        ),
        after="Now every token has the same say, wherever the batch was cut.",
        mistakes=(
            Mistake(
                lambda parts: sum(loss for loss, _ in parts) / len(parts),
                "That is the mean of means: a token in a short micro-batch counts more than one in a long one.",
            ),
            Mistake(
                lambda parts: sum(loss * tokens for loss, tokens in parts),
                "That is the sum of the losses. Divide it by the number of all tokens.",
            ),
            Mistake(
                lambda parts: sum(loss * tokens for loss, tokens in parts) / len(parts),
                "Divide by the number of tokens, not of micro-batches.",
            ),
        ),
        probes=(([(2.0, 100), (4.0, 300)],), ([(3.0, 7), (1.0, 1), (2.0, 2)],)),
    ),
)

QUIZ = (
    Question(
        text="Somebody moves gradient clipping before unscale_. The loss scale is 1,024, the limit is 1.0, and "
        "SGD now stands still. Why?",
        options=(
            (
                "A gradient ends at a norm of 1/1024 at most",
                "Scaled gradients are long, so they are cut to 1, and then divided by the scale. See the table "
                "of section 3.",
            ),
            (
                "The gradients of two steps cancel each other",
                "Norm clipping keeps the direction, before or after unscaling. Only the length is wrong here.",
            ),
            (
                "The gradients are divided by the scale twice",
                "They are divided once. What is lost is their length: they were cut while they were 1,024 times"
                " too long.",
            ),
        ),
        right="a",
    ),
    Question(
        text="Schedule A beats B by 0.02 bits, with one run each. Runs of the same schedule with other seeds "
        "differ by about 0.1. What do you conclude?",
        options=(
            (
                "A is better than B, but only slightly",
                "One pair of runs with other seeds could just as well say the opposite. Section 6 looks at the "
                "spread first.",
            ),
            (
                "Nothing: the seeds differ by more than that",
                "A difference must exceed the spread of the seeds, or hold pair by pair over many, before you "
                "may believe it.",
            ),
            (
                "A and B are equal, as 0.02 is so small",
                "One run each cannot show that either. More seeds may well find a small, steady difference.",
            ),
        ),
        right="b",
    ),
    Question(
        text="In a plot of a run of 10,000 steps, the learning rate falls to 0 and jumps back to its peak "
        "twice. Which schedule is that?",
        options=(
            (
                "Warm-up, which raises the rate to its peak",
                "Warm-up raises the rate once, at the beginning, and in a straight line. Here it jumps, twice, "
                "in the middle.",
            ),
            (
                "The multi-step schedule of DeepSeek LLM",
                "Its steps only go down, after 80 % and after 90 %. Section 5 counts its restarts: 0.",
            ),
            (
                "Warm restarts, the schedule called SGDR",
                'Each restart throws the rate back to the peak. The similar name "warm-up" means another thing.',
            ),
        ),
        right="c",
    ),
    Question(
        text="After one huge gradient without clipping, AdamW's updates are too small for a while. Why?",
        options=(
            (
                "Its weight decay has become much stronger",
                "Decay depends on the rate and the weight. The gradient does not enter it: that is the W of AdamW.",
            ),
            (
                "The huge square is still part of its divisor",
                "The running mean of squares, v, forgets slowly. Every update is divided by its root until then.",
            ),
            (
                "Its learning rate has been lowered by itself",
                "AdamW leaves the rate alone; only a schedule changes it. What it remembers are two running "
                "means of the gradient.",
            ),
        ),
        right="b",
    ),
)
