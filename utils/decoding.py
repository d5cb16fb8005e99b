"""The language model, run from the integers of its own file: they are not rounded anew; scales and inputs are, to BF16.

The file keeps most matrices in Q4_1 (groups of 32 weights share a scale d and a minimum m: w = d q + m, q from 0 to 15)
and the embedding, which is also the head, in Q8_0 (w = d q, q from -128 to 127). PyTorch has a product for groups of
four bits, w = s (q - 8) + z. With s = d and z = m + 8 d it takes the file's own integers. The 8-bit integers are cut
into two halves of four bits, q = 16 h + l, and each half has its product.

A short loop goes with it: queries, keys and values come from one product, gate and up from another, and keys and
values of all layers lie in one buffer, cut into the layers' parts once a step. One token (or a few) reads four bits a
weight; a prompt reads a copy in `wide` precision, since many rows at once are limited by arithmetic, not by bytes. In
BF16 it is laid out once in oneDNN's order, which a plain product does at every call.
"""

import os
from types import SimpleNamespace

import gguf
import torch
from torch.nn.functional import embedding, silu
from torch.nn.functional import scaled_dot_product_attention as attend

from utils import measure, models
from utils.errors import InputError

GROUP = 32  # weights that share a scale in Q4_1 and Q8_0
FEW = 8  # rows up to which the four bits are used; where they stop being faster differs between processors


def whole_numbers(tensor: gguf.ReaderTensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a matrix of a GGUF file keeps: q (rows, inputs) in 8 bits, scales d and minimums m (rows, groups).

    w = d q + m in each group of 32. Raises InputError for another format than Q4_1 and Q8_0.
    """
    head = {"Q4_1": 4, "Q8_0": 2}.get(tensor.tensor_type.name)  # bytes of a block before its integers
    if head is None:
        raise InputError(f"{tensor.name} is in {tensor.tensor_type.name}; allowed are Q4_1 and Q8_0")
    rows = tensor.data.shape[0]
    blocks = torch.tensor(tensor.data).view(rows, -1, head + (16 if head == 4 else 32))
    floats = blocks[..., :head].contiguous().view(torch.float16).float()
    packed = blocks[..., head:]
    if head == 2:
        return packed.view(torch.int8).flatten(1), floats[..., 0], torch.zeros_like(floats[..., 0])
    return torch.cat((packed & 15, packed >> 4), -1).flatten(1), floats[..., 0], floats[..., 1]


class FourBits:
    """A product with matrices of the file, stacked: (rows, inputs) bfloat16 -> (rows, outputs) bfloat16.

    Attributes:
        halves: for each four bits of a weight, the packed integers, and s and z as (groups, outputs, 2) bfloat16.
        dense: a copy for many rows, (outputs, inputs); Q4_1 in BF16 lies in oneDNN's order, which `to_dense()` undoes.

    Raises InputError for no matrix, or matrices in several formats.
    """

    def __init__(self, *tensors: gguf.ReaderTensor, wide: torch.dtype = torch.bfloat16) -> None:
        formats = {tensor.tensor_type.name for tensor in tensors}
        if len(formats) != 1:
            raise InputError(f"stacked matrices must have one format; got {sorted(formats)}")
        q, d, m = (torch.cat(parts) for parts in zip(*map(whole_numbers, tensors), strict=True))
        self.dense = torch.addcmul(m[..., None], d[..., None], q.view(*d.shape, GROUP)).flatten(1).to(wide)
        eight = formats == {"Q8_0"}  # the embedding, of which rows are taken, too
        if wide == torch.bfloat16 and not eight and torch.backends.mkldnn.is_available():
            self.dense = torch.ops.mkldnn._reorder_linear_weight(self.dense, 1)
        parts = [((q >> 4) + 8, 16 * d, m), (q & 15, d, m + 8 * d)] if eight else [(q, d, m + 8 * d)]
        self.halves = [
            (
                torch._convert_weight_to_int4pack_for_cpu(four.int(), 1),
                torch.stack((s, z), -1).transpose(0, 1).bfloat16().contiguous(),
            )
            for four, s, z in parts
        ]

    @property
    def nbytes(self) -> int:
        """Bytes that one token fetches of it."""
        return sum(packed.nbytes + scales.nbytes for packed, scales in self.halves)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.few(x) if len(x) <= FEW else self.many(x)

    def many(self, x: torch.Tensor) -> torch.Tensor:
        """The product with the copy."""
        if self.dense.is_mkldnn:
            return torch.ops.mkldnn._linear_pointwise(x, self.dense, None, "none", [], "")
        return (x.to(self.dense.dtype) @ self.dense.T).bfloat16()

    def few(self, x: torch.Tensor) -> torch.Tensor:
        """The product in four bits, for any number of rows."""
        (packed, scales), *second = self.halves
        y = torch._weight_int4pack_mm_for_cpu(x, packed, GROUP, scales)
        return y + torch._weight_int4pack_mm_for_cpu(x, second[0][0], GROUP, second[0][1]) if second else y


class FourBitModel:
    """The course's language model on its file's own integers, for greedy decoding on the CPU.

    Args:
        length: tokens that the buffer of keys and values holds, prompt and answer together.
        batch: prompts of the same length that are read at once.

    Set `at` to a place that has been read, and `read` goes on from there; 0 begins a new text.

    Raises InputError where `COURSE_MODEL` names another model, which has no such file, and for a buffer of no tokens
    or prompts, or longer than the model's context.
    """

    def __init__(self, length: int = 1024, batch: int = 1) -> None:
        if os.environ.get("COURSE_MODEL"):
            raise InputError("COURSE_MODEL names another model; the file of four bits is SmolLM2's")
        reader = gguf.GGUFReader(models.gguf_file())
        named = {tensor.name: tensor for tensor in reader.tensors}

        def field(name: str) -> float:
            return reader.get_field(f"llama.{name}").contents()

        context = field("context_length")
        if not 1 <= length <= context or batch < 1:
            raise InputError(f"length must be from 1 to {context}, batch 1 or more; got {length} and {batch}")
        self.width, self.heads, self.shared = (
            field(name) for name in ("embedding_length", "attention.head_count", "attention.head_count_kv")
        )
        self.size = self.width // self.heads  # of a head
        # A norm divides by the root of the mean square; here the mean is a sum, and the gains take the rest.
        self.tiny = torch.tensor([[self.width * field("attention.layer_norm_rms_epsilon")]])
        wide = torch.bfloat16 if measure.has_fast_bfloat16("cpu") else torch.float32

        def gains(name: str) -> torch.Tensor:
            return torch.tensor(named[f"{name}.weight"].data) * self.width**0.5

        def product(*names: str) -> FourBits:
            return FourBits(*(named[f"{name}.weight"] for name in names), wide=wide)

        self.layers = [
            (
                gains(f"blk.{n}.attn_norm"),
                product(*(f"blk.{n}.attn_{which}" for which in "qkv")),
                product(f"blk.{n}.attn_output"),
                gains(f"blk.{n}.ffn_norm"),
                product(f"blk.{n}.ffn_gate", f"blk.{n}.ffn_up"),
                product(f"blk.{n}.ffn_down"),
            )
            for n in range(field("block_count"))
        ]
        self.last, self.head = gains("output_norm"), product("token_embd")
        shape = len(self.layers), batch, 2 * self.shared, length, self.size  # the third: keys, then values
        self.cache = torch.zeros(shape, dtype=torch.bfloat16)
        # The file keeps the numbers of a query in pairs, so a rotation is a product of complex numbers. Values stay.
        angles = torch.outer(torch.arange(length), field("rope.freq_base") ** -(torch.arange(0, 1, 2 / self.size)))
        angles = angles[:, None].repeat(1, self.heads + 2 * self.shared, 1)  # (length, heads, size / 2)
        angles[:, -self.shared :] = 0
        self.turns = torch.polar(torch.ones_like(angles), angles)
        self.length, self.batch, self.at = length, batch, 0
        self.filled, self.rows = 0, 0  # tokens and prompts in the buffer
        self.config, self.device = SimpleNamespace(max_position_embeddings=length), torch.device("cpu")

    @property
    def products(self) -> list[FourBits]:
        """All that a token is multiplied by, in order; the head is the last."""
        return [part for layer in self.layers for part in layer if isinstance(part, FourBits)] + [self.head]

    @property
    def bytes_a_token(self) -> int:
        """Bytes of weights that decoding fetches for a token."""
        return sum(product.nbytes for product in self.products)

    def __call__(self, input_ids: torch.Tensor) -> SimpleNamespace:
        """Logits of a text from its start, as transformers' models give them: (batch, tokens, vocabulary)."""
        self.at = 0
        return SimpleNamespace(logits=self.read(input_ids, every=True))

    @torch.inference_mode()
    def read(self, ids: torch.Tensor, every: bool = False) -> torch.Tensor:
        """Read on from place `at`. ids: (batch, tokens) -> logits (batch, 1, vocabulary), or of `every` token.

        Raises InputError for no token, more tokens or prompts than the buffer takes, a place that has not been read,
        and several tokens at once that are not a start.
        """
        batch, n = ids.shape
        start, end, heads, shared, size = self.at, self.at + n, self.heads, self.shared, self.size
        if not 1 <= batch <= self.batch:
            raise InputError(f"the buffer is for 1 to {self.batch} prompts; got {batch}")
        if start and not (0 < start <= self.filled and batch == self.rows):
            there = f"{self.filled} tokens of {self.rows} prompts"
            raise InputError(f"the buffer holds {there}; it cannot go on at {start} with {batch}")
        if not 1 <= n <= self.length - start:
            raise InputError(f"from 1 to {self.length - start} tokens fit the buffer here; got {n}")
        if n > 1 and start:
            raise InputError("several tokens at once must be the start of a text: set `at` to 0, or read one by one")
        x = embedding(ids, self.head.dense).float().view(batch * n, self.width)
        # What the layers share: room for the queries, keys and values of these tokens, and how it is looked at.
        room = torch.empty(batch, n, heads + 2 * shared, size)
        flat, turns = room.view(batch * n, -1), self.turns[start:end]
        pairs = torch.view_as_complex(room.view(batch, n, -1, size // 2, 2))
        asked, others = room.transpose(1, 2).split((heads, 2 * shared), 1)
        q = torch.empty(asked.shape, dtype=torch.bfloat16)
        known = self.cache[:, :batch, :, :end]
        parts = known[:, :, :, start:], known[:, :, :shared], known[:, :, shared:]
        # At one token, queries that share a key stand like several tokens.
        rows, how = (q.view(batch, shared, -1, size), {}) if n == 1 else (q, {"is_causal": True, "enable_gqa": True})
        for layer, new, k, v in zip(self.layers, *map(torch.unbind, parts), strict=True):
            gain, qkv, out, gain_2, gate_up, down = layer
            flat.copy_(qkv(self.norm(x, gain)))
            pairs.mul_(turns)
            q.copy_(asked)
            new.copy_(others)
            y = attend(rows, k, v, **how)
            x += out((y if n == 1 else y.transpose(1, 2)).reshape(batch * n, self.width))
            gate, up = gate_up(self.norm(x, gain_2)).chunk(2, -1)
            x += down(silu(gate) * up)
        self.at, self.filled, self.rows = end, end, batch
        x = x if every else x.view(batch, n, self.width)[:, -1]
        return self.head(self.norm(x, self.last)).view(batch, -1, len(self.head.dense))

    def norm(self, x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        """RMSNorm of (rows, width) float32 -> bfloat16, in fewer steps than the library's."""
        squares = torch.addmm(self.tiny, x, x.T) if len(x) == 1 else x.square().sum(-1, True) + self.tiny
        return (x * squares.rsqrt_()).mul_(gain).bfloat16()

    def write(self, ids: torch.Tensor, tokens: int) -> torch.Tensor:
        """Greedy decoding of (batch, tokens) prompts -> (batch, `tokens`) new tokens; ends of text do not stop it.

        Raises InputError as `read` does, and for fewer than 1 new token or more than the buffer has room for.
        """
        room = self.length - ids.shape[1] + 1
        if not 1 <= tokens <= room:
            raise InputError(f"from 1 to {room} new tokens fit the buffer after this prompt; got {tokens}")
        self.at, written = 0, []
        for _ in range(tokens):
            ids = self.read(ids).argmax(-1)
            written.append(ids)
        return torch.cat(written, 1)
