"""A model's twin computes, in bfloat16 where that is fast and in few kernels; the model keeps its float32 weights.

On a CPU, a training step is made of hundreds of small kernels, and of copies from float32. The twin copies once a step,
needs about half the kernels, and never holds the logits of all tokens. It computes what the library's model computes.
"""

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.moe import ExpertsInterface
from transformers.masking_utils import eager_mask

FEW = "few_kernels"  # this module's attention and experts, as the library calls them
BLOCK = 64  # an expert's rows are filled up to a multiple: oneDNN builds a kernel for each new size of a product
ROWS = 256  # tokens whose logits are held at once


class Twin:
    """A copy of a causal language model, to train it fast. Called with tokens, it gives the loss.

    After `backward()`, `hand_over` the gradients to the model; after the optimizer's step, `refresh` the copy.
    `computing` is the copy, where hooks belong. Buffers are shared; weights too, if the products keep their `dtype`.
    """

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        shared = [*model.buffers(), *(model.parameters() if dtype == model.dtype else ())]
        self.computing = copy.deepcopy(model, {id(tensor): tensor for tensor in shared})
        for weight in self.computing.parameters():
            weight.data = weight.data.to(dtype)
        on_cpu = model.device.type == "cpu"
        self.computing.set_attn_implementation(FEW if on_cpu else "sdpa")
        if any(hasattr(module, "gate_up_proj") for module in model.modules()):
            self.computing.set_experts_implementation(FEW if on_cpu else "grouped_mm")
        for module in self.computing.modules():
            if hasattr(module, "variance_epsilon"):  # an RMSNorm of the library
                module.forward = lambda x, norm=module: _Norm.apply(x, norm.weight, norm.variance_epsilon)
        both = zip(model.parameters(), self.computing.parameters(), strict=True)
        self.pairs = [(weight, twin) for weight, twin in both if weight is not twin]

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """Mean loss of the tokens after the first, in nats, in float32. ids: (windows, tokens)"""
        hidden = self.computing.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        return _HeadLoss.apply(hidden.flatten(0, 1), self.computing.lm_head.weight, ids[:, 1:].flatten())

    def hand_over(self) -> None:
        for weight, twin in self.pairs:
            weight.grad, twin.grad = twin.grad.to(weight.dtype), None

    @torch.no_grad()
    def refresh(self) -> None:
        for weight, twin in self.pairs:
            twin.copy_(weight)


class _Norm(torch.autograd.Function):
    """x over the root of its mean square, times a weight. Torch's own runs a dozen kernels on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.rsqrt(length.square_() / x.shape[-1] + eps).to(x.dtype)
        ctx.save_for_backward(normed := x * scale, weight, scale)
        return normed * weight

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        normed, weight, scale = ctx.saved_tensors
        both = grad * normed
        along = both @ weight[:, None] / normed.shape[-1]
        return torch.addcmul(grad * weight, normed, along, value=-1).mul_(scale), both.flatten(0, -2).sum(0), None


class _HeadLoss(torch.autograd.Function):
    """Mean cross-entropy of `hidden @ weight.T`, its gradient made on the way, while the logits are in the cache.

    Torch's `linear_cross_entropy` does so too, but gives a bfloat16 loss: 8.5 for 8.56.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
        to_hidden, to_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        total = to_weight.new_zeros(())
        parts = (tensor.split(ROWS) for tensor in (hidden, answers[:, None], to_hidden))
        for rows, wanted, out in zip(*parts, strict=True):
            logs = torch.log_softmax(rows @ weight.T, dim=-1, dtype=torch.float32)  # (rows, vocabulary)
            total -= logs.gather(1, wanted).sum()
            slope = logs.exp_().scatter_add_(1, wanted, logs.new_full(wanted.shape, -1.0)).to(hidden.dtype)
            torch.mm(slope, weight, out=out)
            to_weight += slope.T @ rows
        ctx.save_for_backward(to_hidden, to_weight.to(weight.dtype))
        return total / len(hidden)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        to_hidden, to_weight = ctx.saved_tensors
        return to_hidden * (grad / len(to_hidden)), to_weight * (grad / len(to_hidden)), None


def _attention(module: nn.Module, query, key, value, mask, scaling: float, **_: Any) -> tuple[torch.Tensor, None]:
    # MLA's values are narrower than its keys: there "sdpa" has no fused kernel on a CPU, and multiplies in float32.
    groups = query.shape[1] // key.shape[1]
    scores = (query * scaling) @ key.repeat_interleave(groups, 1).mT + mask  # (windows, heads, tokens, tokens)
    return (scores.softmax(-1) @ value.repeat_interleave(groups, 1)).transpose(1, 2).contiguous(), None


def _experts(self: nn.Module, x: torch.Tensor, chosen: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """The library's "grouped_mm", with rows of zeros between the experts. x: (tokens, hidden); others: (tokens, k)"""
    loads = torch.bincount(chosen.flatten(), minlength=self.num_experts)
    ends = ((loads + BLOCK - 1) // BLOCK * BLOCK).cumsum(0)
    order = chosen.flatten().argsort(stable=True)
    zeros_before = functional.pad((ends - loads.cumsum(0))[:-1], (1, 0)).repeat_interleave(loads)
    slots = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=x.device) + zeros_before)
    rows = x.new_zeros(int(ends[-1]), x.shape[1]).index_copy(0, slots, x.repeat_interleave(chosen.shape[1], 0))
    up = functional.grouped_mm(rows, self.gate_up_proj.mT, offs=ends.int())
    down = functional.grouped_mm(self._apply_gate(up), self.down_proj.mT, offs=ends.int())
    return (shares.to(x.dtype)[:, None] @ down.index_select(0, slots).unflatten(0, chosen.shape))[:, 0]


AttentionInterface.register(FEW, _attention)
AttentionMaskInterface.register(FEW, eager_mask)
ExpertsInterface.register(FEW, _experts)
