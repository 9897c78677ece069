"""One forward pass over labelled pictures of one size: each token given the ones before it.

The tokens before an answer are those that the service sends: the chat template's, with the image
in place. It works for a checkpoint of any size and vocabulary.

Dims: B batch, T tokens, A tokens of an answer, P patches an image, N cells an image, C tokens
chosen among, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from qwen_captcha.backends.qwen2vl.preprocessing import Grid, Preprocessor
from qwen_captcha.backends.qwen2vl.pytorch.processor import processor_config
from qwen_captcha.backends.qwen2vl.vocabulary import DRAFT_TEXT
from qwen_captcha.fitting.learning.sampled_vocabulary import IGNORED, SampledVocabulary
from qwen_captcha.fitting.learning.vision import encode_images
from qwen_captcha.recognition.reading import GenerationRequest

END = "<|im_end|>"


@dataclass(frozen=True)
class Outcome:
    """Losses and hits of one batch."""

    losses: torch.Tensor  # (B,) mean cross entropy of an answer's tokens
    right: torch.Tensor  # (B,) bool: greedy decoding would give exactly the text


class TeacherForcing:
    """Computes the losses of a model on labelled pictures.

    Args:
        model: What learns; its modules may have adapters.
        processor: The checkpoint's.
        prompt: What the model is asked.
    """

    def __init__(
        self, model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, prompt: str
    ) -> None:
        self._model = model
        self._tokenizer = processor.tokenizer
        self._image_token_id: int = processor.image_token_id
        self._preprocessor = Preprocessor(processor_config(processor))
        self._prompt = prompt
        self._end: int = self._tokenizer.convert_tokens_to_ids(END)
        [self._guess] = self._tokens(DRAFT_TEXT)

    def losses(
        self, pictures: Sequence[Image.Image], texts: Sequence[str], unaided_share: float = 0.0
    ) -> Outcome:
        """Return the outcome of pictures of one size, a multiple of the cell's.

        Args:
            pictures: RGB.
            texts: What each of them shows.
            unaided_share: Share of the answers that are to be given at once, as if nothing of
                them were known. The service drafts several tokens ahead of the certain ones, and
                a draft saves a pass where it is right.
        """
        device = self._model.device
        width, height = pictures[0].size
        prompts = self._preprocessor.prepare(
            [GenerationRequest(picture, self._prompt, 1) for picture in pictures],
            pixel_range=(width * height, width * height),
        )
        unaided = torch.rand(len(texts)) < unaided_share
        ids, targets = self._rows(torch.as_tensor(prompts.input_ids), texts, unaided)
        positions = _with_answers(torch.as_tensor(prompts.position_ids), ids.shape[1])
        patches = torch.as_tensor(prompts.pixel_values).to(device)  # (B * P, values)
        states = self._states(
            ids.to(device),
            positions.to(device),
            patches.view(len(pictures), -1, patches.shape[-1]),
            prompts.grids[0],
        )  # (B, T, D)
        targets = targets.to(device)
        vocabulary = self._vocabulary(targets)
        logits = vocabulary.logits(
            states[:, prompts.input_ids.shape[1] - 1 :], self._model.lm_head.weight
        )
        losses = vocabulary.losses(logits, targets)  # (B, A)
        counted = targets != IGNORED
        right = ((vocabulary.ids[logits.argmax(-1)] == targets) | ~counted).all(dim=1)
        return Outcome(losses.sum(dim=1) / counted.sum(dim=1), right)

    def token_ids(self, texts: Iterable[str]) -> list[int]:
        """Return the tokens that occur in answers of some texts, each once, sorted."""
        return sorted({self._end, *(token for text in texts for token in self._tokens(text))})

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _rows(
        self, prompts: torch.Tensor, texts: Sequence[str], unaided: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return input ids (B, T) and the targets of the answer (B, A), padded on the right.

        Args:
            prompts: Token ids of one length, (B, tokens of the prompt).
            texts: The answers.
            unaided: (B,) bool.
        """
        start = prompts.shape[1]
        answers = [torch.tensor([*self._tokens(text), self._end]) for text in texts]
        longest = max(map(len, answers))
        ids = torch.full((len(texts), start + longest - 1), self._end)
        ids[:, :start] = prompts
        targets = torch.full((len(texts), longest), IGNORED)
        for row, answer in enumerate(answers):
            ids[row, start : start + len(answer) - 1] = answer[:-1]
            targets[row, : len(answer)] = answer
        ids[unaided, start:] = self._guess
        return ids, targets

    def _states(
        self, ids: torch.Tensor, positions: torch.Tensor, patches: torch.Tensor, grid: Grid
    ) -> torch.Tensor:
        """Return the text model's states (B, T, D).

        Args:
            ids: (B, T).
            positions: M-RoPE positions, (3, B, T).
            patches: Of one frame, (B, P, values).
            grid: Patches of each image.
        """
        model = self._model.model
        merge_size: int = model.visual.spatial_merge_size
        cells = (grid.rows // merge_size, grid.columns // merge_size)
        seen = model.visual.merger(encode_images(model.visual, patches, cells))  # (B * N, D)
        is_image = ids == self._image_token_id
        embeddings = model.get_input_embeddings()(ids)
        embeddings = embeddings.masked_scatter(is_image[..., None], seen.to(embeddings.dtype))
        states: torch.Tensor = model.language_model(
            inputs_embeds=embeddings, position_ids=positions, use_cache=False
        ).last_hidden_state  # no padding mask: padding is on the right, the causal mask hides it
        return states

    def _vocabulary(self, targets: torch.Tensor) -> SampledVocabulary:
        size = self._model.lm_head.weight.shape[0]
        if torch.is_grad_enabled():
            return SampledVocabulary.sample(targets, size)
        return SampledVocabulary.whole(size, targets.device)


def _with_answers(positions: torch.Tensor, length: int) -> torch.Tensor:
    """Return positions of prompts (3, B, tokens) gone on with to a length (3, B, T)."""
    further = torch.arange(1, length - positions.shape[-1] + 1)
    return torch.cat([positions, positions[..., -1:] + further], dim=-1)
