"""Exercises of chapter 18: questions of a batch, advantages, pass@k, the clipped gain, the KL term, silent groups."""

import functools
import math
import statistics
from collections.abc import Callable

from utils.exercises import Exercise, Mistake, Question


def _centred(rewards: list) -> list:
    return [reward - sum(rewards) / len(rewards) for reward in rewards]


def _divided(deviation: Callable, small: float, rewards: list) -> list:
    return [a / (deviation(rewards) + small) for a in _centred(rewards)] if len(rewards) > 1 else []


def _clipped(ratio: float, eps: float) -> float:
    return max(1 - eps, min(1 + eps, ratio))


def _pass(n: int, c: int, k: int) -> float:
    return 1 - math.comb(n - c, k) / math.comb(n, k)


EXERCISES = (
    Exercise(
        id="18.1",
        level=1,
        minutes=4,
        hints=(
            "Each question takes 64 places of the batch.",
            "1024 / 64.",
        ),
        solution="answer = 1024 // 64",
        after="Few questions, many tries: a group must be large enough for its average to mean something.",
        mistakes=(
            Mistake(1024, "Those are the answers. Each question has 64 of them."),
            Mistake(64, "Those are the answers to one question. How many such groups fit the batch?"),
            Mistake(1024 * 64, "The batch is counted in answers already: 1,024 of them, not of questions."),
            Mistake(1024 * 1024 // 64, "The 1,024 tokens of an answer play no part: only answers are counted."),
            Mistake(128, "8 answers to a question are this chapter's number. DeepSeekMath has 64: divide by 64."),
            Mistake(8, "8 questions are this chapter's number. DeepSeekMath's: divide 1,024 answers by 64."),
            Mistake(1024 - 64, "The groups share the batch: divide, do not subtract."),
        ),
    ),
    Exercise(
        id="18.2",
        level=2,
        minutes=8,
        hints=(
            "Subtract the average of the group, sum(rewards) / len(rewards), and divide by nothing.",
            "A group of fewer than two gets []. For the others: [reward - mean for reward in rewards].",
        ),
        solution="def advantage_of(rewards):\n"
        "    if len(rewards) < 2:\n"
        "        return []\n"
        "    mean = sum(rewards) / len(rewards)\n"
        "    return [reward - mean for reward in rewards]\n\n\nanswer = advantage_of",
        after="In a group of one the answer is its own average: its advantage would always be 0, and teach nothing.",
        mistakes=(
            *(
                Mistake(
                    functools.partial(_divided, deviation, small),
                    f"That is divided by the {name}. Here it is not.",
                )
                for deviation, name in (
                    (statistics.stdev, "deviation, as in DeepSeekMath"),
                    (statistics.pstdev, "deviation, as in DeepSeekMath"),
                    (statistics.variance, "variance"),
                    (statistics.pvariance, "variance"),
                )
                for small in (1e-4, 1e-8)
            ),
            Mistake(
                lambda rewards: [-a for a in _centred(rewards)] if len(rewards) > 1 else [],
                "The sign: an answer above the average has a positive advantage.",
            ),
            Mistake(
                lambda rewards: [abs(a) for a in _centred(rewards)] if len(rewards) > 1 else [],
                "The sign counts: below the average an advantage is negative.",
            ),
            Mistake(
                lambda rewards: [r - statistics.median(rewards) for r in rewards] if len(rewards) > 1 else [],
                "That subtracts the median. GRPO takes the average.",
            ),
            Mistake(
                lambda rewards: (
                    [r - (sum(rewards) - r) / (len(rewards) - 1) for r in rewards] if len(rewards) > 1 else []
                ),
                "That is the average of the others. GRPO's average has the answer itself in it.",
            ),
            Mistake(
                lambda rewards: [a / len(rewards) for a in _centred(rewards)] if len(rewards) > 1 else [],
                "The advantage of an answer is not divided by the size of the group.",
            ),
            Mistake(
                lambda rewards: list(rewards) if len(rewards) > 1 else [],
                "Those are the rewards. What counts is how much better than the group's average they are.",
            ),
            Mistake(
                lambda rewards: _centred(rewards) if rewards else [],
                "A group of one has nothing to compare with: return an empty list.",
            ),
        ),
        probes=(([1, 0, 0, 0],), ([1, 1, 0],), ([0.5, 2.0, -1.0, 0.0, 3.5],), ([1, 1],), ([1],), ([],)),
        tolerance=1e-6,
    ),
    Exercise(
        id="18.3",
        level=2,
        minutes=8,
        hints=(
            "It is easier to count the draws in which none is right: k of the n - c wrong samples.",
            "1 - math.comb(n - c, k) / math.comb(n, k).",
        ),
        solution="import math\n\n\ndef pass_at_k(n, c, k):\n"
        "    return 1 - math.comb(n - c, k) / math.comb(n, k)\n\n\nanswer = pass_at_k",
        after="With k = 1 it is c / n. With k above n - c it is 1: no draw can avoid all the right ones.",
        mistakes=(
            Mistake(
                lambda n, c, k: 1 - (1 - c / n) ** k,
                "That puts each sample back before the next draw, which makes the estimate too low.",
            ),
            Mistake(
                lambda n, c, k: math.comb(n - c, k) / math.comb(n, k),
                "That is the chance that none is right. Its opposite is asked.",
            ),
            Mistake(lambda n, c, k: c / n, "That is pass@1, whatever k is."),
            *(
                Mistake(
                    added, "Chances of several tries do not simply add up: two right samples in one draw count once."
                )
                for added in (lambda n, c, k: min(1, k * c / n), lambda n, c, k: k * c / n)
            ),
            Mistake(
                lambda n, c, k: c * math.comb(n - c, k - 1) / math.comb(n, k),
                "That is the chance of exactly one right sample. Two or more count, too.",
            ),
            Mistake(
                lambda n, c, k: 0.0 if n - c < k else _pass(n, c, k),
                "With k above n - c no draw can avoid all the right ones: that is 1, not 0.",
            ),
            Mistake(
                lambda n, c, k: 0.0 if c < k else _pass(n, c, k),
                "One right sample is enough: c may be smaller than k.",
            ),
            Mistake(
                lambda n, c, k: math.comb(c, k) / math.comb(n, k),
                "That is the chance that all k are right. One is enough.",
            ),
            Mistake(
                lambda n, c, k: 1 - math.comb(c, k) / math.comb(n, k),
                "That is the chance that not all k are right. One right sample is asked.",
            ),
        ),
        probes=((16, 4, 1), (16, 4, 2), (16, 4, 8), (10, 0, 3), (10, 9, 3), (5, 5, 2), (8, 3, 4)),
        tolerance=1e-6,
    ),
    Exercise(
        id="18.4",
        level=3,
        minutes=10,
        hints=(
            "The clipped ratio is max(1 - eps, min(1 + eps, ratio)).",
            "The smaller of both products, also where the advantage is negative: min(ratio * a, clipped * a).",
        ),
        solution="def gain_of(ratio, a, eps):\n"
        "    clipped = max(1 - eps, min(1 + eps, ratio))\n"
        "    return min(ratio * a, clipped * a)\n\n\nanswer = gain_of",
        after="The minimum keeps the push where a token has moved in the wrong direction, and ends it in the right.",
        mistakes=(
            Mistake(
                lambda ratio, a, eps: _clipped(ratio, eps) * a,
                "Clipping alone also stops a token that has moved in the wrong direction. Take the smaller of both.",
            ),
            Mistake(lambda ratio, a, eps: ratio * a, "Nothing is clipped there."),
            Mistake(lambda ratio, a, eps: a, "That is the gain at a ratio of 1. The ratio counts, too."),
            *(
                Mistake(other, "It is the ratio that is clipped, before it is multiplied.")
                for other in (
                    lambda ratio, a, eps: min(ratio * a, _clipped(ratio * a, eps)),
                    lambda ratio, a, eps: ratio * _clipped(a, eps),
                    lambda ratio, a, eps: min(ratio * a, ratio * _clipped(a, eps)),
                )
            ),
            Mistake(
                lambda ratio, a, eps: min(ratio * abs(a), _clipped(ratio, eps) * abs(a)),
                "The advantage keeps its sign.",
            ),
            Mistake(
                lambda ratio, a, eps: max(ratio * a, _clipped(ratio, eps) * a),
                "Take the smaller of both, which is the careful one.",
            ),
            Mistake(
                lambda ratio, a, eps: min(ratio, _clipped(ratio, eps)) * a,
                "The smaller product is asked, not the smaller ratio: with a negative advantage they differ.",
            ),
            Mistake(
                lambda ratio, a, eps: min(ratio * a, min(1 + eps, ratio) * a),
                "The ratio is clipped from below, too, at 1 - eps.",
            ),
            Mistake(
                lambda ratio, a, eps: min(ratio * a, max(1 - eps, ratio) * a),
                "The ratio is clipped from above, too, at 1 + eps.",
            ),
        ),
        probes=(
            (1.0, 2.0, 0.2),
            (1.5, 1.0, 0.2),
            (0.5, 1.0, 0.2),
            (1.5, -1.0, 0.2),
            (0.5, -1.0, 0.2),
            (1.1, -3.0, 0.3),
            (2.5, 0.5, 0.1),
            (0.25, -2.0, 0.1),
        ),
        tolerance=1e-6,
    ),
    Exercise(
        id="18.5",
        level=2,
        minutes=6,
        hints=(
            "Three parts of d = ref - new: its exponential, less d itself, less 1.",
            "math.exp(d) - d - 1, with d = ref - new.",
        ),
        solution="import math\n\n\ndef kl_of(new, ref):\n"
        "    d = ref - new\n"
        "    return math.exp(d) - d - 1\n\n\nanswer = kl_of",
        after="exp(d) is never below d + 1, so the term is never negative. Its mean over the model's own samples is "
        "the KL divergence.",
        mistakes=(
            Mistake(
                lambda new, ref: math.exp(new - ref) - (new - ref) - 1,
                "The reference is divided by the model, not the reverse: d = ref - new.",
            ),
            Mistake(
                lambda new, ref: new - ref,
                "That has the right mean, but can be negative for a token. exp(d) - d - 1 cannot.",
            ),
            Mistake(
                lambda new, ref: math.exp(ref - new) - (ref - new),
                "It should be 0 where both agree: subtract 1.",
            ),
            Mistake(
                lambda new, ref: math.exp(ref - new) - 1,
                "One part is missing: d itself is subtracted, too.",
            ),
            Mistake(lambda new, ref: math.exp(ref - new), "That is the ratio alone. It should be 0 where both agree."),
            Mistake(
                lambda new, ref: math.exp(ref - new) + (ref - new) - 1,
                "Its sign: d itself is subtracted.",
            ),
            Mistake(
                lambda new, ref: ref / new - math.log(ref / new) - 1,
                "new and ref are logarithms already: their difference is the logarithm of the ratio.",
            ),
            Mistake(lambda new, ref: ref - new, "That can be negative for a token. exp(d) - d - 1 cannot."),
            Mistake(
                lambda new, ref: 0.5 * (ref - new) ** 2,
                "That is close where both nearly agree. The term itself has an exponential.",
            ),
            *(
                Mistake(
                    even, "It is 0 where both agree, but has the wrong size elsewhere. The term has an exponential."
                )
                for even in (lambda new, ref: (ref - new) ** 2, lambda new, ref: abs(ref - new))
            ),
            Mistake(
                lambda new, ref: 0.04 * (math.exp(ref - new) - (ref - new) - 1),
                "That is multiplied by beta. The term is asked without it.",
            ),
        ),
        probes=((-1.0, -1.0), (-1.0, -2.5), (-2.0, -0.5), (-3.0, -1.0)),
        tolerance=1e-6,
    ),
    Exercise(
        id="18.6",
        level=2,
        minutes=6,
        hints=(
            "All advantages are 0 where all answers get the same reward. In which two cases do they?",
            "All g are right, p ** g, or all g are wrong, (1 - p) ** g.",
        ),
        solution="def silent(p, g):\n    return p**g + (1 - p) ** g\n\n\nanswer = silent",
        after="A question that 6 % of the answers solve is silent in 61 % of groups of 8, and in 2 % of groups of 64: "
        "rare successes need a start, or large groups.",
        mistakes=(
            Mistake(lambda p, g: (1 - p) ** g, "That counts the groups that are all wrong. There is a second kind."),
            Mistake(lambda p, g: p**g, "That counts the groups that are all right. There is a second kind."),
            Mistake(
                lambda p, g: 1 - p**g - (1 - p) ** g,
                "That is the chance that the group does teach something.",
            ),
            Mistake(
                lambda p, g: 1 - (1 - p) ** g,
                "That is the chance of at least one right answer.",
            ),
            Mistake(
                lambda p, g: p**g * (1 - p) ** g,
                "A group cannot be all right and all wrong. The chances of two cases that exclude each other add up.",
            ),
            Mistake(
                lambda p, g: math.comb(g, g // 2) * p ** (g // 2) * (1 - p) ** (g - g // 2),
                "Half right and half wrong is the group that teaches most.",
            ),
            Mistake(lambda p, g: 2 * 0.5**g, "That is right for p = 0.5 only."),
            Mistake(lambda p, g: 1 - p**g, "That is the chance of at least one wrong answer."),
            *(
                Mistake(double, "All right and all wrong are not equally likely, unless p is 0.5.")
                for double in (lambda p, g: 2 * p**g, lambda p, g: 2 * (1 - p) ** g)
            ),
            Mistake(lambda p, g: max(p**g, (1 - p) ** g), "Both cases count: add them."),
            Mistake(lambda p, g: 1.0, "That is always 1. The second part is (1 - p) ** g: the bracket comes first."),
        ),
        probes=((0.5, 2), (0.25, 8), (0.06, 8), (0.9, 3), (0.0, 4), (1.0, 4), (0.3, 1)),
        tolerance=1e-6,
    ),
)

QUIZ = (
    Question(
        text="All 8 answers to a question are wrong. What does GRPO learn from them?",
        options=(
            ("Nothing: all advantages are 0", "No answer is better than its group, so nothing is raised or lowered."),
            (
                "To avoid all eight of them",
                "Each would have to be worse than the group's average, and they all equal it.",
            ),
            ("To answer more at random", "There is no gradient at all, so the model stays as it is."),
        ),
        right="a",
    ),
    Question(
        text="A program that judges answers counts an error as passed. The reward rises to 1. What do you look at?",
        options=(
            ("The reward: it rises for a reason", "Its reason may be the hole. The reward cannot see itself."),
            (
                "The loss that the training reports",
                "It says how the reward is followed, not whether the reward is right.",
            ),
            (
                "Another measure that no training uses",
                "Only that can show that what is paid for is not what was meant.",
            ),
        ),
        right="c",
    ),
    Question(
        text="After reward learning, pass@1 has risen and pass@16 has stayed at 0.6. What fits that best?",
        options=(
            (
                "It solves tasks that were out of its reach",
                "Then the share that some of 16 tries solve would have risen.",
            ),
            (
                "It is surer of the tasks that it could solve",
                "The odds within reach got better, and the reach did not.",
            ),
            ("The estimate of pass@1 must be wrong", "Both come from the same samples, by the same formula."),
        ),
        right="b",
    ),
    Question(
        text="Why do the candidates' limits count processor time, and not time on the clock?",
        options=(
            (
                "Processor time is always the shorter of both",
                "On an idle machine both are nearly the same; that is no reason.",
            ),
            (
                "On the clock, a busy machine judges differently",
                "A right answer that has to wait for the processor would count as wrong.",
            ),
            ("A worker cannot read the machine's clock", "It can. But what the clock shows depends on what else runs."),
        ),
        right="b",
    ),
)
