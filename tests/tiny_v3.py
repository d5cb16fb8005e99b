"""A DeepSeek-V3 small enough to be built anew in every test."""

TINY_V3 = {
    "hidden_size": 32, "num_hidden_layers": 3, "first_k_dense_replace": 1,
    "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 12, "kv_lora_rank": 10,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 6, "v_head_dim": 5, "intermediate_size": 40,
    "moe_intermediate_size": 16, "n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 1,
    "n_group": 4, "topk_group": 2, "max_position_embeddings": 128, "num_mtp_layers": 0,
}  # fmt: skip
