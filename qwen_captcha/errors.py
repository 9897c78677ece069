"""The one exception tree that callers may meet, each class with its HTTP status and slug.

Responsible for: what can go wrong while a captcha is read, as data. Views and the service raise;
one handler in `routes.py` renders. Invariant: a message is a sentence for the caller, without
paths, stack traces or secrets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar


class CaptchaServiceError(Exception):
    """Base of every error that has an HTTP status.

    Attributes:
        status: HTTP status code of the reply.
        error_type: Stable slug, the `error_type` field of the reply.
        retry_after_s: Seconds after which a retry makes sense, or None where waiting does
            not help. Sent as `Retry-After`.
        elsewhere: Whether another instance can take the request now. Not where this one has too
            much work: others then have as much, and would get all of this one's on top.
    """

    status: ClassVar[int] = 500
    error_type: ClassVar[str] = "internal_error"
    elsewhere: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s


# Retry-After of an error whose end cannot be estimated, in seconds.
DEFAULT_RETRY_S = 5
NO_MEMORY = "The image does not fit into the memory that is left; please retry."
REQUEST_FAILED = "The service failed on this request."
IMAGE_FAILED = "The model failed on this image; the service has logged why."


class InternalError(CaptchaServiceError):
    """A bug; the message is that the request or the image failed, and never more than that."""


class BadRequest(CaptchaServiceError):
    """The request cannot be understood."""

    status = 400
    error_type = "bad_request"


class MissingImage(BadRequest):
    """No image was sent in any of the accepted forms."""

    error_type = "missing_image"


class EmptyImage(BadRequest):
    """An image field or body of zero bytes was sent."""

    error_type = "empty_image"


class InvalidBase64(BadRequest):
    """The text in a base64 field is not base64."""

    error_type = "invalid_base64"


class InvalidOption(BadRequest):
    """An option has a value that is not allowed; the message names the option and what is."""

    error_type = "invalid_option"


class CallerLeft(BadRequest):
    """The caller hung up while the image waited for the model, which was not asked then."""

    error_type = "caller_left"


class Unauthorized(CaptchaServiceError):
    """The service wants an API key, and the request has none that it knows."""

    status = 401
    error_type = "unauthorized"


class OriginNotAllowed(CaptchaServiceError):
    """A browser asks for a page of an origin that is not in CORS_ORIGINS."""

    status = 403
    error_type = "origin_not_allowed"


class NotFound(CaptchaServiceError):
    """No such route."""

    status = 404
    error_type = "not_found"


class UnknownRequest(NotFound):
    """No image is kept for the request that the feedback is about."""

    error_type = "unknown_request"


class MethodNotAllowed(CaptchaServiceError):
    """The route exists for another method."""

    status = 405
    error_type = "method_not_allowed"


class Gone(CaptchaServiceError):
    """The route of another server that this one does not offer; the message names the other way."""

    status = 410
    error_type = "gone"


class TooLarge(CaptchaServiceError):
    """The request is over a size limit."""

    status = 413
    error_type = "too_large"


class BodyTooLarge(TooLarge):
    """The request body is over its limit."""

    error_type = "body_too_large"


class ImageTooLarge(TooLarge):
    """One image has too many bytes."""

    error_type = "image_too_large"


class TooManyPixels(TooLarge):
    """One image has too many pixels."""

    error_type = "too_many_pixels"


class TooManyFrames(TooLarge):
    """An animation has too many frames."""

    error_type = "too_many_frames"


class TooManyImages(TooLarge):
    """A batch has too many images."""

    error_type = "too_many_images"


class UnsupportedImageType(CaptchaServiceError):
    """The bytes are of no format that is read."""

    status = 415
    error_type = "unsupported_image_type"


class UndecodableImage(CaptchaServiceError):
    """The bytes begin like an image but cannot be decoded."""

    status = 422
    error_type = "undecodable_image"


class UnreadableShape(CaptchaServiceError):
    """The image decodes, but its aspect ratio is beyond what the model can be shown."""

    status = 422
    error_type = "unreadable_shape"


class RateLimited(CaptchaServiceError):
    """Too many requests with one key or from one address."""

    status = 429
    error_type = "rate_limited"


class ServiceUnavailable(CaptchaServiceError):
    """The request cannot be taken now; a later retry may succeed."""

    status = 503
    error_type = "unavailable"


class QueueFull(ServiceUnavailable):
    """The queue is full, or its estimated wait exceeds the request's deadline."""

    error_type = "queue_full"


class ModelLoading(ServiceUnavailable):
    """The model is not loaded yet."""

    error_type = "model_loading"
    elsewhere = True


class ModelFailed(ServiceUnavailable):
    """The model broke while serving."""

    error_type = "model_failed"
    elsewhere = True


class Draining(ServiceUnavailable):
    """The service is shutting down and takes no new work."""

    error_type = "draining"
    elsewhere = True


class OutOfMemory(ServiceUnavailable):
    """One image alone did not fit into the device's memory."""

    error_type = "out_of_memory"


class EngineFailed(ServiceUnavailable):
    """The engine behind the service broke, or its reply cannot be used."""

    error_type = "engine_failed"


class EngineUnreachable(EngineFailed):
    """No connection to the engine behind the service."""

    error_type = "engine_unreachable"


class EngineBusy(ServiceUnavailable):
    """The engine behind the service takes no more work at this moment."""

    error_type = "engine_busy"


class EngineRefused(CaptchaServiceError):
    """The engine behind the service refuses what it is sent; waiting does not help."""

    error_type = "engine_refused"


class DeadlineExceeded(CaptchaServiceError):
    """The answer was not ready before the request's deadline."""

    status = 504
    error_type = "deadline_exceeded"


def every_error_type() -> Iterator[type[CaptchaServiceError]]:
    """Yield each class of the tree once, base first, for the docs and their test."""
    stack: list[type[CaptchaServiceError]] = [CaptchaServiceError]
    while stack:
        error = stack.pop(0)
        yield error
        stack.extend(error.__subclasses__())


class ModelLoadError(Exception):
    """The model cannot be loaded; the message is the one line that a user reads."""


def error_body(error_type: str, message: str) -> dict[str, object]:
    """Return the JSON object of an error."""
    return {
        "success": False,
        "text": "",
        "confidence": 0.0,
        "error": message,
        "error_type": error_type,
    }


def load_failure(error: Exception) -> str:
    """Return one line about what went wrong while loading."""
    if isinstance(error, MemoryError):
        return "it does not fit into the memory; choose a smaller model with QWEN_MODEL."
    return " ".join(str(error).split()) or type(error).__name__
