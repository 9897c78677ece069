"""The engine of a model of transformers, with the configuration of its processor."""

from __future__ import annotations

from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from qwen_captcha.backends.qwen2vl.engine import Qwen2VLEngine
from qwen_captcha.backends.qwen2vl.preprocessing import Preprocessor, ProcessorConfig
from qwen_captcha.backends.qwen2vl.pytorch.model import PyTorchCache, PyTorchModel
from qwen_captcha.backends.qwen2vl.vocabulary import Vocabulary, named_end_ids


def create_engine(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor
) -> Qwen2VLEngine[PyTorchCache]:
    """Return the engine that reads images with a loaded model and its processor."""
    vocabulary = Vocabulary(
        processor.tokenizer.backend_tokenizer,
        model.lm_head.out_features,
        end_token_ids(model, processor),
    )
    return Qwen2VLEngine(PyTorchModel(model), Preprocessor(processor_config(processor)), vocabulary)


def processor_config(processor: Qwen2VLProcessor) -> ProcessorConfig:
    """Return the preprocessing of a processor."""
    images = processor.image_processor

    def tokenize(prompt: str) -> list[int]:
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = processor.tokenizer(text)["input_ids"]
        return ids

    return ProcessorConfig(
        tokenize=tokenize,
        special_tokens=tuple(processor.tokenizer.get_added_vocab()),
        image_token_id=processor.image_token_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        patch_size=images.patch_size,
        merge_size=images.merge_size,
        pixel_range=(images.size["shortest_edge"], images.size["longest_edge"]),
        rescale_factor=images.rescale_factor,
        mean=images.image_mean,
        deviation=images.image_std,
    )


def end_token_ids(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor
) -> frozenset[int]:
    """Return every token with which an answer of this checkpoint can end."""
    return named_end_ids(
        processor.tokenizer.backend_tokenizer,
        model.config.text_config.eos_token_id,
        model.generation_config.eos_token_id,
        processor.tokenizer.eos_token_id,
    )
