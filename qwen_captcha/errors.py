"""The exceptions that callers may receive, each class with its HTTP status and slug.

Views and the service raise them; one handler in `api/routes.py` renders them. A message is a
sentence for the caller, without paths, stack traces or secrets.

    CaptchaServiceError  500 internal_error
      InternalError  500 internal_error
      BadRequest  400 bad_request
        MissingImage  400 missing_image
        EmptyImage  400 empty_image
        InvalidBase64  400 invalid_base64
        InvalidOption  400 invalid_option
        ClientDisconnected  400 client_disconnected
      Unauthorized  401 unauthorized
      OriginNotAllowed  403 origin_not_allowed
      NotFound  404 not_found
        UnknownRequest  404 unknown_request
      MethodNotAllowed  405 method_not_allowed
      Gone  410 gone
      TooLarge  413 too_large
        BodyTooLarge  413 body_too_large
        ImageTooLarge  413 image_too_large
        TooManyPixels  413 too_many_pixels
        TooManyFrames  413 too_many_frames
        TooManyImages  413 too_many_images
      UnsupportedImageType  415 unsupported_image_type
      UndecodableImage  422 undecodable_image
      UnreadableShape  422 unreadable_shape
      RateLimited  429 rate_limited
      ServiceUnavailable  503 unavailable
        QueueFull  503 queue_full
        ModelLoading  503 model_loading
        ModelFailed  503 model_failed
        Draining  503 draining
        OutOfMemory  503 out_of_memory
        EngineFailed  503 engine_failed
          EngineUnreachable  503 engine_unreachable
        EngineBusy  503 engine_busy
      EngineRejected  500 engine_rejected
      DeadlineExceeded  504 deadline_exceeded
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
        elsewhere: Whether another instance can take the request now. False for a full queue:
            the other instances then have as much work, and the requests would add to it.
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
    """A bug; the message contains no more than that the request or the image failed."""


class BadRequest(CaptchaServiceError):
    """The request is malformed."""

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
    """The value of an option is not allowed; the message names the option and what is allowed."""

    error_type = "invalid_option"


class ClientDisconnected(BadRequest):
    """The client disconnected while the image waited; the model did not read it."""

    error_type = "client_disconnected"


class Unauthorized(CaptchaServiceError):
    """The service requires an API key, and the request has no valid one."""

    status = 401
    error_type = "unauthorized"


class OriginNotAllowed(CaptchaServiceError):
    """A browser sent the request for a page whose origin is not in CORS_ORIGINS."""

    status = 403
    error_type = "origin_not_allowed"


class NotFound(CaptchaServiceError):
    """No such route."""

    status = 404
    error_type = "not_found"


class UnknownRequest(NotFound):
    """No image is stored for the request that the feedback names."""

    error_type = "unknown_request"


class MethodNotAllowed(CaptchaServiceError):
    """The route exists for another method."""

    status = 405
    error_type = "method_not_allowed"


class Gone(CaptchaServiceError):
    """A route of another server that this one does not offer; the message names the alternative."""

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
    """The bytes are not of a supported image format."""

    status = 415
    error_type = "unsupported_image_type"


class UndecodableImage(CaptchaServiceError):
    """The bytes begin like an image but cannot be decoded."""

    status = 422
    error_type = "undecodable_image"


class UnreadableShape(CaptchaServiceError):
    """The image decodes, but the model does not support its aspect ratio."""

    status = 422
    error_type = "unreadable_shape"


class RateLimited(CaptchaServiceError):
    """Too many requests with one key or from one address."""

    status = 429
    error_type = "rate_limited"


class ServiceUnavailable(CaptchaServiceError):
    """The service does not accept the request now; a later retry may succeed."""

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
    """The model failed while serving."""

    error_type = "model_failed"
    elsewhere = True


class Draining(ServiceUnavailable):
    """The service is shutting down and accepts no new requests."""

    error_type = "draining"
    elsewhere = True


class OutOfMemory(ServiceUnavailable):
    """A single image does not fit into the device's memory."""

    error_type = "out_of_memory"


class EngineFailed(ServiceUnavailable):
    """The engine behind the service failed, or its reply is not usable."""

    error_type = "engine_failed"


class EngineUnreachable(EngineFailed):
    """No connection to the engine behind the service."""

    error_type = "engine_unreachable"


class EngineBusy(ServiceUnavailable):
    """The engine behind the service accepts no more requests at the moment."""

    error_type = "engine_busy"


class EngineRejected(CaptchaServiceError):
    """The engine behind the service rejects the request; a retry does not help."""

    error_type = "engine_rejected"


class DeadlineExceeded(CaptchaServiceError):
    """The answer was not ready before the request's deadline."""

    status = 504
    error_type = "deadline_exceeded"


def every_error_type() -> Iterator[type[CaptchaServiceError]]:
    """Yield each class of the tree once, base first."""
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
