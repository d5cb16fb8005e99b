"""Exercises of chapter 01: parameters, cache bytes and shapes of real models."""

from utils.exercises import Exercise, Mistake, Question


def _gqa_swiglu(hidden, heads, kv_heads, intermediate, *, kv=2, output=1, ffn=3, grouped=True):
    """Parameters of a layer's matrices; the keyword arguments leave pieces out, the way typical mistakes do."""
    kv_width = hidden // heads * kv_heads if grouped else hidden
    return hidden * hidden * (1 + output) + kv * hidden * kv_width + ffn * hidden * intermediate


def _mla(hidden, heads, q_rank, kv_rank, nope, rope, value, *, q_rope=1, key_heads=1, up=1, out=None):
    """Parameters of an MLA block's matrices; the keyword arguments make typical mistakes."""
    queries = hidden * q_rank + q_rank * heads * (nope + q_rope * rope)
    keys_values = hidden * (kv_rank + key_heads * rope) + up * kv_rank * heads * (nope + value)
    return queries + keys_values + (out or heads * value) * hidden


_V3_MLA = (7168, 128, 1536, 512, 128, 64, 128)
_EXPERT = 3 * 7168 * 2048

EXERCISES = (
    Exercise(
        id="01.1",
        level=1,
        minutes=5,
        hints=(
            "Count the matrices: Q, K, V and output in attention; gate, up and down in SwiGLU.",
            "One head is hidden // heads wide. K and V have kv_heads heads, not heads.",
            "Q and output: hidden * hidden each. K and V: hidden * kv_heads * head_dim each.",
        ),
        solution=(
            "def layer_parameters(hidden, heads, kv_heads, intermediate):\n"
            "    head_dim = hidden // heads\n"
            "    attention = 2 * hidden * hidden + 2 * hidden * kv_heads * head_dim  # Q, output, K, V\n"
            "    ffn = 3 * hidden * intermediate  # gate, up, down\n"
            "    return attention + ffn\n\n\n"
            "answer = layer_parameters"
        ),
        after="95 of these layers are all but 2.5 % of DeepSeek LLM 67B.",
        mistakes=(
            Mistake(
                lambda *shape: _gqa_swiglu(*shape, grouped=False),
                "That is plain multi-head attention. In GQA the K and V matrices have only kv_heads heads.",
            ),
            Mistake(
                lambda *shape: _gqa_swiglu(*shape, ffn=2),
                "That is a two-matrix FFN. SwiGLU has three matrices: gate, up and down.",
            ),
            Mistake(
                lambda *shape: _gqa_swiglu(*shape, output=0),
                "One hidden x hidden matrix is missing: attention also has an output projection.",
            ),
            Mistake(
                lambda *shape: _gqa_swiglu(*shape, kv=1),
                "K and V are two matrices of the same size. You have counted one of them.",
            ),
        ),
        probes=((8192, 64, 8, 22016), (576, 9, 3, 1536)),
    ),
    Exercise(
        id="01.2",
        level=1,
        minutes=4,
        hints=(
            "An expert is a SwiGLU: three matrices of 7168 x 2048.",
            "A token uses its top-k routed experts and, always, the shared one.",
        ),
        solution="answer = (8 + 1) * 3 * 7168 * 2048  # 8 routed experts and the shared one, three matrices each",
        after="Nine experts of 44 million parameters, out of 257: this is how 671 billion become 37 billion.",
        mistakes=(
            Mistake(8 * _EXPERT, "The shared expert is missing: every token goes through it too."),
            Mistake(
                257 * _EXPERT,
                "Those are all the experts of the layer. A token uses 8 routed ones and the shared.",
            ),
            Mistake(256 * _EXPERT, "Those are all the routed experts. A token uses 8 of them, and the shared one."),
            Mistake(9 * 2 * 7168 * 2048, "An expert is a SwiGLU with three matrices, not two."),
            Mistake(58 * 9 * _EXPERT, "That is for all 58 MoE layers. The question asks about one."),
            Mistake(9 * 3 * 7168 * 18432, "18,432 is the width of the dense layers. An expert is 2,048 wide."),
        ),
    ),
    Exercise(
        id="01.3",
        level=2,
        minutes=5,
        hints=(
            "MLA stores, per token and layer, one latent vector and one RoPE key that all heads share.",
            "61 layers x (512 + 64) numbers x 2 bytes x 131,072 tokens.",
        ),
        solution="answer = 61 * (512 + 64) * 2 * 131_072  # layers x (latent + RoPE key) x bytes x tokens",
        after="9.2 GB for one conversation of 131,072 tokens.",
        mistakes=(
            Mistake(
                61 * 512 * 2 * 131_072,
                "The RoPE key is missing. MLA stores the latent (512) and a shared key of 64 that carries position.",
            ),
            Mistake(
                61 * (512 + 64) * 2 * 2 * 131_072,
                "That counts K and V apart. In MLA one latent serves for both: no factor 2.",
            ),
            Mistake(
                61 * 128 * (192 + 128) * 2 * 131_072,
                "Those are the expanded keys and values of 128 heads. MLA stores the small latent instead.",
            ),
            Mistake(61 * (512 + 64) * 131_072, "Those are numbers, not bytes. A BF16 number takes 2 bytes."),
            Mistake(61 * (512 + 64) * 2, "Those are the bytes of one token. The question has 131,072 of them."),
        ),
    ),
    Exercise(
        id="01.4",
        level=2,
        minutes=6,
        hints=(
            "Solve 12 · layers · h² = 24 billion for h.",
            "h = sqrt(24e9 / (12 * 24)). Then try the multiples of 128 below and above it.",
        ),
        solution=(
            "def size(hidden):\n"
            "    return 12 * 24 * hidden**2\n\n\n"
            "answer = min(range(128, 20_000, 128), key=lambda hidden: abs(size(hidden) - 24e9))"
        ),
        after="Three times the width that the article gives. Size grows with the square of the width.",
        mistakes=(
            Mistake(3072, "3072 is the article's own number; it gives 2.7 billion. Solve for the width instead."),
            Mistake(9216, "Near: 9216 is the next multiple above. The one below comes closer to 24 billion."),
            Mistake(9129, "That is the exact width, rounded. The question asks for a multiple of 128."),
            Mistake((24e9 / (12 * 24)) ** 0.5, "That is the exact width. The question asks for a multiple of 128."),
            Mistake(6528, "Did you count the layers twice? The formula is 12 · layers · h², with 24 layers."),
        ),
    ),
    Exercise(
        id="01.5",
        level=3,
        minutes=10,
        hints=(
            "Five matrices: query down, query up, key-value down (with the RoPE key), key-value up, output.",
            "A query head is nope + rope wide. The RoPE key is made once, for all heads, straight from the input.",
            "Key-value up makes nope + value numbers for every head from the latent.",
        ),
        solution=(
            "def mla_parameters(hidden, heads, q_rank, kv_rank, nope, rope, value):\n"
            "    queries = hidden * q_rank + q_rank * heads * (nope + rope)\n"
            "    keys_values = hidden * (kv_rank + rope) + kv_rank * heads * (nope + value)\n"
            "    output = heads * value * hidden\n"
            "    return queries + keys_values + output\n\n\n"
            "answer = mla_parameters"
        ),
        after="187,105,280 a layer for DeepSeek-V3, where 4h² says 205,520,896.",
        mistakes=(
            Mistake(
                lambda *shape: _mla(*shape, key_heads=shape[1]),
                "You made a RoPE key for every head. MLA makes one, and all heads share it.",
            ),
            Mistake(
                lambda *shape: _mla(*shape, key_heads=0),
                "The RoPE key is missing: the key-value down projection makes kv_rank + rope numbers.",
            ),
            Mistake(
                lambda *shape: _mla(*shape, q_rope=0),
                "The queries lack their RoPE part: a query head is nope + rope wide.",
            ),
            Mistake(
                lambda *shape: _mla(*shape, up=0),
                "The up projection from the latent to keys and values is missing.",
            ),
            Mistake(
                lambda *shape: _mla(*shape, out=shape[0]),
                "The output projection starts from heads * value numbers, not from hidden.",
            ),
        ),
        probes=(_V3_MLA, (5120, 96, 1024, 256, 96, 32, 64)),
    ),
    Exercise(
        id="01.6",
        level=2,
        minutes=4,
        hints=(
            "Numbers per token: 2 · layers · kv_heads · head_dim for the 67B, layers · (latent + RoPE key) for V2.",
            "67B: 2 * 95 * 8 * 128 = 194,560. V2: 60 * (512 + 64) = 34,560. Compare the two.",
        ),
        solution="answer = 100 * (1 - 60 * (512 + 64) / (2 * 95 * 8 * 128))  # per cent saved",
        after="82.2 % comes from MLA. The rest of the published 93.3 % comes from storing 6 bits instead of 16.",
        mistakes=(
            Mistake(
                93.3,
                "93.3 % includes storing the cache in 6 bits. At equal precision only the counts differ.",
            ),
            Mistake(17.8, "That is the share that is left. The question asks for the share that is saved."),
            Mistake(0.822, "Right, as a fraction. Give it in per cent."),
            Mistake(84.2, "The RoPE key is missing: V2 stores 512 + 64 numbers per token and layer."),
        ),
        tolerance=3e-3,
    ),
)

QUIZ = (
    Question(
        text="A sentence of 20 tokens goes through DeepSeek-V3. You replace only the last token. Which of the "
        "other 19 outputs can change?",
        options=(
            (
                "All 19: every token attends to every other",
                "That is an encoder. Section 1 changes one token, and nothing before it moves: the mask is causal.",
            ),
            (
                "Only one: the output of its neighbour",
                "Attention is not about neighbours. Section 1 shows the change at all later positions, and at "
                "none before.",
            ),
            (
                "None: no token sees what comes after it",
                "The causal mask lets a position see itself and earlier ones. The last token comes after all others.",
            ),
        ),
        right="c",
    ),
    Question(
        text="A model like DeepSeek-V3 gets twice as many routed experts. Their width, and the 8 that each "
        "token uses, stay. What changes?",
        options=(
            (
                "Its size nearly doubles, the work a token hardly",
                "Nearly all parameters are experts, and a token still passes through 8 of them. Only the "
                "router, which is tiny, does more.",
            ),
            (
                "Its size and the work a token nearly double",
                "Work follows the activated parameters, not the total. A token still passes through 8 routed experts.",
            ),
            (
                "Its size stays, as each expert gets half as much",
                "That holds for plain attention's heads, which split one width. Experts are matrices of their own: the "
                "formula of section 4 has E · 3hf for them.",
            ),
        ),
        right="a",
    ),
    Question(
        text="A report counts activated parameters with the output head, but without the embedding. What is a "
        "good reason for that?",
        options=(
            (
                "The embedding is much smaller than the head",
                "Both are tables of vocabulary times hidden size. In V3 they hold equally many parameters.",
            ),
            (
                "A token reads one row of it and multiplies nothing",
                "The embedding is a lookup. The head is a matrix product, so all of it works on the token.",
            ),
            (
                "The embedding is the same matrix as the head",
                "Only where the two are tied. V3 has both, and section 4 counts them one by one.",
            ),
        ),
        right="b",
    ),
    Question(
        text="A conversation with DeepSeek-V3 grows from 1,000 to 100,000 tokens. What happens to the work for "
        "one new token?",
        options=(
            (
                "Attention takes more, the weights take the same",
                "Each new token is compared with all earlier ones, while it meets each activated weight once. "
                "Section 9 shows both columns.",
            ),
            (
                "Attention and weights both take 100 times more",
                "The weights meet only the new token, however long the text is: 2 FLOPs each. See the first "
                "column of section 9.",
            ),
            (
                "Neither takes more, thanks to the KV cache",
                "The cache saves making old keys and values again. The new token must still be compared with "
                "all of them.",
            ),
        ),
        right="a",
    ),
    Question(
        text="At each decoding step, absorbed MLA takes about three times the FLOPs of attention with cached keys "
        "and values. Why is it used all the same?",
        options=(
            (
                "It gives better answers for the same cache",
                "All ways to compute MLA give the same result. Section 9 checks it.",
            ),
            (
                "It reads far fewer bytes from memory",
                "The latents are 71 times smaller than the keys and values of all heads, and reading is what a step "
                "waits for.",
            ),
            (
                "It skips old tokens that matter little",
                "That is sparse attention, as in V3.2. Absorbed MLA still compares with every old token.",
            ),
        ),
        right="b",
    ),
)
