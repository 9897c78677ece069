"""Qwen2-VL's text model, run step by step over a cache of known size.

Responsible for: the forward pass from embeddings to the logits of the last position, with the
checkpoint's own layers. Leaves the steps to `continuation.py`. Invariant: the logits equal those
of the model's own forward pass, whose bookkeeping costs more than the arithmetic of a small model.

Dims: B batch, T tokens of this pass, K tokens so far, C width, H heads, G key-value heads,
S size of a head, V vocabulary.
"""

from __future__ import annotations

import torch
from torch.nn import functional
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLAttention, Qwen2VLRMSNorm

from qwen_captcha.backends.rotation import Rotation


class KeyValueCache:
    """Keys and values of all layers, with room for every token of one batch."""

    def __init__(self, layers: int, capacity: int) -> None:
        self.length = 0
        self._capacity = capacity
        self._stores: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * layers

    def append(
        self, layer: int, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store the keys and values (B, G, T, S) of a pass; return all so far (B, G, K, S)."""
        store = self._stores[layer]
        if store is None:
            rows, groups, _, size = keys.shape
            shape = (rows, groups, self._capacity, size)
            store = self._stores[layer] = (keys.new_empty(shape), values.new_empty(shape))
        end = self.length + keys.shape[2]
        for kept, new in zip(store, (keys, values), strict=True):
            kept[:, :, self.length : end] = new
        return store[0][:, :, :end], store[1][:, :, :end]

    def shared(self, tokens: int) -> KeyValueCache:
        """Return a cache of the first tokens that goes on in the same memory."""
        cache = KeyValueCache(len(self._stores), self._capacity)
        cache.length, cache._stores = tokens, list(self._stores)
        return cache

    def selected(self, rows: torch.Tensor, tokens: int) -> KeyValueCache:
        """Return a copy of the first tokens of the rows at some places."""
        cache = KeyValueCache(len(self._stores), self._capacity)
        for layer, store in enumerate(self._stores):
            if store is not None:
                places = rows.to(store[0].device)
                keys, values = (kept[places, :, :tokens] for kept in store)
                cache.append(layer, keys, values)
        cache.advance(tokens)
        return cache

    def advance(self, tokens: int) -> None:
        """Count the tokens of a pass, after its last layer."""
        self.length += tokens


class TextDecoder:
    """Runs the layers of a loaded model's text part."""

    def __init__(self, model: Qwen2VLForConditionalGeneration) -> None:
        self._text = model.model.language_model
        self._head = model.lm_head
        if self._text.has_sliding_layers:
            raise ValueError("The checkpoint uses sliding-window attention, which is not served.")

    @property
    def device(self) -> torch.device:
        """Where embeddings are."""
        device: torch.device = self._text.embed_tokens.weight.device
        return device

    def new_cache(self, capacity: int) -> KeyValueCache:
        """Return an empty cache for a batch of `capacity` tokens a row."""
        return KeyValueCache(len(self._text.layers), capacity)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings (B, T, C) of tokens (B, T)."""
        embeddings: torch.Tensor = self._text.embed_tokens(token_ids)
        return embeddings

    def rotation(self, position_ids: torch.Tensor) -> Rotation:
        """Return the rotary embedding (B, 1, T, S) of M-RoPE positions (3, B, T)."""
        reference = self._text.embed_tokens.weight[:0]
        cos, sin = self._text.rotary_emb(reference, position_ids)  # (B, T, S) each
        return Rotation.from_cos_sin(cos.unsqueeze(1), sin.unsqueeze(1))

    def forward(
        self,
        embeddings: torch.Tensor,
        rotation: Rotation,
        mask: torch.Tensor | None,
        cache: KeyValueCache,
    ) -> torch.Tensor:
        """Return the logits (B, V) of the token after the last one.

        Args:
            embeddings: (B, T, C).
            rotation: (B, 1, T, S).
            mask: (B, 1, T, K) bool, True where a token sees another one; None: all before it.
            cache: Holds the tokens before; gets these ones.
        """
        hidden = embeddings
        for number, layer in enumerate(self._text.layers):
            device = layer.input_layernorm.weight.device
            hidden, rotation = hidden.to(device), rotation.to(device)
            mask = None if mask is None else mask.to(device)
            normed = _norm(layer.input_layernorm, hidden)  # (B, T, C)
            keys, values = _remember(layer.self_attn, number, normed, rotation, cache)
            if number == len(self._text.layers) - 1:
                # The keys of all tokens are kept; of the result only the last token matters.
                hidden, normed, rotation = hidden[:, -1:], normed[:, -1:], rotation.last_position()
                mask = None if mask is None else mask[:, :, -1:]
            hidden = hidden + _attend(layer.self_attn, normed, rotation, keys, values, mask)
            hidden = hidden + layer.mlp(_norm(layer.post_attention_layernorm, hidden))
        cache.advance(embeddings.shape[1])
        hidden = hidden[:, -1].to(self._text.norm.weight.device)  # (B, C)
        hidden = _norm(self._text.norm, hidden).to(self._head.weight.device)
        logits: torch.Tensor = self._head(hidden)  # (B, V)
        return logits


def _norm(norm: Qwen2VLRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
    """Normalise by the root mean square, as `norm` does in six operations instead of one."""
    weight = norm.weight
    return functional.rms_norm(hidden, weight.shape, weight, norm.variance_epsilon)


def _remember(
    attention: Qwen2VLAttention,
    number: int,
    normed: torch.Tensor,
    rotation: Rotation,
    cache: KeyValueCache,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the keys and values (B, G, K, S) of all tokens so far, in one layer."""
    keys = _heads(attention, attention.k_proj(normed))  # (B, G, T, S)
    values = _heads(attention, attention.v_proj(normed))  # (B, G, T, S)
    return cache.append(number, rotation.turn(keys), values)


def _attend(
    attention: Qwen2VLAttention,
    normed: torch.Tensor,
    rotation: Rotation,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Return what tokens (B, T, C) see of the keys and values (B, G, K, S)."""
    rows, tokens, _ = normed.shape
    query = rotation.turn(_heads(attention, attention.q_proj(normed)))  # (B, H, T, S)
    sharing = attention.num_key_value_groups  # heads that share a key-value head
    if tokens == 1:
        # These heads are then like further tokens, and keys need no copies.
        query = query.view(rows, -1, sharing, attention.head_dim)  # (B, G, H / G, S)
    else:
        keys = keys.repeat_interleave(sharing, dim=1)  # (B, H, K, S)
        values = values.repeat_interleave(sharing, dim=1)  # (B, H, K, S)
    seen = functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=mask is None and tokens > 1
    )
    seen = seen.view(rows, -1, tokens, attention.head_dim)  # (B, H, T, S)
    mixed: torch.Tensor = attention.o_proj(seen.transpose(1, 2).flatten(2))  # (B, T, C)
    return mixed


def _heads(attention: Qwen2VLAttention, states: torch.Tensor) -> torch.Tensor:
    """Split projected states (B, T, heads * S) into heads: (B, heads, T, S)."""
    rows, tokens, _ = states.shape
    return states.view(rows, tokens, -1, attention.head_dim).transpose(1, 2)
