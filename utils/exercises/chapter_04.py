"""Exercises of chapter 04: top-k activations, the best case of skipping, load and V3's bias update."""

from utils.exercises import Exercise, Mistake, Question


def _keep(numbers: list, k: int, size=abs) -> list:
    chosen = sorted(range(len(numbers)), key=lambda i: size(numbers[i]), reverse=True)[:k]
    return [n if i in chosen else 0 for i, n in enumerate(numbers)]


def _moved(bias: list, counts: list, step) -> list:
    mean = sum(counts) / len(counts)
    return [b + step(mean - c) for b, c in zip(bias, counts, strict=True)]


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)


EXERCISES = (
    Exercise(
        id="04.1",
        level=1,
        minutes=6,
        hints=(
            "First find the places of the k largest absolute values, then build the new list.",
            "sorted(range(len(numbers)), key=lambda i: -abs(numbers[i]))[:k] are those places.",
        ),
        solution="def keep(numbers, k):\n"
        "    chosen = sorted(range(len(numbers)), key=lambda i: -abs(numbers[i]))[:k]\n"
        "    return [n if i in chosen else 0 for i, n in enumerate(numbers)]\n\n\nanswer = keep",
        after="Sorting is the price of top-k: a GPU must see all of h before it can drop anything.",
        mistakes=(
            Mistake(
                lambda numbers, k: _keep(numbers, k, size=lambda n: n),
                "A large negative number is a strong activation, too: compare absolute values.",
            ),
            Mistake(
                lambda numbers, k: sorted(numbers, key=abs, reverse=True)[:k],
                "The list must keep its length and its order: the others become 0 and stay where they are.",
            ),
            Mistake(
                lambda numbers, k: [0 if n in _keep(numbers, k) else n for n in numbers],
                "That drops the strongest and keeps the rest.",
            ),
            Mistake(
                lambda numbers, k: _keep(numbers, k or len(numbers)),
                "With k = 0 nothing stays. [-k:] is then [0:], the whole list: sort downwards and take [:k].",
            ),
            Mistake(
                lambda numbers, k: _keep(numbers[::-1], k or len(numbers))[::-1],
                "[-k:] of an upward order takes the last of equals, and all for k = 0: sort downwards and take [:k].",
            ),
            Mistake(
                lambda numbers, k: [n if sum(abs(m) > abs(n) for m in numbers) < k else 0 for n in numbers],
                "Exactly k numbers stay: where several are as large as the last one, take the first of them.",
            ),
        ),
        probes=(
            ([0.1, -3.0, 0.2, 0.0, 2.0], 2),
            ([1.0, -5.0, 4.0], 1),
            ([2.0, 1.0], 2),
            ([3.0, 1.0, -3.0, 3.0], 2),
            ([1.0, 2.0], 0),
        ),
    ),
    Exercise(
        id="04.2",
        level=2,
        minutes=6,
        hints=(
            "Call the work of one matrix 1. Then the dense network takes 3.",
            "Two matrices are computed in full, the third to a tenth.",
        ),
        solution="answer = 3 / (2 + 0.1)",
        after="Even keeping nothing at all would end at 1.5: two thirds of the work come before the choice.",
        mistakes=(
            Mistake(
                10, "That would be so if all three matrices were skipped to a tenth. Gate and up are computed in full."
            ),
            Mistake(3 / 2, "The last matrix is still computed to a tenth."),
            Mistake(2.1 / 3, "That is the remaining share of the work. How many times as fast is its inverse."),
        ),
        tolerance=0.005,
    ),
    Exercise(
        id="04.3",
        level=1,
        minutes=5,
        hints=(
            "The mean is sum(counts) / len(counts).",
            "(largest - mean) / mean",
        ),
        solution="def violation(counts):\n"
        "    mean = sum(counts) / len(counts)\n"
        "    return (max(counts) - mean) / mean\n\n\nanswer = violation",
        after="With 16 experts, of which a token uses 2, it ends at 7: two experts with 8 times the fair load.",
        mistakes=(
            Mistake(
                lambda counts: max(counts) * len(counts) / sum(counts),
                "That is the load, 1 when fair. The violation is 0 when fair.",
            ),
            Mistake(
                lambda counts: max(counts) - sum(counts) / len(counts),
                "Divide by the mean: otherwise twice the tokens would look twice as unfair.",
            ),
            Mistake(
                lambda counts: (max(counts) - min(counts)) / (sum(counts) / len(counts)),
                "Compare the largest with the mean, not with the smallest.",
            ),
            Mistake(
                lambda counts: max(abs(c * len(counts) - sum(counts)) for c in counts) / sum(counts),
                "A count far below the mean is no violation: only the largest one counts.",
            ),
            Mistake(
                lambda counts: (max(counts) - sum(counts) // len(counts)) / (sum(counts) // len(counts)),
                "The mean need not be a whole number: / and not //.",
            ),
        ),
        probes=(([4, 4, 4],), ([8, 0, 0, 0],), ([3, 2, 1],), ([0, 5, 5],)),
    ),
    Exercise(
        id="04.4",
        level=2,
        minutes=8,
        hints=(
            "Compare each count with the mean of all counts.",
            "Too many tokens: bias - speed. Too few: bias + speed. Exactly the mean: unchanged.",
        ),
        solution="def new_bias(bias, counts, speed):\n"
        "    mean = sum(counts) / len(counts)\n"
        "    return [b + speed * ((c < mean) - (c > mean)) for b, c in zip(bias, counts)]\n\n\nanswer = new_bias",
        after="The step has one size, however large the error: a slow and steady hand, which many small steps forgive.",
        mistakes=(
            Mistake(
                lambda bias, counts, speed: _moved(bias, counts, lambda x: -speed * _sign(x)),
                "That makes the busy experts still more attractive: the sign is wrong.",
            ),
            Mistake(
                lambda bias, counts, speed: _moved(bias, counts, lambda x: speed * x),
                "V3 moves every bias by the same step; only the direction depends on the load.",
            ),
            Mistake(
                lambda bias, counts, speed: _moved(bias, counts, lambda x: speed if x > 0 else -speed),
                "An expert with exactly the mean count stays where it is.",
            ),
            Mistake(
                lambda bias, counts, speed: [
                    b - a for a, b in zip(bias, _moved(bias, counts, lambda x: speed * _sign(x)), strict=True)
                ],
                "Those are the steps alone. Add them to the old biases.",
            ),
        ),
        probes=(
            ([0.5, 0.0, -0.5], [4, 2, 0], 0.25),
            ([0.0, 1.0], [1, 7], 0.5),
            ([2.0, 3.0], [5, 5], 0.5),
            ([0.0, 0.5, 1.0], [1, 2, 5], 0.1),
        ),
    ),
    Exercise(
        id="04.5",
        level=3,
        minutes=8,
        hints=(
            "Each token makes 8 choices. Together they are spread over 256 experts.",
            "tokens * 8 / 256 is what one expert gets.",
        ),
        solution="answer = 64 * 256 // 8",
        after="That is why large mixtures are served with very large batches, over many machines at once.",
        mistakes=(
            Mistake(64 * 256, "Each token goes to 8 experts at once: eight times fewer tokens are enough."),
            Mistake(64 * 8, "64 tokens for each of 256 experts: where are the 256?"),
            Mistake(256 // 8, "That many tokens give each expert one token. It should get 64."),
        ),
    ),
)

QUIZ = (
    Question(
        text="You set the weakest 80 % of a layer's activations to zero. The down projection then runs as "
        "usual. What happens to its time?",
        options=(
            (
                "It falls to a fifth, as only a fifth is left",
                "The zeros are still multiplied. Time falls only if the work is left out, as with a block in "
                "section 3.",
            ),
            (
                "It falls somewhat, as zeros multiply faster",
                "A processor takes the same time for any two numbers. Section 3 times the mask: it saves nothing.",
            ),
            (
                "It stays, as zeros cost as much as others",
                "A zero takes as long to multiply as any number. To save time, the work must not be done at all.",
            ),
        ),
        right="c",
    ),
    Question(
        text="A dead expert gets no tokens. Why can V3's bias bring it back, where a higher learning rate could not?",
        options=(
            (
                "The bias moves without any gradient",
                "It rises at every step in which the expert is idle, until some tokens choose it. Section 5 "
                "shows the revival.",
            ),
            (
                "The bias makes its gradient larger",
                "Without tokens there is no gradient to enlarge. The bias is moved by a rule that looks at loads.",
            ),
            (
                "The bias adds to the expert's output",
                "It counts only for choosing. An expert that is not chosen has no output to add to.",
            ),
        ),
        right="a",
    ),
    Question(
        text="In section 4, the balanced routers wrote no better text than the collapsed one. What is balance "
        "good for, then?",
        options=(
            (
                "A token uses fewer experts and takes less work",
                "A token uses two experts in every run. Balance changes which ones, not how many.",
            ),
            (
                "Capacity in the long run, and machines that wait less",
                "Dead experts are wasted capacity, and the busiest expert makes all the others wait. 150 steps "
                "are too short to feel the first.",
            ),
            (
                "Nothing: the experiment shows that it has no use",
                "It shows no use in 150 steps of a tiny model. Section 4 says what such a run cannot show.",
            ),
        ),
        right="b",
    ),
    Question(
        text="A mixture has 64 routed experts, of which a token uses 6. Somebody cuts each into two of half the"
        " width, and a token now uses 12. How many expert parameters does a token use?",
        options=(
            (
                "Twice as many, as it uses 12 and not 6",
                "Each is half as large. Twelve halves make six.",
            ),
            (
                "Half as many, as they are half as wide",
                "Their width is halved, but a token uses twice as many of them.",
            ),
            (
                "As many as before, split in another way",
                "12 halves are 6 wholes, and the share stays: 12 of 128 is 6 of 64.",
            ),
        ),
        right="c",
    ),
)
