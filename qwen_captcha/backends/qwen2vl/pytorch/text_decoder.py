"""The text decoder of Qwen2-VL, run step by step with a cache of fixed capacity.

The logits equal those of the model's own forward pass. For a small model, that one spends more time
outside of arithmetic than in it.

Dims: B batch, T tokens of this pass, N last tokens whose logits are returned, K tokens so far, C
width, H heads, G key-value heads, S size of a head, V vocabulary.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLDecoderLayer, Qwen2VLRMSNorm

from qwen_captcha.backends.qwen2vl.pytorch.layers import FusedLinear, Rotation


class KeyValueCache:
    """Keys and values of all layers, allocated for every token of one batch."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.length = 0
        self._capacity = capacity
        self._stores: list[torch.Tensor | None] = [None] * layers

    def append(self, layer: int, states: torch.Tensor) -> torch.Tensor:
        """Store the states of a pass; return all so far.

        Args:
            layer: Number of the layer.
            states: (B, T, 2 * G, S), keys before values.

        Returns:
            (B, 2 * G, K, S).
        """
        states = states.transpose(1, 2)  # (B, 2 * G, T, S)
        store = self._stores[layer]
        if store is None:
            rows, heads, _, size = states.shape
            store = states.new_empty((rows, heads, self._capacity, size))
            self._stores[layer] = store
        end = self.length + states.shape[2]
        store[:, :, self.length : end] = states
        return store[:, :, :end]

    def shared(self, tokens: int) -> KeyValueCache:
        """Return a cache of the first tokens, which shares the memory of this one."""
        cache = KeyValueCache(len(self._stores), self._capacity)
        cache.length, cache._stores = tokens, list(self._stores)
        return cache

    def selected(self, rows: torch.Tensor, tokens: int) -> KeyValueCache:
        """Return a cache with a copy of the first tokens of some rows."""
        cache = KeyValueCache(len(self._stores), self._capacity)
        for layer, store in enumerate(self._stores):
            if store is not None:
                states = store[rows.to(store.device), :, :tokens]  # (R, 2 * G, K, S)
                cache.append(layer, states.transpose(1, 2))
        cache.advance(tokens)
        return cache

    def advance(self, tokens: int) -> None:
        """Count the tokens of a pass, after its last layer."""
        self.length += tokens


class TextDecoder:
    """Runs the layers of a loaded model's text part."""

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        self._text = model.model.language_model
        if self._text.has_sliding_layers:
            raise ValueError(
                "The checkpoint uses sliding-window attention, which is not supported."
            )
        self._layers = [_Layer(layer, number) for number, layer in enumerate(self._text.layers)]
        self._head = FusedLinear(model.lm_head)
        self._head_device = model.lm_head.weight.device

    @property
    def device(self) -> torch.device:
        """The device of the embeddings."""
        device: torch.device = self._text.embed_tokens.weight.device
        return device

    def new_cache(self, capacity: int) -> KeyValueCache:
        """Return an empty cache for a batch of `capacity` tokens a row."""
        return KeyValueCache(len(self._layers), capacity)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (B, T, C) of tokens (B, T)."""
        return functional.embedding(token_ids, self._text.embed_tokens.weight)

    def rotation(self, position_ids: torch.Tensor) -> Rotation:
        """Return the rotary embedding (B, T, 1, S) of M-RoPE positions (3, B, T)."""
        reference = self._text.embed_tokens.weight[:0]
        cos, sin = self._text.rotary_emb(reference, position_ids)  # (B, T, S) each
        return Rotation.from_cos_sin(cos.unsqueeze(2), sin.unsqueeze(2))

    def forward(
        self,
        embeddings: torch.Tensor,
        rotation: Rotation,
        mask: torch.Tensor | None,
        cache: KeyValueCache,
        wanted: int = 1,
    ) -> torch.Tensor:
        """Return the logits (B, N, V) of the last positions, and add this pass to the cache.

        Args:
            embeddings: (B, T, C).
            rotation: (B, T, 1, S), of these tokens.
            mask: (B, 1, T, K) bool, True where a token attends to another; None for causal
                attention.
            cache: The cache of the tokens before.
            wanted: N.
        """
        hidden = embeddings
        last = self._layers[-1]
        for layer in self._layers:
            hidden, rotation = hidden.to(layer.device), rotation.to(layer.device)
            mask = None if mask is None else mask.to(layer.device)
            last_only = layer is last and wanted == 1
            hidden = layer.forward(hidden, rotation, mask, cache, last_only=last_only)
        cache.advance(embeddings.shape[1])
        hidden = hidden[:, -wanted:].to(self._text.norm.weight.device)  # (B, N, C)
        return self._head(_norm(self._text.norm, hidden).to(self._head_device))  # (B, N, V)


class _Layer:
    """One layer, with the weights of a loaded layer.

    Args:
        layer: The loaded layer.
        number: Index of the layer in the cache.
    """

    def __init__(self, layer: Qwen2VLDecoderLayer, number: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.device: torch.device = layer.input_layernorm.weight.device
        self._number = number
        self._head_size: int = attention.head_dim
        self._heads: int = attention.num_heads
        # Heads that share a key-value head.
        self._sharing: int = attention.num_key_value_groups
        self._groups = self._heads // self._sharing
        self._before_attention = layer.input_layernorm
        self._states = FusedLinear(attention.q_proj, attention.k_proj, attention.v_proj)
        self._mix = FusedLinear(attention.o_proj)
        self._before_mlp = layer.post_attention_layernorm
        self._gate_and_up = FusedLinear(mlp.gate_proj, mlp.up_proj)
        self._activation = mlp.act_fn
        self._down = FusedLinear(mlp.down_proj)

    def forward(
        self,
        hidden: torch.Tensor,
        rotation: Rotation,
        mask: torch.Tensor | None,
        cache: KeyValueCache,
        *,
        last_only: bool,
    ) -> torch.Tensor:
        """Return the layer's result (B, T, C), or (B, 1, C) of the last token alone."""
        states = self._states(_norm(self._before_attention, hidden))  # (B, T, (H + 2 * G) * S)
        states = states.view(*states.shape[:2], -1, self._head_size)  # (B, T, H + 2 * G, S)
        rotation.turn_in_place(states[:, :, : -self._groups])
        known = cache.append(self._number, states[:, :, self._heads :])  # (B, 2 * G, K, S)
        keys, values = known.chunk(2, dim=1)  # (B, G, K, S) each
        query = states[:, :, : self._heads]  # (B, T, H, S)
        if last_only:
            # The cache has the keys of all tokens; only the last token's result is used.
            hidden, query = hidden[:, -1:], query[:, -1:]
            mask = None if mask is None else mask[:, :, -1:]
        hidden = hidden + self._mix(self._attend(query, keys, values, mask))
        gate, up = self._gate_and_up(_norm(self._before_mlp, hidden)).chunk(2, dim=-1)
        return hidden + self._down(self._activation(gate).mul_(up))

    def _attend(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return the attention of queries (B, T, H, S), as (B, T, H * S)."""
        rows, tokens, _, size = query.shape
        if tokens == 1:
            # Treat heads that share keys as further tokens, so that keys need no copies.
            query = query.reshape(rows, self._groups, self._sharing, size)  # (B, G, H / G, S)
        else:
            query = query.transpose(1, 2)  # (B, H, T, S)
            keys = keys.repeat_interleave(self._sharing, dim=1)  # (B, H, K, S)
            values = values.repeat_interleave(self._sharing, dim=1)  # (B, H, K, S)
        seen = functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=mask is None and tokens > 1
        )
        if tokens == 1:
            return seen.reshape(rows, 1, -1)
        return seen.transpose(1, 2).flatten(2)


def _norm(norm: Qwen2VLRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
    """Return the result of `norm`, computed by one operation instead of six."""
    weight = norm.weight
    return functional.rms_norm(hidden, weight.shape, weight, norm.variance_epsilon)
