"""Exercises of chapter 06: sizes after 8-bit loading, absmax codes, outlier features, cache room, a device map."""

from utils.exercises import Exercise, Mistake, Question


def _codes(row: list, scale=lambda row: max(abs(x) for x in row), steps: int = 127, to_whole=round) -> list:
    largest = scale(row)
    return [to_whole(steps * x / largest) for x in row] if largest else [0] * len(row)


def _place(layers: list, cards: list, goes_back: bool = False, disk_is_final: bool = True, exact: bool = True) -> list:
    left, card, placed = list(cards), 0, []
    for size in layers:
        if disk_is_final and "disk" in placed:
            placed.append("disk")
            continue
        chosen = range(0 if goes_back else card, len(cards))
        fits = [c for c in chosen if size <= left[c] and (exact or size < left[c])]
        if not fits:
            placed.append("disk")
            continue
        card = fits[0]
        left[card] -= size
        placed.append(card)
    return placed


EXERCISES = (
    Exercise(
        id="06.1",
        level=1,
        minutes=5,
        hints=(
            "How many parameters become 8 bit? All but the kept ones.",
            "2 bytes for each kept parameter, 1 byte for each of the others.",
        ),
        solution="def loaded_bytes(total, kept):\n    return 2 * kept + (total - kept)\n\n\nanswer = loaded_bytes",
        after="For DeepSeek-V3, kept is nearly everything: its fused experts alone are 97 %.",
        mistakes=(
            Mistake(lambda total, kept: total, "That is one byte for everything. The kept ones take two."),
            Mistake(
                lambda total, kept: 2 * kept + total,
                "The kept parameters are part of the total, and now counted three times.",
            ),
            Mistake(lambda total, kept: kept + 2 * (total - kept), "The other way round: the kept ones take two."),
            Mistake(lambda total, kept: 2 * total, "That is 16 bit for everything: the size before."),
        ),
        probes=((1000, 0), (1000, 300), (134_515_008, 28_346_688)),
    ),
    Exercise(
        id="06.2",
        level=1,
        minutes=6,
        hints=(
            "First find the largest absolute value of the row. It gets the code 127, or -127.",
            "round(127 * x / largest) for each x, and a special case for a row of zeros.",
        ),
        solution="def int8_row(row):\n"
        "    largest = max(abs(x) for x in row)\n"
        "    return [round(127 * x / largest) if largest else 0 for x in row]\n\n\nanswer = int8_row",
        after="With 100 in a row, all small entries share one code. That is why outliers are split off.",
        mistakes=(
            Mistake(
                lambda row: _codes(row, scale=max),
                "The largest entry may be negative: take the largest absolute value.",
            ),
            Mistake(lambda row: _codes(row, to_whole=int), "int() cuts off; round() goes to the nearest whole number."),
            Mistake(lambda row: _codes(row, steps=128), "The codes run from -127 to 127, the same on both sides."),
            Mistake(
                lambda row: _codes(row, scale=lambda row: max(row) - min(row), steps=255),
                "That is the scale of a zero-point scheme. Absmax needs only the largest absolute value.",
            ),
        ),
        probes=(([1.0, -2.0, 0.75],), ([0.0, 0.0],), ([100.0, 0.3, -0.2, 0.1],), ([-5.0, 1.0, 4.0],)),
    ),
    Exercise(
        id="06.3",
        level=2,
        minutes=7,
        hints=(
            "Go through the features, and for each through all tokens. One outlier is enough.",
            "[f for f in range(len(rows[0])) if any(abs(row[f]) >= threshold for row in rows)]",
        ),
        solution="def outlier_features(rows, threshold):\n"
        "    return [f for f in range(len(rows[0])) if any(abs(row[f]) >= threshold for row in rows)]\n\n\n"
        "answer = outlier_features",
        after="One outlier in one token takes the whole feature to 16 bit, for every token of the batch.",
        mistakes=(
            Mistake(
                lambda rows, threshold: [f for f in range(len(rows[0])) if any(row[f] >= threshold for row in rows)],
                "A large negative entry is an outlier as well: compare absolute values.",
            ),
            Mistake(
                lambda rows, threshold: [
                    f for f in range(len(rows[0])) if all(abs(row[f]) >= threshold for row in rows)
                ],
                "A single token with an outlier is enough, not all of them.",
            ),
            Mistake(
                lambda rows, threshold: [
                    f for f in range(len(rows[0])) if any(abs(row[f]) > threshold for row in rows)
                ],
                "An entry of exactly the threshold counts as an outlier.",
            ),
            Mistake(
                lambda rows, threshold: [
                    t for t, row in enumerate(rows) if any(abs(entry) >= threshold for entry in row)
                ],
                "Those are the tokens. The split is by feature: the columns.",
            ),
        ),
        probes=(
            ([[0.1, 7.0, 0.0], [0.2, 1.0, -9.0]], 6.0),
            ([[6.0, 1.0], [0.0, 0.0]], 6.0),
            ([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]], 6.0),
            ([[0.0, 0.5, 8.0], [-7.0, 0.0, 9.0]], 6.0),
            ([[1.0, 6.5]], 6.0),
        ),
    ),
    Exercise(
        id="06.4",
        level=2,
        minutes=8,
        hints=(
            "First the bytes of one token: layers, heads, numbers of a head, keys and values, bytes of a number.",
            "10e9 bytes are left. One token takes 60 * 2 * 8 * 128 * 2 bytes.",
        ),
        solution="answer = 10 * 10**9 // (60 * 2 * 8 * 128 * 2)",
        after="With MLA (576 numbers a layer, for keys and values together) it would be more than three times as many.",
        mistakes=(
            Mistake(
                10 * 10**9 // (60 * 8 * 128 * 2),
                "Twice too many. A token has a key and a value, and each number of the cache takes 2 bytes.",
            ),
            Mistake(10 * 10**9 // (2 * 8 * 128 * 2), "That is the cache of one layer. There are 60."),
            Mistake(80 * 10**9 // (60 * 2 * 8 * 128 * 2), "70 GB of the card are taken by the weights."),
            Mistake(10 * 2**30 // (60 * 2 * 8 * 128 * 2), "The task counts a GB as 10**9 bytes, not as 2**30."),
        ),
    ),
    Exercise(
        id="06.5",
        level=3,
        minutes=12,
        hints=(
            "Keep two things while you go through the layers: the number of the present card, and what is left of it.",
            "While the layer does not fit the present card, move on to the next; after the last comes the disk.",
        ),
        solution="def place_layers(layers, cards):\n"
        "    card, left, placed = 0, cards[0], []\n"
        "    for size in layers:\n"
        "        while card < len(cards) and size > left:\n"
        "            card += 1\n"
        "            left = cards[card] if card < len(cards) else 0\n"
        '        placed.append(card if card < len(cards) else "disk")\n'
        "        left -= size\n"
        "    return placed\n\n\nanswer = place_layers",
        after="That is the core of infer_auto_device_map. Never going back keeps the data moving in one direction.",
        mistakes=(
            Mistake(
                lambda layers, cards: _place(layers, cards, goes_back=True, disk_is_final=False),
                "A small layer must not go back to an earlier card: the data would travel to and fro.",
            ),
            Mistake(
                lambda layers, cards: _place(layers, cards, disk_is_final=False),
                "After the first layer on the disk, all later ones go there too, even if they would fit.",
            ),
            Mistake(
                lambda layers, cards: _place(layers, cards, exact=False),
                "A layer that fills a card exactly does fit.",
            ),
        ),
        probes=(
            ([3, 3, 3], [10]),
            ([5, 5, 2, 4], [10, 6]),
            ([6, 5, 3, 1], [10, 8]),
            ([4, 9, 1], [5, 5]),
        ),
    ),
)

QUIZ = (
    Question(
        text='A script looks into the local cache, finds no "deepseek-13b", and reports: "This model does not '
        'exist." What is the flaw?',
        options=(
            (
                "A real model may be missing there as well",
                "Section 1 asks an empty cache for both names and gets the same answer. Such a test cannot tell"
                " them apart.",
            ),
            (
                "The script should have looked twice or more",
                "The cache gives the same answer each time. What is missing is a test that would come out "
                "otherwise for a real model.",
            ),
            (
                "The cache knows only the models of its owner",
                "It knows what was downloaded to this machine, whoever published it. So it says nothing about "
                "what exists.",
            ),
        ),
        right="a",
    ),
    Question(
        text="bitsandbytes loads three models in 8 bit. Which one keeps most of its 16-bit bytes?",
        options=(
            (
                "A dense model of 67 billion parameters",
                "Nearly all of it is nn.Linear, so it comes close to a half. Section 3 computes 51 %.",
            ),
            (
                "A dense model of 1 billion, not tied",
                "Its embedding and head weigh more than in a large model, but all its projections still shrink.",
            ),
            (
                "A mixture with fused routed experts",
                "Fused experts are no nn.Linear and stay in 16 bit. V2-Lite keeps 97 % of its bytes.",
            ),
        ),
        right="c",
    ),
    Question(
        text="A model takes 25 GB in 8 bit. On a 40 GB card one conversation runs, but 32 at once run out of "
        "memory. What takes the room?",
        options=(
            (
                "A copy of the weights for each conversation",
                "All rows of a batch share one set of weights. What each brings along is its own cache.",
            ),
            (
                "The cache and activations of all their tokens",
                "Both grow with context times batch. Section 6 plans with that, not with weights alone.",
            ),
            (
                "The scales that INT8 keeps for each of them",
                "Scales belong to the weights, one for each row, and are a small part. More conversations bring"
                " no more of them.",
            ),
        ),
        right="b",
    ),
    Question(
        text="A dense model takes 60 GB, 30 GB of it offloaded to a disk that reads 3 GB/s. How fast can it "
        "write at best?",
        options=(
            (
                "As in memory, once the first token is out",
                "The offloaded layers are dropped after use, as memory has no room for them. Each token fetches"
                " them again.",
            ),
            (
                "One token about every ten seconds",
                "Every token needs every offloaded layer: 30 GB at 3 GB/s.",
            ),
            (
                "One token about every twenty seconds",
                "That reads all 60 GB. Half of the model stays in memory; only the other half is fetched.",
            ),
        ),
        right="b",
    ),
)
