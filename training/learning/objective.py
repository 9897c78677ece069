"""The training forward pass: patches, teacher-forced tokens, four losses, exact match.

The main loss is the next token's cross entropy. The auxiliary losses train the vision encoder: it
learns where each drawn character stands (`auxiliary_heads.py`), which gets the model off its first
plateau, and to spell the text column by column (`column_head.py`), so that it omits none.

Dims: B batch, C channels, H/W pixels, R/K rows and columns of cells, P patches an image,
T tokens, A tokens of an answer, V vocabulary, C tokens chosen among, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration

from qwen_captcha.backends.qwen2vl.vocabulary import DRAFT_TEXT
from qwen_captcha.fitting.learning.sampled_vocabulary import IGNORED, SampledVocabulary
from qwen_captcha.fitting.learning.vision import RunBlock, encode_images, run_block
from training.build import MERGE_SIZE, PATCH_SIZE, SPECIAL_TOKENS
from training.learning.auxiliary_heads import GlyphHeads
from training.learning.column_head import ColumnHead
from training.learning.dataset import Batch
from training.rendering.alphabet import is_hanzi

# OpenAI CLIP's normalisation, the image processor's default.
_MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
_STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
_ID = {token: index for index, token in enumerate(SPECIAL_TOKENS)}


def to_patches(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 images (B, H, W, 3) into one frame's patches (B, P, C * 14 * 14).

    The order is the image processor's: cell by cell, within a cell row by row.
    """
    batch, height, width, channels = images.shape
    pixels = (images.float() / 255 - _MEAN.to(images.device)) / _STD.to(images.device)
    rows, columns = height // PATCH_SIZE // MERGE_SIZE, width // PATCH_SIZE // MERGE_SIZE
    pixels = pixels.view(
        batch, rows, MERGE_SIZE, PATCH_SIZE, columns, MERGE_SIZE, PATCH_SIZE, channels
    )
    pixels = pixels.permute(0, 1, 4, 2, 5, 7, 3, 6)  # (B, R, K, 2, 2, C, 14, 14)
    return pixels.reshape(batch, rows * columns * MERGE_SIZE**2, -1)


def readable(
    losses: torch.Tensor, targets: torch.Tensor, groups: torch.Tensor, excluded_share: float
) -> torch.Tensor:
    """Return which images (B,) to learn from: all but the worst read of each group.

    A tenth of what the renderer draws cannot be read: text in its background's colour, under lines
    or in a heap; it was 43 % of the loss. Source: the trimmed loss of Shen and Sanghavi 2019,
    https://arxiv.org/abs/1810.11874.

    Args:
        losses: Of each token, (B, A), 0 after an answer's end.
        targets: Token ids, (B, A), `IGNORED` after an answer's end.
        groups: (B,) what is ranked by itself: answers given at once are worse, and Chinese
            characters less learnt; neither makes them unreadable.
        excluded_share: Of each group.
    """
    means = losses.detach().sum(dim=1) / targets.ne(IGNORED).sum(dim=1)
    kept = torch.ones_like(means, dtype=torch.bool)
    groups = groups.to(means.device)
    for group in set(groups.tolist()):
        rows = torch.nonzero(groups == group).flatten()
        worst = means[rows].argsort(descending=True)[: int(excluded_share * len(rows))]
        kept[rows[worst]] = False
    return kept


@dataclass(frozen=True)
class Outcome:
    """Losses and hits of one batch."""

    token_loss: torch.Tensor  # scalar
    glyph_loss: torch.Tensor  # scalar: which character stands in each box
    order_loss: torch.Tensor  # scalar: which patch belongs to which character of the label
    column_loss: torch.Tensor  # scalar: the text spelt along the columns
    exact: torch.Tensor  # (B,) bool: greedy decoding would give exactly the label
    caseless: torch.Tensor  # (B,) bool: up to letter case
    unaided: torch.Tensor  # (B,) bool: read at once, no character given the ones before it


class Objective(nn.Module):
    """Wraps a model and its auxiliary heads into one forward pass over a batch.

    Args:
        model: What learns.
        tokenizer: Its tokenizer.
        run_block: Runs one vision block.
        unaided_share: Share of images whose answer the model gives at once, as if nothing of it
            were known: the service drafts several tokens ahead of the certain ones, and such
            draft tokens are worth the more the oftener they are right. Source: the parallel
            decoding of Ghazvininejad et al. 2019, https://arxiv.org/abs/1904.09324, in its first
            step.
        excluded_share: Share of a batch, the worst read, from which nothing is learnt.
    """

    def __init__(
        self,
        model: Qwen2VLForConditionalGeneration,
        tokenizer: PreTrainedTokenizerFast,
        run_block: RunBlock = run_block,
        unaided_share: float = 0.0,
        excluded_share: float = 0.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.run_block = run_block
        self.unaided_share = unaided_share
        self.excluded_share = excluded_share
        vocabulary = model.config.text_config.vocab_size
        self.glyph_heads = GlyphHeads(model.config.vision_config.embed_dim)
        self.column_head = ColumnHead(model.config.vision_config.embed_dim)
        self.register_buffer("lower", self._lower_ids(vocabulary), persistent=False)

    def _lower_ids(self, vocabulary: int) -> torch.Tensor:
        """Return for each token id (V,) the id of its lower-case form."""
        ids = torch.arange(vocabulary)
        for upper in "ABCDEFGHIJKLMNOPQRSTUVWXYZ":
            ids[self._encode(upper)] = self._encode(upper.lower())[0]
        return ids

    def heads(self) -> dict[str, torch.Tensor]:
        """Return the weights of the auxiliary heads, which no checkpoint for reading has."""
        parts = ("glyph_heads.", "column_head.")
        return {name: value for name, value in self.state_dict().items() if name.startswith(parts)}

    def load_heads(self, weights: dict[str, torch.Tensor]) -> None:
        """Take the weights of the auxiliary heads from another run.

        Raises:
            RuntimeError: They are of another shape.
        """
        self.load_state_dict(self.state_dict() | weights)

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text))

    def _tokens(
        self, labels: list[str], cells: int, unaided: torch.Tensor, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return input ids (B, T) and the targets of the answer (B, A), right-padded."""
        draft_token = self._encode(DRAFT_TEXT)[0]
        prefix = [_ID["<|vision_start|>"], *[_ID["<|image_pad|>"]] * cells, _ID["<|vision_end|>"]]
        answers = [[*self._encode(label), _ID["<|im_end|>"]] for label in labels]
        longest = max(map(len, answers))
        ids = torch.full((len(labels), len(prefix) + longest - 1), _ID["<|endoftext|>"])
        targets = torch.full((len(labels), longest), IGNORED)
        for row, answer in enumerate(answers):
            ids[row, : len(prefix)] = torch.tensor(prefix)
            ids[row, len(prefix) : len(prefix) + len(answer) - 1] = torch.tensor(answer[:-1])
            if unaided[row]:
                ids[row, len(prefix) :] = draft_token
            targets[row, : len(answer)] = torch.tensor(answer)
        return ids.to(device), targets.to(device)

    def forward(self, batch: Batch) -> Outcome:
        """Return the outcome of a batch."""
        device = self.model.device
        images, labels = batch.images.to(device), batch.labels
        boxes, boxed = batch.boxes.to(device), batch.boxed.to(device)
        _, height, width, _ = images.shape
        grid = (height // PATCH_SIZE // MERGE_SIZE, width // PATCH_SIZE // MERGE_SIZE)
        cells = grid[0] * grid[1]
        unaided = torch.rand(len(labels)) < self.unaided_share
        ids, targets = self._tokens(labels, cells, unaided, images.device)
        patches = encode_images(
            self.model.model.visual, to_patches(images), grid, self.run_block
        )  # (B, P, D)
        hidden = self._decode(ids, self.model.model.visual.merger(patches), grid)
        vocabulary = self._vocabulary(targets)
        embedding = self.model.lm_head.weight
        logits = vocabulary.logits(hidden[:, cells + 1 :], embedding)  # (B, A, C)
        losses = vocabulary.losses(logits, targets)  # (B, A)
        exact, caseless = self._hits(vocabulary.ids[logits.argmax(-1)], targets)
        chinese = torch.tensor([any(map(is_hanzi, label)) for label in labels])
        rendered = torch.tensor([not family for family in batch.families])
        kept = readable(losses, targets, 2 * chinese + unaided, self.excluded_share)
        kept |= ~rendered.to(device)  # what a real generator draws is what is to be read
        token_loss = losses[kept].sum() / targets[kept].ne(IGNORED).sum()
        placed = kept & boxed
        if placed.any():
            glyph_loss, order_loss = self.glyph_heads(
                patches[placed], grid, boxes[placed], targets[placed], vocabulary, embedding
            )
        else:
            glyph_loss = order_loss = token_loss.new_zeros(())
        spelt = kept & batch.one_line.to(device)
        column_loss = self.column_head(patches[spelt], grid, targets[spelt], vocabulary, embedding)
        return Outcome(token_loss, glyph_loss, order_loss, column_loss, exact, caseless, unaided)

    def _vocabulary(self, targets: torch.Tensor) -> SampledVocabulary:
        size = self.model.config.text_config.vocab_size
        if self.training:
            return SampledVocabulary.sample(targets, size)
        return SampledVocabulary.whole(size, targets.device)

    def _decode(
        self, ids: torch.Tensor, cells: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """Return the text model's states (B, T, D) from ids (B, T) and cells (B * N, D)."""
        is_image = ids == _ID["<|image_pad|>"]
        embeddings = self.model.model.get_input_embeddings()(ids)
        embeddings = embeddings.masked_scatter(is_image[..., None], cells.to(embeddings.dtype))
        thw = torch.tensor([[1, grid[0] * MERGE_SIZE, grid[1] * MERGE_SIZE]] * len(ids))
        positions, _ = self.model.model.get_rope_index(
            ids, mm_token_type_ids=is_image.int(), image_grid_thw=thw.to(ids.device)
        )
        states: torch.Tensor = self.model.model.language_model(
            inputs_embeds=embeddings, position_ids=positions, use_cache=False
        ).last_hidden_state  # no padding mask: padding is on the right, the causal mask hides it
        return states

    def _hits(
        self, predicted: torch.Tensor, targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        ignored = targets == IGNORED
        exact = ((predicted == targets) | ignored).all(dim=1)
        lower: torch.Tensor = self.lower  # type: ignore[assignment]
        same = lower[predicted] == lower[targets.clamp_min(0)]
        return exact, (same | ignored).all(dim=1)
